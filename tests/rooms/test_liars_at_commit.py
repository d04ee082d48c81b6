"""One object that the store lies about, or does not tell of, gets no receipt and spoils no other."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from services.vault.contract import wire
from services.vault.contract.client import VaultRefused
from services.vault.stores.s3 import S3Store
from services.vault.sweeping import STRAY
from tests.rooms.liar import LOCK, Answer, Gateway, Request, gated, truthful
from tests.rooms.sealed import Room, ask, local, open_recording, room_of, settings_of
from tests.system import System

__all__ = ["local"]
Gated = tuple[System, Gateway]


@pytest.fixture(scope="module")
def rig(minio_binary: Path) -> Iterator[Gated]:
    """Its sweeper looks after a second."""
    hasty = {"sweep_after_seconds": "1", "sweep_every_seconds": "0.2", "sweep_for_seconds": "600"}
    with gated(minio_binary, **hasty) as made:
        yield made


@pytest.fixture
async def room(rig: Gated) -> AsyncIterator[Room]:
    system, _ = rig
    async with room_of(system, S3Store(settings_of(system))) as room:
        yield room


@contextmanager
def lying(gate: Gateway, key: str, lie: Callable[[Gateway, Request], Answer]) -> Iterator[None]:
    """`lie` answers each HEAD of what lies under `key`."""

    def answer(gate: Gateway, request: Request) -> Answer:
        told = request.method != "HEAD" or key not in request.target
        return gate.forward(request) if told else lie(gate, request)

    gate.lie = answer
    try:
        yield
    finally:
        gate.lie = truthful


def tells(changed: dict[str, str | None]) -> Callable[[Gateway, Request], Answer]:
    """All is told as it is but for `changed`; None is left out."""

    def lie(gate: Gateway, request: Request) -> Answer:
        answer = gate.forward(request)
        told = {name: value for name, value in {**answer.headers, **changed}.items() if value is not None}
        return Answer(answer.status, told)

    return lie


def answers(status: int) -> Callable[[Gateway, Request], Answer]:
    return lambda _gate, _request: Answer(status)


def too_late(_: Gateway, __: Request) -> Answer:
    time.sleep(14)
    return Answer(503)


async def put_two(room: Room, recording: UUID) -> list[wire.SegmentAsk]:
    """Asked for and put, and not committed."""
    pieces = [secrets.token_bytes(1000), secrets.token_bytes(1000)]
    asks = [ask(n, data) for n, data in enumerate(pieces)]
    tickets = (await room.client.exchange(recording, wire.ExchangeRequest(asks=asks))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        for ticket in tickets:
            (await store.put(ticket.url, content=pieces[ticket.sequence], headers=ticket.headers)).raise_for_status()
    return asks


def committing(*asks: wire.SegmentAsk) -> wire.ExchangeRequest:
    return wire.ExchangeRequest(commits=[wire.SegmentName(sequence=a.sequence, sha256=a.sha256) for a in asks])


@pytest.mark.parametrize(
    "changed",
    [
        {LOCK + "mode": None},
        {LOCK + "mode": "GOVERNANCE"},
        {LOCK + "retain-until-date": None},
        {LOCK + "retain-until-date": "2026-12-01T00:00:00Z"},
        {"x-amz-checksum-sha256": "A" * 43 + "="},
        {"x-amz-checksum-sha256": None},
        {"content-length": "999"},
        {"x-amz-version-id": None},
    ],
    ids=str,
)
async def test_what_the_store_tells_otherwise_is_not_sealed(
    rig: Gated, room: Room, changed: dict[str, str | None]
) -> None:
    _, gate = rig
    recording = await open_recording(room.client)
    wrong = f"recordings/{recording}/0000000000-"
    with lying(gate, wrong, tells(changed)):
        liar, neighbour = await put_two(room, recording)
        done = await room.client.exchange(recording, committing(liar, neighbour))
        assert [(one.sequence, one.slug) for one in done.problems] == [(0, "stored-differs")]
        assert [one.sequence for one in done.sealed] == [1]

        key = wrong + liar.sha256
        async with asyncio.timeout(30):
            while not await room.told(STRAY, key):
                await asyncio.sleep(0.1)
        strays = f"SELECT key || ' ' || why FROM vault.strays WHERE recording_id = '{recording}'"
        assert room.system.stack.postgres.run_sql(strays).strip().split("\n") == [f"{key} differs"]
        assert [one.slug for one in (await room.client.exchange(recording, committing(liar))).problems] == [
            "stored-differs"
        ]
    # It was the store's word alone that was wrong.
    assert [one.sequence for one in (await room.client.exchange(recording, committing(liar))).sealed] == [0]


def slugs_of(done: wire.ExchangeResult) -> list[tuple[int, str]]:
    return [(one.sequence, one.slug) for one in done.problems]


@pytest.mark.parametrize("fault", [answers(500), answers(503), too_late], ids=["500", "503", "too late"])
async def test_what_the_store_does_not_tell_of_is_a_problem_of_its_own(
    rig: Gated, room: Room, fault: Callable[[Gateway, Request], Answer]
) -> None:
    _, gate = rig
    recording = await open_recording(room.client)
    with lying(gate, f"recordings/{recording}/0000000000-", fault):
        untold, neighbour = await put_two(room, recording)
        both = committing(untold, neighbour)
        done = await room.client.exchange(recording, both.model_copy(update={"asks": [ask(2, b"new")]}))
        assert slugs_of(done) == [(0, "store-unavailable")]
        assert ([one.sequence for one in done.sealed], [one.sequence for one in done.tickets]) == ([1], [2])
        # Where nothing else comes of it, the call as a whole is to be made again.
        with pytest.raises(VaultRefused, match="store-unavailable"):
            await room.client.exchange(recording, committing(untold))
    assert [one.sequence for one in (await room.client.exchange(recording, committing(untold))).sealed] == [0]


async def test_the_sweeper_goes_on_behind_what_the_store_does_not_tell_of(rig: Gated, room: Room) -> None:
    _, gate = rig
    first, second = await open_recording(room.client), await open_recording(room.client)
    sql = room.system.stack.postgres.run_sql

    def rows(recording: UUID) -> list[str]:
        query = f"SELECT sequence, state FROM vault.segments WHERE recording_id = '{recording}' ORDER BY sequence"
        return sql(query).split()

    def sealed() -> bool:
        return rows(first)[1:] == ["1|sealed"] and rows(second) == ["0|sealed", "1|sealed"]

    with lying(gate, f"recordings/{first}/0000000000-", answers(500)):
        await put_two(room, first)
        await put_two(room, second)
        async with asyncio.timeout(20):
            while not sealed():
                await asyncio.sleep(0.1)
        waits = f"SELECT sweep_at - now() > interval '60 s' FROM vault.segments WHERE recording_id = '{first}' AND"
        assert sql(f"{waits} state = 'asked'").strip() == "t"
    sql(f"UPDATE vault.segments SET sweep_at = now() WHERE recording_id = '{first}' AND state = 'asked'")
    async with asyncio.timeout(20):
        while rows(first) != ["0|sealed", "1|sealed"]:
            await asyncio.sleep(0.1)


async def test_a_closing_waits_for_what_the_store_does_not_tell_of(rig: Gated, room: Room) -> None:
    """Whether it is a stray or to be sealed beside the others nobody knows yet."""
    _, gate = rig
    recording = await open_recording(room.client)
    room.system.stack.postgres.run_sql(f"UPDATE vault.recordings SET key_id = NULL WHERE id = '{recording}'")
    with lying(gate, f"recordings/{recording}/0000000000-", answers(500)):
        _, neighbour = await put_two(room, recording)
        assert (await room.client.exchange(recording, committing(neighbour))).sealed
        with pytest.raises(VaultRefused, match="store-unavailable"):
            await room.client.close_by_server(recording, wire.CloseByServer(reason="lost"))
    closed = await room.client.close_by_server(recording, wire.CloseByServer(reason="lost"))
    assert closed.segments == 2
    strays = f"SELECT count(*) FROM vault.strays WHERE recording_id = '{recording}'"
    assert room.system.stack.postgres.run_sql(strays).strip() == "0"


async def test_a_file_that_the_disk_does_not_give_back_spoils_no_other(local: Room) -> None:
    recording = await open_recording(local.client)
    unreadable, neighbour = ask(0, b"unreadable"), ask(1, b"neighbour")
    asked = await local.client.exchange(recording, wire.ExchangeRequest(asks=[unreadable, neighbour]))
    ticket = next(one for one in asked.tickets if one.sequence == 1)
    async with httpx.AsyncClient(trust_env=False) as store:
        (await store.put(ticket.url, content=b"neighbour", headers=ticket.headers)).raise_for_status()
    root = settings_of(local.system).local_root
    assert root
    path = root / "evidence" / f"recordings/{recording}/0000000000-{unreadable.sha256}"
    path.symlink_to("/proc/self/mem")  # opens, and reading it gives EIO
    try:
        done = await local.client.exchange(recording, committing(unreadable, neighbour))
    finally:
        path.unlink()
    assert slugs_of(done) == [(0, "store-unavailable")]
    assert [one.sequence for one in done.sealed] == [1]
    assert slugs_of(await local.client.exchange(recording, committing(unreadable))) == [(0, "not-stored")]
