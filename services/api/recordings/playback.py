"""HLS of the sealed segments, byte for byte: live while the recording runs, whole once it is closed.

Every playlist and every segment is asked for under a viewing that stands in the log; the bytes come from the
store by a read ticket that stays between vault, api and store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.database import Sessions
from services.api.errors import NoSuchSegment
from services.api.identity.principal import Principal
from services.api.recordings import service
from services.api.recordings.models import Recording, Segment, Viewing
from services.api.recordings.queries import as_played
from services.api.recordings.reading import Reader
from services.vault.contract import wire

_POLL_SECONDS = 0.1
_LONG = 500
"""Segments from which writing them out would hold up whoever else is served."""


async def playlist(sessions: Sessions, who: Principal, viewing_id: UUID, *, wait_for: int | None, target: int) -> str:
    """The viewing's playlist. `wait_for` (`_HLS_msn`) holds the answer until that segment is sealed, the
    recording is closed, or three target durations have passed (RFC 8216bis, blocking playlist reload)."""
    deadline = asyncio.get_running_loop().time() + 3 * target
    while True:
        async with sessions.begin() as db:
            viewing, recording = await service.viewing_of(db, who, viewing_id)
            await service.keep_watching(db, recording)
            listed = await _listed(db, viewing, recording)
        last = listed[-1].sequence if listed else -1
        reached = wait_for is None or last >= wait_for or recording.state == "closed"
        if reached or not await _grown(sessions, recording, deadline):
            if len(listed) < _LONG:
                return _render(viewing, recording, listed)
            return await asyncio.to_thread(_render, viewing, recording, listed)


async def _grown(sessions: Sessions, recording: Recording, deadline: float) -> bool:
    """Wait for another sealed segment or the closing; False at the deadline. One row is read a look, however
    long the list is."""
    seen = (recording.segments, recording.state)
    query = select(col(Recording.segments), col(Recording.state)).where(col(Recording.id) == recording.id)
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        async with sessions() as db:
            if tuple((await db.execute(query)).one()) != seen:
                return True
    return False


async def segment(
    sessions: Sessions, reader: Reader, who: Principal, viewing_id: UUID, name: str
) -> tuple[int, AsyncIterator[bytes]]:
    """Size and bytes of one sealed segment. Raises NoSuchSegment, VaultUnavailable."""
    sequence, _, sha256 = name.partition("-")
    async with sessions() as db:
        _, recording = await service.viewing_of(db, who, viewing_id)
        key = (recording.id, int(sequence), sha256)
        if int(sequence) > wire.MAX_SEQUENCE or await db.get(Segment, key) is None:
            raise NoSuchSegment
    return await reader.stream(recording.id, wire.SegmentName(sequence=int(sequence), sha256=sha256))


async def _listed(db: AsyncSession, viewing: Viewing, recording: Recording) -> list[Any]:
    """The init segment and the media that the viewing may list now."""
    columns = (Segment.sequence, Segment.sha256, Segment.media, Segment.started_at, Segment.duration_ms)
    query = as_played(recording.id, *columns, Segment.begins_anew)
    query = query.where((col(Segment.sequence) == 0) | (col(Segment.sequence) >= viewing.first_sequence))
    found = (await db.execute(query)).all()
    init = [s for s in found if s.media == "init"]
    media = [s for s in found if s.media == "media" and s.sequence >= viewing.first_sequence]
    if recording.state == "open":
        # A hole may still be filled: what lies beyond it is shown once it is, in order.
        media = [s for place, s in enumerate(media, viewing.first_sequence) if s.sequence == place]
    return init[:1] + media


def _render(viewing: Viewing, recording: Recording, listed: Sequence[Any]) -> str:
    init = [segment for segment in listed if segment.media == "init"]
    media = [segment for segment in listed if segment.media == "media"]
    # Segments get no longer while somebody watches, so this does not change once the first is listed.
    longest = max((math.ceil(segment.duration_ms / 1000) for segment in media), default=1)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:9",
        f"#EXT-X-TARGETDURATION:{longest}",
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES",
        f"#EXT-X-MEDIA-SEQUENCE:{media[0].sequence if media else viewing.first_sequence}",
    ]
    ts = recording.container == "ts"
    if init:
        lines.append(f'#EXT-X-MAP:URI="segments/{init[0].sequence}-{init[0].sha256}.mp4"')
    expected = media[0].sequence if media else 0
    for segment in media if init or ts else []:
        if segment.sequence != expected or (segment.begins_anew and segment is not media[0]):
            lines.append("#EXT-X-DISCONTINUITY")
        expected = segment.sequence + 1
        lines += [
            f"#EXT-X-PROGRAM-DATE-TIME:{wire.rfc3339(segment.started_at)}",
            f"#EXTINF:{segment.duration_ms / 1000:.3f},",
            f"segments/{segment.sequence}-{segment.sha256}.{'ts' if ts else 'm4s'}",
        ]
    if recording.state == "closed":
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"
