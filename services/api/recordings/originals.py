"""The original of a closed recording: its sealed segments end to end, whole or by range, checked as they pass.

The segments are those that the recording plays, in order, so the file is what was sealed and nothing else. It is the
same under every viewing of the recording, with the same ETag: a download that broke off goes on under another one.
What was learned of the viewing holds for one batch of segments; then it is looked at again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import BigInteger, Integer, Select, String, cast, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.database import Sessions
from services.api.errors import ApiError, RangeUnsatisfiable, RecordingEmpty
from services.api.identity.principal import Principal
from services.api.recordings import service
from services.api.recordings.models import Recording, Segment
from services.api.recordings.queries import as_played
from services.api.recordings.reading import Reader
from services.vault.contract import ranges, wire
from services.vault.contract.client import VaultRefused, VaultUnreachable

_log = logging.getLogger("quancheng.recordings")
_BATCH_BYTES = wire.MAX_SEGMENT_BYTES
"""Bytes fetched under one batch of tickets: at a megabit a second they still last."""
_TYPES = {
    "mp4": "video/mp4",
    "ts": "video/mp2t",
    "mov": "video/quicktime",
    "avi": "video/vnd.avi",
    "mkv": "video/matroska",
    "jpg": "image/jpeg",
    "png": "image/png",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "pdf": "application/pdf",
    "bin": "application/octet-stream",
}


@dataclass(frozen=True)
class Original:
    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]


async def download(
    sessions: Sessions,
    reader: Reader,
    who: Principal,
    viewing: UUID,
    range_: str | None,
    if_range: str | None,
    *,
    shown: bool = False,
) -> Original:
    """To be taken along, or, of a single file, `shown` in the browser, for which a viewing is enough. Raises
    NoSuchViewing, ViewingLapsed, NotPermitted, ViewingOnly, NotPlayable, RecordingEmpty, RangeUnsatisfiable,
    VaultUnreachable, and VaultRefused for what was disposed of."""
    allowed = service.file_of if shown else service.original_of
    async with sessions() as db:
        recording = await allowed(db, who, viewing)
        size, digest = (await db.execute(_whole(recording.id))).one()
        if not size:
            raise RecordingEmpty
        etag = f'"{digest}"'
        try:
            part = ranges.asked(range_, if_range, etag, size)
        except ranges.Unsatisfiable as error:
            raise RangeUnsatisfiable(size=size) from error
        first, end = part or (0, size)
        begin = (await db.execute(_at(recording.id, first))).one()
    manner = "inline" if shown else "attachment"
    headers = {
        "content-type": _TYPES[recording.format],
        "content-length": str(end - first),
        "accept-ranges": "bytes",
        "etag": etag,
        "content-disposition": f'{manner}; filename="quancheng-{recording.id}.{recording.format}"',
    }
    if part:
        headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
    reading = _Reading(sessions, reader, who, viewing, recording, allowed)
    skip, length = first - begin.start, end - first
    tickets = await reading.tickets(begin.sequence, skip + length)
    return Original(206 if part else 200, headers, reading.chunks(tickets, skip, length))


@dataclass(frozen=True)
class _Reading:
    sessions: Sessions
    reader: Reader
    who: Principal
    viewing: UUID
    recording: Recording
    allowed: Callable[[AsyncSession, Principal, UUID], Awaitable[Recording]]

    async def chunks(self, tickets: list[wire.ReadTicket], skip: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes, from `skip` into the first of these on."""
        try:
            while True:
                for ticket in tickets:
                    take = min(ticket.size - skip, length)
                    async for chunk in checked(await self.reader.opened(ticket), ticket, skip, take):
                        yield chunk
                    length, skip = length - take, 0
                if not length:
                    return
                tickets = await self.tickets(tickets[-1].sequence + 1, length)
        except (ApiError, VaultRefused, VaultUnreachable, httpx.HTTPError) as error:
            # The connection ends short of what was announced, and whoever fetches goes on from there.
            raise ConnectionResetError("the original ended before its end") from error

    async def tickets(self, sequence: int, length: int) -> list[wire.ReadTicket]:
        """For the segments from `sequence` on that hold `length` bytes, or the first of them; while the viewing
        lasts."""
        query = as_played(self.recording.id, Segment.sequence, Segment.sha256, Segment.size)
        query = query.where(col(Segment.sequence) >= sequence).limit(wire.MAX_ITEMS)
        async with self.sessions() as db:
            await self.allowed(db, self.who, self.viewing)
            found = (await db.execute(query)).all()
        names: list[wire.SegmentName] = []
        size = 0
        for row in found:
            if names and (size >= length or size + row.size > _BATCH_BYTES):
                break
            names.append(wire.SegmentName(sequence=row.sequence, sha256=row.sha256))
            size += row.size
        return await self.reader.tickets(self.recording.id, names)


async def checked(
    stored: AsyncIterator[bytes], ticket: wire.ReadTicket, skip: int, take: int
) -> AsyncIterator[bytes]:
    """`take` bytes of a segment from `skip` on. All of it is read and compared with what was sealed before the last
    of them is given out."""
    digest, at, end, held = hashlib.sha256(), 0, skip + take, b""
    async for chunk in stored:
        digest.update(chunk)
        wanted = chunk[max(0, skip - at) : max(0, end - at)]
        at += len(chunk)
        if wanted and held:
            yield held
        held = wanted or held
    if at != ticket.size or digest.hexdigest() != ticket.sha256:
        _log.error("segment %s %s of a recording is not what was sealed", ticket.sequence, ticket.sha256)
        raise ConnectionResetError(f"segment {ticket.sequence} is not what was sealed")
    yield held


def _whole(recording: UUID) -> Select[Any]:
    """Size of all of it, and what tells it from any other."""
    played = as_played(recording, Segment.sequence, Segment.sha256, Segment.size).subquery()
    name = cast(played.c.sequence, String) + literal("-") + cast(played.c.sha256, String)
    names = func.string_agg(name, aggregate_order_by(literal(" "), played.c.sequence))
    digest = func.encode(func.sha256(func.convert_to(names, "UTF8")), "hex")
    return select(cast(func.sum(played.c.size), BigInteger), digest)


def _at(recording: UUID, place: int) -> Select[*tuple[Any, ...]]:
    """The segment that a byte lies in, and where that begins."""
    played = as_played(recording, Segment.sequence, Segment.size).subquery()
    end = func.sum(played.c.size).over(order_by=played.c.sequence)
    placed = select(played.c.sequence, cast(end, BigInteger).label("end"), (end - played.c.size).label("start"))
    found = placed.subquery()
    start = cast(found.c.start, BigInteger).label("start")
    query: Select[*tuple[Any, ...]] = select(cast(found.c.sequence, Integer).label("sequence"), start)
    return query.where(found.c.end > place).order_by(found.c.sequence).limit(1)
