"""Reads. Every one goes through `visible_to`, which is the room's whole visibility rule."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, false, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.errors import NoSuchRecording
from services.api.identity.models import Person, Unit
from services.api.identity.principal import Principal
from services.api.recorders.models import Heartbeat, Recorder
from services.api.recordings import presence
from services.api.recordings.models import Gap, Held, Recording, Segment, Takeover, Viewing
from services.api.recordings.views import (
    GapRow,
    Lock,
    RecordingDetail,
    RecordingPage,
    RecordingRow,
    SegmentPage,
    SegmentRow,
    State,
    TakeoverView,
)
from services.api.recordings.worth import worth_of
from services.vault.contract.wire import MAX_DIGESTS_PER_SEQUENCE

MAX_LIMIT = 200
_GAPS_SHOWN = 100


def visible_to(who: Principal) -> ColumnElement[bool]:
    """Officers see what their own recorder made, supervisors their unit's; anybody else nothing."""
    if not who.may("see-recordings"):
        return false()
    if who.role == "supervisor":
        return col(Recording.unit_id) == who.unit_id
    if who.role == "officer":
        return col(Recording.officer_id) == who.person_id
    return false()


def as_played(recording: UUID, *columns: Any) -> Select[*tuple[Any, ...]]:
    """The segments of a recording in order, one digest a sequence: once it is closed those that its closings speak
    of, before that the one sealed first."""
    query: Select[*tuple[Any, ...]] = select(*columns).distinct(col(Segment.sequence))
    query = query.where(col(Segment.recording_id) == recording, col(Segment.beside).is_(False))
    return query.order_by(col(Segment.sequence), col(Segment.sealed_at))


