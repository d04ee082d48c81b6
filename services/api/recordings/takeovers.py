"""Files that terminals took over from recorders: nobody streamed them, and their whole is the terminal's word.

So before a closing that names such a file is passed on, what was sealed of it is read once more from the store and
compared: by a job, since a large file takes minutes, and the terminal asks again meanwhile. A file of one segment has
that segment's digest and needs no reading.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api import jobs
from services.api.database import Sessions
from services.api.errors import (
    RecordingDiffers,
    SegmentsOutstanding,
    TakeoverDiffers,
    WholeDiffers,
    WholeUnchecked,
)
from services.api.recordings.contents import root_of, segments_of, whole_of
from services.api.recordings.models import Recording, Takeover
from services.api.recordings.reading import Reader
from services.api.recordings.schemas import NewTakeover
from services.vault.contract import verify, wire

CHECK = "check-takeover"
WAITS = timedelta(days=30)
"""So long its terminal may be silent before the server closes it: the file lies unharmed in its folder, and what is
closed early ends in two manifests."""
_LOOKS, _LOOK_SECONDS = 40, 0.25


async def keep(db: AsyncSession, recording: Recording, file: NewTakeover | None) -> None:
    """What was told first stays. Raises RecordingDiffers where something else is told now."""
    if (recording.container == "file") != (file is not None):
        raise RecordingDiffers
    if file is not None:
        values = {"recording_id": recording.id, **file.model_dump()}
        await db.execute(insert(Takeover).values(values).on_conflict_do_nothing())
    kept = await db.get(Takeover, recording.id)
    if (kept and told_of(kept)) != (file and file.told()):
        raise RecordingDiffers


def told_of(kept: Takeover) -> dict[str, Any]:
    """As the closing says it."""
    return wire.TakenOver.model_validate({name: getattr(kept, name) for name in wire.TakenOver.model_fields}).told()


async def require_whole(sessions: Sessions, recording: UUID, closing: wire.Envelope) -> None:
    """Nothing of a recording that was not taken over. Raises TakeoverDiffers, SegmentsOutstanding, WholeUnchecked,
    WholeDiffers."""
    async with sessions() as db:
        kept = await db.get(Takeover, recording)
    said = _said(closing)
    if said is None or said.get("number"):
        return
    if said.get("taken_over") != (kept and told_of(kept)):
        raise TakeoverDiffers
    if kept is None or said.get("missing"):
        return
    root = kept.root or await _root(sessions, kept)
    if root != said.get("root"):
        raise WholeDiffers


async def _root(sessions: Sessions, kept: Takeover) -> str:
    """Of the segments that are the file."""
    rows = await segments_of(sessions, kept.recording_id)
    if sum(row.size for row in rows) != kept.size:
        raise SegmentsOutstanding
    if len(rows) == 1 and rows[0].sha256 == kept.sha256:
        root = root_of(rows)
        await _keep_root(sessions, kept.recording_id, root)
        return root
    if not kept.differs:
        async with sessions.begin() as db:
            await jobs.enter(db, CHECK, str(kept.recording_id))
    for _ in range(_LOOKS):
        async with sessions() as db:
            now = await db.get_one(Takeover, kept.recording_id)
        if now.differs:
            raise WholeDiffers
        if now.root:
            return now.root
        await asyncio.sleep(_LOOK_SECONDS)
    raise WholeUnchecked


async def check(sessions: Sessions, reader: Reader, subject: str) -> None:
    """The job. Where not all is sealed yet the closing is refused for that, and enters another."""
    async with sessions() as db:
        kept = await db.get(Takeover, UUID(subject))
    if kept is None or kept.root or kept.differs:
        return
    whole = await whole_of(sessions, reader, kept.recording_id)
    if (whole.size, whole.sha256) == (kept.size, kept.sha256):
        await _keep_root(sessions, kept.recording_id, whole.root)
    elif whole.size >= kept.size:
        async with sessions.begin() as db:
            await db.execute(_this(kept.recording_id).values(differs=True))


async def _keep_root(sessions: Sessions, recording: UUID, root: str) -> None:
    async with sessions.begin() as db:
        await db.execute(_this(recording).values(root=root, checked_at=datetime.now(UTC)))


def _this(recording: UUID) -> Any:
    return update(Takeover).where(col(Takeover.recording_id) == recording)


def _said(closing: wire.Envelope) -> dict[str, Any] | None:
    """The payload, unverified: whether it is signed, and well made, is the vault's to say."""
    try:
        return verify.parse_json(verify.unbase64(closing.payload))
    except verify.VerificationError:
        return None
