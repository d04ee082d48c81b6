"""A store that lies about one object when it is committed gets no receipt for it, and spoils no other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from services.vault.contract import wire
from services.vault.stores.s3 import S3Store
from services.vault.sweeping import STRAY
from tests.rooms.liar import LOCK, Answer, Gateway, Request, gated, truthful
from tests.rooms.sealed import Room, ask, open_recording, room_of, settings_of
from tests.system import System

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
def lying(gate: Gateway, key: str, changed: dict[str, str | None]) -> Iterator[None]:
    """Of what lies under `key` the store tells `changed` instead; None is left out."""

    def lie(gate: Gateway, request: Request) -> Answer:
        answer = gate.forward(request)
        if request.method != "HEAD" or key not in request.target:
            return answer
        told = {name: value for name, value in {**answer.headers, **changed}.items() if value is not None}
        return Answer(answer.status, told)

    gate.lie = lie
    try:
        yield
    finally:
        gate.lie = truthful


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
    with lying(gate, wrong, changed):
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