async def recordings(
    db: AsyncSession,
    who: Principal,
    *,
    state: State | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> RecordingPage:
    """Open ones first, newest first. A cursor that is not ours is taken as none."""
    query = _rows().where(visible_to(who)).order_by(col(Recording.state).desc(), col(Recording.id).desc())
    if state is not None:
        query = query.where(col(Recording.state) == state)
    if after := _read_cursor(cursor):
        query = query.where(tuple_(col(Recording.state), col(Recording.id)) < after)
    limit = min(limit, MAX_LIMIT)
    found = (await db.execute(query.limit(limit + 1))).all()
    rows = [_row(each) for each in found[:limit]]
    return RecordingPage(rows, _cursor(rows[-1]) if len(found) > limit else None)


async def recording(db: AsyncSession, who: Principal, recording_id: UUID) -> RecordingDetail:
    """Raises NoSuchRecording, alike for what is not there and for what may not be seen."""
    found = (await db.execute(_rows().where(visible_to(who), col(Recording.id) == recording_id))).one_or_none()
    if found is None:
        raise NoSuchRecording
    viewings = await db.scalar(select(func.count()).where(col(Viewing.recording_id) == recording_id))
    kept: Recording = found.Recording
    lock: Lock | None = "compliance" if kept.lock == "compliance" else "none" if kept.lock else None
    by: Literal["terminal", "server"] | None = None
    if kept.closed_by:
        by = "server" if kept.closed_by == "server" else "terminal"
    return RecordingDetail(
        row=_row(found),
        manifest_sha256=kept.manifest_sha256,
        manifest_log_index=None,
        lock=lock,
        viewings=viewings or 0,
        closed_by=by,
        supplements=kept.supplements,
        source_kind=found.kind,
        door="push" if kept.door == "push" else "resumable" if kept.door == "resumable" else "direct",
        container="file" if kept.container == "file" else "ts" if kept.container == "ts" else "fmp4",
        format=kept.format,
        remuxed_by=kept.remuxed_by,
        handover=kept.handover_id,
        worth=worth_of(
            kept.door,
            found.kind,
            signed=kept.key_id is not None,
            taken_over=found.Takeover is not None,
            remuxed=kept.remuxed_by is not None,
            handed_over=kept.handover_id is not None,
        ),
        gaps=await _gaps(db, recording_id),
    )


async def _gaps(db: AsyncSession, recording_id: UUID) -> list[GapRow]:
    query = select(Gap).where(col(Gap.recording_id) == recording_id).order_by(col(Gap.before_sequence), col(Gap.id))
    names = GapRow.__dataclass_fields__
    return [GapRow(**{n: getattr(row, n) for n in names}) for row in await db.scalars(query.limit(_GAPS_SHOWN))]


async def manifest_act(db: AsyncSession, who: Principal, recording_id: UUID) -> UUID | None:
    """The log act of a closed recording's manifest."""
    query = select(col(Recording.manifest_act)).where(visible_to(who), col(Recording.id) == recording_id)
    return await db.scalar(query)


async def segments(
    db: AsyncSession, who: Principal, recording_id: UUID, *, after: int = -1, limit: int = 100
) -> SegmentPage:
    """Sealed segments by sequence, those after `after`. Digests of one sequence are never parted, so a page may
    pass its limit by a few. Raises NoSuchRecording."""
    allowed = select(col(Recording.id)).where(visible_to(who), col(Recording.id) == recording_id)
    if await db.scalar(allowed) is None:
        raise NoSuchRecording
    query = select(Segment).where(col(Segment.recording_id) == recording_id, col(Segment.sequence) > after)
    limit = min(limit, MAX_LIMIT)
    query = query.order_by(col(Segment.sequence), col(Segment.sealed_at)).limit(limit + MAX_DIGESTS_PER_SEQUENCE)
    found = list(await db.scalars(query))
    last = found[limit - 1].sequence if len(found) >= limit else None
    shown = found if last is None else [row for row in found if row.sequence <= last]
    digests = Counter(row.sequence for row in shown)
    names = SegmentRow.__dataclass_fields__.keys() - {"conflicting"}
    rows = [
        SegmentRow(**{name: getattr(row, name) for name in names}, conflicting=digests[row.sequence] > 1)
        for row in shown
    ]
    return SegmentPage(rows, last if len(shown) < len(found) else None)


def _rows() -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = (
        select(
            Recording,
            Held,
            Heartbeat,
            Takeover,
            col(Recorder.name).label("recorder"),
            col(Recorder.kind).label("kind"),
            col(Person.name).label("officer"),
            col(Unit.name).label("unit"),
        )
        .join(Recorder, col(Recorder.id) == col(Recording.recorder_id))
        .join(Unit, col(Unit.id) == col(Recording.unit_id))
        .outerjoin(Person, col(Person.id) == col(Recording.officer_id))
        .outerjoin(Held, col(Held.recording_id) == col(Recording.id))
        .outerjoin(Takeover, col(Takeover.recording_id) == col(Recording.id))
        .outerjoin(Heartbeat, col(Heartbeat.key_id) == col(Recording.key_id))
    )
    return query


def _row(found: Row[Any]) -> RecordingRow:
    kept: Recording = found.Recording
    seen = presence.Seen(kept, found.Held, found.Heartbeat, datetime.now(UTC))
    now = seen.presence()
    return RecordingRow(
        id=kept.id,
        recorder_name=found.recorder,
        officer_name=found.officer,
        unit_name=found.unit,
        state="open" if kept.state == "open" else "closed",
        live=now == "live",
        presence=now,
        held=seen.held_view(),
        spool_full=seen.spool_full(),
        clock_offset_ms=seen.clock_offset_ms(),
        started_at=kept.started_at,
        ended_at=kept.ended_at,
        last_segment_at=kept.last_segment_at,
        segments=kept.segments,
        bytes=kept.bytes,
        seconds=kept.duration_ms / 1000,
        taken_over=_taken_over(found.Takeover),
    )


def _taken_over(kept: Takeover | None) -> TakeoverView | None:
    names = TakeoverView.__dataclass_fields__
    return TakeoverView(**{name: getattr(kept, name) for name in names}) if kept else None


def _cursor(row: RecordingRow) -> str:
    return base64.urlsafe_b64encode(f"{row.state}:{row.id}".encode()).decode()


def _read_cursor(cursor: str | None) -> tuple[str, UUID] | None:
    try:
        state, _, last = base64.urlsafe_b64decode(cursor or "").decode().partition(":")
        return (state, UUID(last)) if state in ("open", "closed") else None
    except (ValueError, binascii.Error):
        return None
