"""Recordings of hours, made of one short real one whose pictures come again and again, later each time."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from services.terminal.api import Api
from services.terminal.closing import root_of, signed_closing
from services.vault.contract import wire
from tests.rooms.people import Terminal

_AT_ONCE = wire.MAX_ITEMS


@dataclass(frozen=True)
class Piece:
    """One segment: the sequence it gets, where in the recording it lies, and how long it is."""

    sequence: int
    data: bytes
    at: timedelta
    length: timedelta


def repeated(made: list[bytes], *, count: int, seconds: int = 1) -> Iterator[Piece]:
    """The init segment, then `count` of `seconds` each, of `made`: an init segment and some of one second each."""
    init, *fragments = made
    yield Piece(0, init, timedelta(), timedelta())
    second = _time_of(fragments[1]) - _time_of(fragments[0]) if len(fragments) > 1 else _timescale(init)
    for place in range(count):
        numbers = range(place * seconds, (place + 1) * seconds)
        data = b"".join(_moved(fragments[n % len(fragments)], n * second, n + 1) for n in numbers)
        yield Piece(place + 1, data, timedelta(seconds=place * seconds), timedelta(seconds=seconds))


async def sealed(terminal: Terminal, pieces: Iterable[Piece], began: datetime, *, close: bool = True) -> UUID:
    """A recording of these pieces, sealed by the six steps in bulk; sequences that are left out are missing."""
    recording, asks = uuid7(), []
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
    async with (
        Api(terminal.stack.api_url, terminal.key) as api,
        httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as store,
    ):
        await api.open(recording, began)
        batch: list[Piece] = []
        for piece in pieces:
            batch.append(piece)
            if len(batch) == _AT_ONCE:
                asks += await _seal(api, store, recording, batch, began)
                batch = []
        asks += await _seal(api, store, recording, batch, began)
        if close:
            await api.close(recording, _closing(terminal, recording, asks, began))
    return recording


async def _seal(
    api: Api, store: httpx.AsyncClient, recording: UUID, pieces: list[Piece], began: datetime
) -> list[wire.SegmentAsk]:
    asks = [_ask(piece, began) for piece in pieces]
    asked = await api.exchange(recording, wire.ExchangeRequest(asks=asks))
    data = {ask.sha256: piece.data for ask, piece in zip(asks, pieces, strict=True)}

    async def put(ticket: wire.Ticket) -> None:
        answer = await store.put(ticket.url, content=data[ticket.sha256], headers=ticket.headers)
        assert answer.status_code == 200, answer.text

    await asyncio.gather(*(put(ticket) for ticket in asked.tickets))
    commits = [wire.SegmentName(sequence=a.sequence, sha256=a.sha256) for a in asks]
    done = await api.exchange(recording, wire.ExchangeRequest(commits=commits))
    assert len(done.sealed) == len(pieces), done.problems
    return asks


def _ask(piece: Piece, began: datetime) -> wire.SegmentAsk:
    return wire.SegmentAsk(
        sequence=piece.sequence,
        sha256=hashlib.sha256(piece.data).hexdigest(),
        size=len(piece.data),
        media="media" if piece.sequence else "init",
        started_at=began + piece.at,
        duration_ms=round(piece.length.total_seconds() * 1000),
        monotonic_ms=piece.sequence * 1000,
    )


def _closing(terminal: Terminal, recording: UUID, asks: list[wire.SegmentAsk], began: datetime) -> wire.Envelope:
    there = {ask.sequence for ask in asks}
    last = asks[-1]
    payload = {
        "recording": str(recording),
        "count": len(asks),
        "root": root_of((a.sequence, a.sha256, a.size) for a in asks),
        "missing": [n for n in range(last.sequence) if n not in there],
        "started_at": wire.rfc3339(began),
        "ended_at": wire.rfc3339(last.started_at + timedelta(milliseconds=last.duration_ms)),
        "interrupted": False,
    }
    return signed_closing(payload, terminal.key)


def _moved(fragment: bytes, time: int, number: int) -> bytes:
    """The same pictures at another time of the media's own clock (ISO 14496-12, `tfdt` and `mfhd`)."""
    moved, at = bytearray(fragment), fragment.index(b"mfhd") + 8
    struct.pack_into(">I", moved, at, number)
    at = fragment.index(b"tfdt") + 4
    assert fragment[at] == 1, "a tfdt of 64 bits"
    struct.pack_into(">Q", moved, at + 4, time)
    return bytes(moved)


def _time_of(fragment: bytes) -> int:
    return int(struct.unpack_from(">Q", fragment, fragment.index(b"tfdt") + 8)[0])


def _timescale(init: bytes) -> int:
    at = init.index(b"mdhd") + 4
    return int(struct.unpack_from(">I", init, at + (20 if init[at] else 12))[0])
