"""Heartbeats at the api: the newest of each terminal is kept, it speaks of its own recordings, and never fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.terminal.api import Api, Refused
from services.vault.contract import wire
from services.vault.contract.channel import raw_public
from services.vault.contract.verify import key_id
from tests.rooms.houses import Houses
from tests.rooms.people import Terminal, new_terminal

RUN = str(uuid7())


def held(recording: UUID, pending: int = 0, **changes: Any) -> dict[str, Any]:
    told = {
        "id": str(recording),
        "live": True,
        "next_sequence": pending + 3,
        "pending": pending,
        "pending_bytes": pending * 1_000_000,
        "pending_ms": pending * 4000,
        "oldest_at": wire.rfc3339(datetime.now(UTC)) if pending else None,
    }
    return told | changes


def beat(number: int, *recordings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    told = {
        "run": RUN,
        "monotonic_ms": number,
        "device_time": wire.rfc3339(datetime.now(UTC)),
        "state": "recording",
        "capturing": True,
        "spool_used": 5,
        "spool_limit": 10,
        "spool_full": False,
        "recordings": list(recordings),
    }
    return told | changes


@pytest.fixture
async def terminal(houses: Houses) -> Terminal:
    return await new_terminal(houses.system.stack, houses.here.unit, houses.here.people["first"])


async def tell(terminal: Terminal, told: dict[str, Any]) -> None:
    async with Api(terminal.stack.api_url, terminal.key) as api:
        await api.heartbeat(told)


async def look(houses: Houses, recording: UUID) -> dict[str, Any]:
    answer = await houses.here.clients["supervisor"].get(f"/v1/recordings/{recording}")
    found: dict[str, Any] = answer.json()["row"]
    return found


def silence(houses: Houses, recording: UUID) -> None:
    """Its last segment came a while ago."""
    ago = "UPDATE api.recordings SET last_segment_at = now() - interval '20 seconds'"
    houses.system.stack.postgres.run_sql(f"{ago} WHERE id = '{recording}'")


def rows_of(houses: Houses, table: str, terminal: Terminal) -> list[str]:
    this = key_id(raw_public(terminal.key))
    told = houses.system.stack.postgres.run_sql(
        f"SELECT offset_ms FROM api.{table} WHERE key_id = '{this}' ORDER BY noted_at"
    )
    return told.split()


async def test_a_silent_recording_is_told_from_a_lost_one_and_what_is_missing_is_known(
    houses: Houses, terminal: Terminal
) -> None:
    recording = await terminal.record([b"init", b"1"], close=False)
    assert (await look(houses, recording))["presence"] == "live"
    silence(houses, recording)
    assert (await look(houses, recording))["presence"] == "lost"
    await tell(terminal, beat(1, held(recording, 12), spool_full=True))
    row = await look(houses, recording)
    assert (row["presence"], row["live"], row["spool_full"]) == ("silent", False, True)
    assert (row["held"]["segments"], row["held"]["seconds"], row["held"]["bytes"]) == (12, 48.0, 12_000_000)
    assert row["held"]["recorded"] == 15
    client = houses.here.clients["supervisor"]
    page = " ".join((await client.get(f"/recordings/{recording}")).text.split())
    listed = " ".join((await client.get("/recordings", headers={"hx-request": "true"})).text.split())
    for text in (page, listed):
        assert "录制中，无数据到达" in text and "终端存储已满" in text
        assert "终端尚有 12 个片段（48 秒，12.0 MB）未到" in text
    await tell(terminal, beat(2, held(recording, 12, live=False), state="stopped", capturing=False))
    assert (await look(houses, recording))["presence"] == "stopped"


async def test_the_newest_is_kept_and_one_that_comes_late_changes_nothing(houses: Houses, terminal: Terminal) -> None:
    recording = await terminal.record([b"init", b"1"], close=False)
    await tell(terminal, beat(7, held(recording, 3)))
    await tell(terminal, beat(6, held(recording, 9), spool_full=True))
    row = await look(houses, recording)
    assert (row["held"]["segments"], row["spool_full"]) == (3, False)
    await tell(terminal, beat(1, held(recording, 4), run=str(uuid7())))
    assert (await look(houses, recording))["held"]["segments"] == 4, "another run begins anew"
    count = houses.system.stack.postgres.run_sql(
        f"SELECT count(*) FROM api.heartbeats WHERE recorder_id = '{terminal.recorder}'"
    )
    assert count.strip() == "1"
    shown = (await houses.here.clients["administrator"].get("/v1/recorders")).json()["items"]
    (mine,) = [one for one in shown if one["id"] == str(terminal.recorder)]
    assert (mine["heartbeat"]["spool_used"], mine["heartbeat"]["unheard"]) == (5, 0)


async def test_a_recording_nobody_has_heard_of_is_counted_and_is_no_error(houses: Houses, terminal: Terminal) -> None:
    recording = uuid7()
    await tell(terminal, beat(1, held(recording, 2), held(uuid7())))
    told = houses.system.stack.postgres.run_sql(
        f"SELECT unheard FROM api.heartbeats WHERE recorder_id = '{terminal.recorder}'"
    )
    assert told.strip() == "2"
    async with Api(terminal.stack.api_url, terminal.key) as api:
        await api.open(recording, datetime.now(UTC))
        await api.heartbeat(beat(2, held(recording, 2)))
    assert (await look(houses, recording))["held"]["segments"] == 2


async def test_a_terminal_speaks_of_its_own_recordings_alone(houses: Houses, terminal: Terminal) -> None:
    other = houses.here.open["second"]
    before = await look(houses, other)
    await tell(terminal, beat(1, held(other, 50), spool_full=True))
    after = await look(houses, other)
    assert (after["held"], after["spool_full"]) == (before["held"], False)


async def test_a_clock_that_is_off_is_a_fact_noted_once(houses: Houses, terminal: Terminal) -> None:
    recording = await terminal.record([b"init", b"1"], close=False)

    def told(number: int, ahead: timedelta) -> dict[str, Any]:
        return beat(number, held(recording), device_time=wire.rfc3339(datetime.now(UTC) + ahead))

    for number, ahead in enumerate([timedelta(), timedelta(seconds=20), *[timedelta(hours=3)] * 3, timedelta()]):
        await tell(terminal, told(number, ahead))
        offset = (await look(houses, recording))["clock_offset_ms"]
        assert (offset is None) == (ahead < timedelta(seconds=30))
    noted = [int(each) for each in rows_of(houses, "clock_offsets", terminal)]
    assert len(noted) == 2, "when it went wrong, and when it was right again"
    assert noted[0] == pytest.approx(3 * 3_600_000, abs=10_000) and noted[1] == pytest.approx(0, abs=10_000)
    await tell(terminal, told(9, timedelta(days=-400)))
    page = (await houses.here.clients["supervisor"].get(f"/recordings/{recording}")).text
    assert "比服务器慢 9" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "asleep"},
        {"monotonic_ms": -1},
        {"device_time": "2026-11-23T17:34:40"},
        {"recordings": [held(uuid7()) for _ in range(51)]},
        {"recordings": [held(uuid7(), pending=2**31)]},
        {"spool_used": 2**60},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_what_breaks_the_limits_is_refused(terminal: Terminal, changes: dict[str, Any]) -> None:
    async with Api(terminal.stack.api_url, terminal.key) as api:
        with pytest.raises(Refused) as refused:
            await api.heartbeat(beat(1) | changes)
    assert refused.value.problem.status == 422


async def test_fifty_recordings_at_once_and_twice_the_same_are_taken(houses: Houses, terminal: Terminal) -> None:
    recording = await terminal.record([b"init", b"1"], close=False)
    await tell(terminal, beat(1, held(recording, 1), held(recording, 2), *[held(uuid7()) for _ in range(48)]))
    assert (await look(houses, recording))["held"]["segments"] == 2


async def test_unsigned_heartbeats_are_refused(houses: Houses) -> None:
    url = f"{houses.system.stack.api_url}/v1/recorders/self/heartbeat"
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.put(url, json=beat(1))
    assert (answer.status_code, answer.json()["slug"]) == (401, "not-a-terminal")
