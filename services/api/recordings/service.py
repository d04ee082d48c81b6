"""Verbs on recordings: the terminal opens and exchanges; people register a viewing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api import outbox
from services.api.database import Sessions
from services.api.errors import (
    NoSuchRecording,
    NoSuchViewing,
    NotPlayable,
    RecordingDiffers,
    RecordingOpen,
    ViewingLapsed,
    ViewingOnly,
)
from services.api.identity.principal import Principal
from services.api.outbox import Outgoing
from services.api.recorders.dependencies import Terminal
from services.api.recordings import takeovers
from services.api.recordings.models import Recording, Segment, Viewing
from services.api.recordings.queries import visible_to
from services.api.recordings.schemas import NewRecording, NewViewing
from services.vault.contract import wire
from services.vault.contract.client import VaultClient

VIEWING_LIFETIME = timedelta(minutes=30)
TAKES_ORIGINAL = "original"
SHOWN = frozenset(("mp4", "mov", "avi", "mkv", "ts", "wav", "mp3", "jpg", "png", "pdf"))
"""The formats of single files that are shown: by the browser as they are, or as a rendition."""
_LIVE_BACKLOG = 10
"""Segments before the live edge that a viewing of a running recording begins with."""


async def open_recording(
    sessions: Sessions, vault: VaultClient, terminal: Terminal, recording: UUID, message: NewRecording
) -> str:
    """Returns the recording's state; the same again changes nothing. Raises RecordingDiffers."""
    file = message.taken_over
    values = {
        "id": recording,
        "recorder_id": terminal.recorder_id,
        "unit_id": terminal.unit_id,
        "officer_id": terminal.officer_id,
        "key_id": terminal.key_id,
        "state": "open",
        "started_at": message.started_at,
    } | ({"container": "file", "format": file.format} if file else {})
    async with sessions.begin() as db:
        await db.execute(insert(Recording).values(values).on_conflict_do_nothing())
        kept = await db.get_one(Recording, recording)
        if (kept.recorder_id, kept.key_id) != (terminal.recorder_id, terminal.key_id):
            raise RecordingDiffers
        await takeovers.keep(db, kept, file)
    opening = wire.OpenRecording(
        source=terminal.recorder_id,
        key_id=terminal.key_id,
        started_at=kept.started_at,
        format=cast(Any, kept.format),
    )
    await vault.open(recording, opening)
    return kept.state


async def exchange(
    sessions: Sessions,
    vault: VaultClient,
    terminal: Terminal,
    recording: UUID,
    request: wire.ExchangeRequest,
    *,
    segment_seconds: int,
) -> wire.ExchangeResult:
    """Pass asks and commits on to the vault and index what it sealed. A crash in between loses nothing: the
    terminal commits again and gets the same receipts, which are then indexed."""
    watched_until = await require_own(sessions, terminal, recording)
    result = await vault.exchange(recording, request)
    if result.sealed:
        async with sessions.begin() as db:
            await index(db, recording, [columns(segment) for segment in result.sealed])
    watched = watched_until is not None and watched_until > datetime.now(UTC)
    return result.model_copy(update={"segment_seconds": 1 if watched else segment_seconds})


async def register_viewing(
    sessions: Sessions, vault: VaultClient, who: Principal, recording: UUID, use: NewViewing
) -> tuple[Viewing, Recording]:
    """Logged before it can be used; whether the original may be taken along is what the log says of it. Raises
    NoSuchRecording, NotPermitted, NotPlayable, RecordingOpen, VaultUnreachable."""
    now = datetime.now(UTC)
    async with sessions.begin() as db:
        kept = await _visible(db, who, recording)
        who.require("view")
        if use.original:
            who.require("export")
        elif kept.container == "file" and kept.format not in SHOWN:
            raise NotPlayable
        if kept.state != "closed" and (use.original or kept.container == "file"):
            raise RecordingOpen
        first = 0 if kept.container == "ts" else 1
        if kept.state != "closed":
            first = max(first, await _last_sequence(db, recording) - _LIVE_BACKLOG)
        until = now + VIEWING_LIFETIME
        viewing = Viewing(
            id=uuid7(),
            recording_id=recording,
            person_id=who.person_id,
            purpose=use.purpose,
            note=use.note,
            at=now,
            until=until,
            first_sequence=first,
        )
        fields = {
            "recording": str(recording),
            "person": str(who.person_id),
            "purpose": use.purpose,
            "until": wire.rfc3339(until),
        } | use.note_digest()
        if use.original:
            fields["takes"] = TAKES_ORIGINAL
        await outbox.enter(db, viewing.id, "viewing", fields, now)
        db.add(viewing)
    await outbox.tell(sessions, vault, viewing.id)
    return viewing, kept


