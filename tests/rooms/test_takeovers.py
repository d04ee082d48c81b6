"""A file that a terminal takes over, at the api: told once, compared with what is sealed before it is closed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from services.api.database import sessions_of
from services.api.recordings import manifests
from services.terminal.api import Api, Refused
from services.terminal.closing import root_of, signed_closing
from services.vault.contract import wire
from tests.rooms.houses import Houses
from tests.rooms.people import Terminal, new_terminal

PARTS = [b"first half", b"other half"]
AT = wire.rfc3339(datetime.now(UTC))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file(**changes: Any) -> dict[str, Any]:
    whole = b"".join(PARTS)
    told = {"sha256": digest(whole), "size": len(whole), "format": "avi", "at": AT, "reason": "recovered"}
    return told | {"modified_at": AT, "created_at": None} | changes


@pytest.fixture
async def terminal(houses: Houses) -> Terminal:
    return await new_terminal(houses.system.stack, houses.here.unit, houses.here.people["first"])


@pytest.fixture
async def api(terminal: Terminal) -> AsyncIterator[Api]:
    async with Api(terminal.stack.api_url, terminal.key) as opened:
        yield opened


async def opened(api: Api, **changes: Any) -> UUID:
    recording = uuid7()
    await api.open(recording, datetime.fromisoformat(AT), file(**changes) | {"file_name": "现场.avi", "note": None})
    return recording


async def seal(api: Api, recording: UUID, parts: list[bytes]) -> list[wire.SegmentAsk]:
    asks = [
        wire.SegmentAsk(
            sequence=n,
            sha256=digest(part),
            size=len(part),
            media="media",
            started_at=datetime.fromisoformat(AT),
            duration_ms=0,
            monotonic_ms=0,
        )
        for n, part in enumerate(parts)
    ]
    asked = await api.exchange(recording, wire.ExchangeRequest(asks=asks))
    async with httpx.AsyncClient(trust_env=False) as store:
        for ticket, part in zip(asked.tickets, parts, strict=True):
            assert (await store.put(ticket.url, content=part, headers=ticket.headers)).status_code == 200
    commits = [wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256) for ask in asks]
    assert len((await api.exchange(recording, wire.ExchangeRequest(commits=commits))).sealed) == len(parts)
    return asks


async def close(api: Api, terminal: Terminal, recording: UUID, asks: list[wire.SegmentAsk], **told: Any) -> Any:
    payload: dict[str, Any] = {"recording": str(recording), "count": len(asks), "missing": [], "interrupted": False}
    payload |= {"started_at": AT, "ended_at": AT, "root": root_of((a.sequence, a.sha256, a.size) for a in asks)}
    return await api.close(recording, signed_closing(payload | told, terminal.key))


async def refused(call: Any) -> str:
    with pytest.raises(Refused) as error:
        await call
    return error.value.problem.slug


async def test_what_is_sealed_is_read_and_found_to_be_the_file(api: Api, terminal: Terminal) -> None:
    recording = await opened(api)
    asks = await seal(api, recording, PARTS)
    closed = await close(api, terminal, recording, asks, taken_over=file())
    assert closed.manifest.decoded()["whole"] == {"sha256": file()["sha256"], "size": file()["size"]}
    again = await close(api, terminal, recording, asks, taken_over=file())
    assert again.manifest == closed.manifest


async def test_a_file_that_is_not_what_was_sealed_is_not_closed(api: Api, terminal: Terminal) -> None:
    lie = {"sha256": digest(b"x" * file()["size"])}
    recording = await opened(api, **lie)
    asks = await seal(api, recording, PARTS)
    for _ in range(2):
        assert await refused(close(api, terminal, recording, asks, taken_over=file(**lie))) == "whole-differs"
    alone = await opened(api, size=len(PARTS[0]), **lie)
    asks = await seal(api, alone, PARTS[:1])
    told = file(size=len(PARTS[0]), **lie)
    assert await refused(close(api, terminal, alone, asks, taken_over=told)) == "whole-differs"


async def test_a_file_is_not_closed_before_it_is_all_there_unless_that_is_said(api: Api, terminal: Terminal) -> None:
    recording = await opened(api)
    asks = await seal(api, recording, PARTS[:1])
    assert await refused(close(api, terminal, recording, asks, taken_over=file())) == "segments-outstanding"
    closed = await close(api, terminal, recording, asks, taken_over=file(), missing=[1], interrupted=True)
    assert "whole" not in closed.manifest.decoded()


async def test_what_the_closing_says_is_what_was_said_at_the_opening(api: Api, terminal: Terminal) -> None:
    recording = await opened(api)
    asks = await seal(api, recording, PARTS)
    for told in ({}, {"taken_over": file(reason="no-link")}, {"taken_over": file(modified_at=None)}):
        assert await refused(close(api, terminal, recording, asks, **told)) == "takeover-differs"
    live = await terminal.record([b"init", b"media"], close=False)
    assert await refused(close(api, terminal, live, asks, taken_over=file())) == "takeover-differs"
    other = file(size=21) | {"file_name": "现场.avi", "note": None}
    assert await refused(api.open(recording, datetime.fromisoformat(AT), other)) == "recording-differs"
    assert await refused(api.open(live, datetime.fromisoformat(AT), other)) == "recording-differs"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"size": 64 * 1024**3 + 1}, 413),
        ({"size": 0}, 422),
        ({"format": "exe"}, 422),
        ({"reason": "other"}, 422),
        ({"file_name": ""}, 422),
        ({"file_name": "x" * 501}, 422),
        ({"file_name": "a\x00b"}, 422),
        ({"modified_at": "9999-01-01T00:00:00Z"}, 422),
        ({"more": 1}, 422),
    ],
)
async def test_what_is_no_file_is_not_opened(api: Api, changes: dict[str, Any], status: int) -> None:
    told = file() | {"file_name": "现场.avi", "note": None} | changes
    with pytest.raises(Refused) as error:
        await api.open(uuid7(), datetime.fromisoformat(AT), told)
    assert error.value.problem.status == status


async def test_a_file_whose_terminal_is_away_waits_for_it(houses: Houses, api: Api, terminal: Terminal) -> None:
    stack, recording = houses.system.stack, await opened(api)
    await seal(api, recording, PARTS[:1])
    live = await terminal.record([b"init", b"media"], close=False)
    both = {recording, live}

    async def lost_after(days: int) -> set[UUID]:
        stack.postgres.run_sql(
            f"UPDATE api.recordings SET last_segment_at = now() - interval '{days} days', tried_at = NULL"
            f" WHERE id IN ('{recording}', '{live}')"
        )
        engine = create_async_engine(stack.postgres.dsn("quancheng_api"))
        try:
            return both & set(await manifests.lost(sessions_of(engine), timedelta(days=1)))
        finally:
            await engine.dispose()

    assert await lost_after(29) == {live}
    assert await lost_after(31) == both
