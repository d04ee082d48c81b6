"""HLS of the sealed segments, byte for byte: live while the recording runs, whole once it is closed.

Every playlist and every segment is asked for under a viewing that stands in the log; the bytes come from the
store by a read ticket that stays between vault, api and store.

A playlist is only ever added to (RFC 8216, 6.2.1). A live one waits two seconds for what is missing and then goes on
past it, for this viewing for good: what arrives late shows where the recording is opened anew.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.database import Sessions
from services.api.errors import NoSuchSegment
from services.api.identity.principal import Principal
from services.api.recordings import service
from services.api.recordings.models import Recording, Segment, Viewing
from services.api.recordings.queries import as_played
from services.api.recordings.reading import SHARED_BYTES, Reader
from services.vault.contract import wire

_POLL_SECONDS = 0.1
_HOLE_STANDS = timedelta(seconds=2)
"""How long a live playlist waits for a missing segment once a later one is sealed: some arrive out of order."""
_LONG = 500
"""Segments from which writing them out would hold up whoever else is served."""


@dataclass(frozen=True)
class _List:
    """The init segment and the media that a viewing may list now; `more_at` is when it may list more though nothing
    arrives, `passing` the missing sequences that it goes on past."""

    init: Any | None
    media: Sequence[Any]
    passing: list[list[int]]
    more_at: datetime | None


async def playlist(
    sessions: Sessions,
    who: Principal,
    viewing_id: UUID,
    *,
    wait_for: int | None,
    target: int,
    rendition: bool = False,
) -> str:
    """The viewing's playlist; that of its rendition has a piece for each sealed segment. `wait_for` (`_HLS_msn`)
    holds the answer until that many are listed, the recording is closed, or three target durations have passed
    (RFC 8216bis, blocking playlist reload)."""
    deadline = datetime.now(UTC) + timedelta(seconds=3 * target)
    while True:
        async with sessions.begin() as db:
            viewing, recording = await service.viewing_of(db, who, viewing_id)
            await service.keep_watching(db, recording)
            listed = await _listed(db, viewing, recording)
        reached = wait_for is None or recording.state == "closed"
        reached = reached or viewing.first_sequence + len(listed.media) > (wait_for or 0)
        if reached or not await _grown(sessions, recording, deadline, listed.more_at):
            if len(listed.media) < _LONG:
                return _render(viewing, recording, listed, rendition)
            return await asyncio.to_thread(_render, viewing, recording, listed, rendition)


async def _grown(sessions: Sessions, recording: Recording, deadline: datetime, more_at: datetime | None) -> bool:
    """Wait for another sealed segment, the closing, or `more_at`; False at the deadline. One row is read a look,
    however long the list is."""
    seen = (recording.segments, recording.state)
    query = select(col(Recording.segments), col(Recording.state)).where(col(Recording.id) == recording.id)
    while (now := datetime.now(UTC)) < deadline:
        if more_at is not None and now >= more_at:
            return True
        await asyncio.sleep(_POLL_SECONDS)
        async with sessions() as db:
            if tuple((await db.execute(query)).one()) != seen:
                return True
    return False


async def segment(
    sessions: Sessions, reader: Reader, who: Principal, viewing_id: UUID, name: str
) -> tuple[int, AsyncIterator[bytes]]:
    """Size and bytes of one sealed segment. Raises NoSuchSegment, VaultUnavailable."""
    async with sessions() as db:
        _, recording = await service.viewing_of(db, who, viewing_id)
        kept = await find(db, recording.id, name)
    named = wire.SegmentName(sequence=kept.sequence, sha256=kept.sha256)
    if kept.size > SHARED_BYTES:
        return await reader.stream(recording.id, named)
    return kept.size, _at_once(await reader.checked(recording.id, named))


async def find(db: AsyncSession, recording: UUID, name: str) -> Segment:
    """A segment by its name in a playlist, `sequence-sha256`. Raises NoSuchSegment."""
    sequence, _, sha256 = name.partition("-")
    key = (recording, int(sequence), sha256)
    kept = await db.get(Segment, key) if int(sequence) <= wire.MAX_SEQUENCE else None
    if kept is None:
        raise NoSuchSegment
    return kept


async def _at_once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _listed(db: AsyncSession, viewing: Viewing, recording: Recording) -> _List:
    columns = (Segment.sequence, Segment.sha256, Segment.media, Segment.started_at, Segment.duration_ms)
    query = as_played(recording.id, *columns, Segment.begins_anew, Segment.sealed_at)
    query = query.where((col(Segment.sequence) == 0) | (col(Segment.sequence) >= viewing.first_sequence))
    found = (await db.execute(query)).all()
    init = next((s for s in found if s.media == "init"), None)
    media = [s for s in found if s.media == "media" and s.sequence >= viewing.first_sequence]
    media = [s for s in media if not _within(viewing.passed, s.sequence)]
    if recording.state != "open":
        return _List(init, media, [], None)
    listed = _past_holes(init, media, viewing, datetime.now(UTC))
    if listed.passing:
        noted = update(Viewing).where(col(Viewing.id) == viewing.id)
        await db.execute(noted.values(passed=col(Viewing.passed).op("||")(listed.passing)))
    return listed


def _within(ranges: Sequence[Sequence[int]], sequence: int) -> bool:
    place = bisect_right(ranges, sequence, key=lambda each: each[0])
    return place > 0 and sequence <= ranges[place - 1][1]


def _past_holes(init: Any | None, media: Sequence[Any], viewing: Viewing, now: datetime) -> _List:
    """`media` up to the first hole that is too young to be passed."""
    # When the first was sealed of those from each place on: since then it is known that what is before is missing.
    known = list(accumulate((s.sealed_at for s in reversed(media)), min))[::-1]
    passing: list[list[int]] = []
    passed = {first: last + 1 for first, last in viewing.passed}
    expected = viewing.first_sequence
    for place, segment in enumerate(media):
        expected = passed.get(expected, expected)
        if segment.sequence > expected:
            if known[place] + _HOLE_STANDS > now:
                return _List(init, media[:place], passing, known[place] + _HOLE_STANDS)
            passing.append([expected, segment.sequence - 1])
        expected = segment.sequence + 1
    return _List(init, media, passing, None)


def _render(viewing: Viewing, recording: Recording, listed: _List, rendition: bool) -> str:
    init, media = listed.init, listed.media
    ts, folder = recording.container == "ts", "" if rendition else "segments/"
    ending = "ts" if ts and not rendition else "m4s"
    # Segments get no longer while somebody watches, so this does not change once the first is listed.
    longest = max((math.ceil(segment.duration_ms / 1000) for segment in media), default=1)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:9",
        f"#EXT-X-TARGETDURATION:{longest}",
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES",
        f"#EXT-X-MEDIA-SEQUENCE:{viewing.first_sequence}",
    ]
    if rendition and media:
        lines.append('#EXT-X-MAP:URI="init.mp4"')
    elif init:
        lines.append(f'#EXT-X-MAP:URI="segments/{init.sequence}-{init.sha256}.mp4"')
    expected = media[0].sequence if media else 0
    for segment in media if init or ts else []:
        if segment.sequence != expected or (segment.begins_anew and segment is not media[0]):
            lines.append("#EXT-X-DISCONTINUITY")
        expected = segment.sequence + 1
        lines += [
            f"#EXT-X-PROGRAM-DATE-TIME:{wire.rfc3339(segment.started_at)}",
            f"#EXTINF:{segment.duration_ms / 1000:.3f},",
            f"{folder}{segment.sequence}-{segment.sha256}.{ending}",
        ]
    if recording.state == "closed":
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"