async def viewing_of(db: AsyncSession, who: Principal, viewing: UUID) -> tuple[Viewing, Recording]:
    """A viewing that may be used now: this person's, in the log, not lapsed, its recording still visible.
    Raises NoSuchViewing, ViewingLapsed."""
    query = select(Viewing, Recording).join(Recording, col(Recording.id) == col(Viewing.recording_id))
    query = query.join(Outgoing, col(Outgoing.act) == col(Viewing.id))
    query = query.where(col(Viewing.id) == viewing, col(Viewing.person_id) == who.person_id)
    query = query.where(col(Outgoing.log_index).is_not(None), visible_to(who))
    found = (await db.execute(query)).one_or_none()
    if found is None or not who.may("view"):
        raise NoSuchViewing
    if found.Viewing.until <= datetime.now(UTC):
        raise ViewingLapsed
    return found.Viewing, found.Recording


async def original_of(db: AsyncSession, who: Principal, viewing: UUID) -> Recording:
    """The recording whose sealed bytes this viewing lets its person take along now. Raises NoSuchViewing,
    ViewingLapsed, NotPermitted, ViewingOnly."""
    _, recording = await viewing_of(db, who, viewing)
    who.require("export")
    takes = select(col(Outgoing.fields)["takes"].astext).where(col(Outgoing.act) == viewing)
    if await db.scalar(takes) != TAKES_ORIGINAL:
        raise ViewingOnly
    return recording


async def file_of(db: AsyncSession, who: Principal, viewing: UUID) -> Recording:
    """The single file that this viewing lets its person look at. Raises NoSuchViewing, ViewingLapsed, NotPlayable."""
    _, recording = await viewing_of(db, who, viewing)
    if recording.container != "file" or recording.format not in SHOWN:
        raise NotPlayable
    return recording


async def keep_watching(db: AsyncSession, recording: Recording) -> None:
    """While a playlist is fetched, the terminal is told to cut one-second segments."""
    now = datetime.now(UTC)
    if recording.state == "open" and (recording.watched_until or now) < now + timedelta(seconds=10):
        watched = update(Recording).where(col(Recording.id) == recording.id)
        await db.execute(watched.values(watched_until=now + timedelta(seconds=20)))


async def _visible(db: AsyncSession, who: Principal, recording: UUID) -> Recording:
    kept = await db.scalar(select(Recording).where(visible_to(who), col(Recording.id) == recording))
    if kept is None:
        raise NoSuchRecording
    return kept


async def require_own(sessions: Sessions, terminal: Terminal, recording: UUID) -> datetime | None:
    """Until when the recording is watched. Raises NoSuchRecording unless it is this terminal's."""
    query = select(col(Recording.watched_until)).where(col(Recording.id) == recording)
    async with sessions() as db:
        found = (await db.execute(query.where(col(Recording.recorder_id) == terminal.recorder_id))).one_or_none()
    if found is None:
        raise NoSuchRecording
    return found.watched_until  # type: ignore[no-any-return]


async def _last_sequence(db: AsyncSession, recording: UUID) -> int:
    return await db.scalar(select(func.max(col(Segment.sequence))).where(col(Segment.recording_id) == recording)) or 0


async def index(db: AsyncSession, recording: UUID, sealed: Sequence[dict[str, Any]]) -> None:
    """Take up sealed segments (columns of `Segment`) that are not there yet, and count them."""
    # In one order everywhere, so that two exchanges over the same segments cannot block each other.
    ordered = sorted({(one["sequence"], one["sha256"]): one for one in sealed}.items())
    values = [{"recording_id": recording, **one} for _, one in ordered]
    fresh = insert(Segment).values(values).on_conflict_do_nothing().returning(Segment)
    added = (await db.scalars(fresh)).all()
    if not added:
        return
    counted = update(Recording).where(col(Recording.id) == recording)
    await db.execute(
        counted.values(
            segments=col(Recording.segments) + len(added),
            bytes=col(Recording.bytes) + sum(s.size for s in added),
            duration_ms=col(Recording.duration_ms) + sum(s.duration_ms for s in added),
            last_segment_at=func.greatest(col(Recording.last_segment_at), max(s.sealed_at for s in added)),
            lock=added[0].lock,
        )
    )


def columns(segment: wire.SealedSegment) -> dict[str, Any]:
    return segment.model_dump(exclude={"receipt"}) | {"key_id": segment.receipt.signatures[0].keyid}
