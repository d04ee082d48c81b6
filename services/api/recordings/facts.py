"""What is known of a recording beside its pictures: gaps, a stop without a closing, a clock that was off, stretches
that show or tell nothing. Facts, for the rooms above to weigh; none of them accuses anybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.identity.principal import Principal
from services.api.recorders.models import ClockOffset
from services.api.recordings import timeline
from services.api.recordings.models import Detection, Recording, Stretch, Takeover
from services.api.recordings.presence import CLOCK_LIMIT_MS
from services.api.recordings.views import Fact, Facts, TimelineGap

_CLOCKS_READ = 200


async def of(db: AsyncSession, who: Principal, recording_id: UUID) -> Facts:
    """In order of time. Raises NoSuchRecording."""
    recording = (await timeline.find(db, who, recording_id)).recording
    shown = await timeline.of(db, recording)
    found = [_gap(one, recording.state) for one in shown.gaps] if recording.container != "file" else []
    found += _clock_off(recording, await _clocks(db, recording))
    if recording.close_reason in ("lost", "revoked", "cancelled"):
        found.append(Fact("not-closed", shown.to_at, shown.to_at, reason=recording.close_reason))
    if (taken := await db.get(Takeover, recording_id)) is not None:
        found.append(Fact("not-live", None, taken.at, reason=taken.reason))
    looked, stretches = await _stretches(db, recording_id)
    found += [Fact(one.kind, one.from_at, one.to_at, one.from_ms, one.to_ms) for one in stretches]
    return Facts(
        items=sorted(found, key=lambda one: (one.from_at or recording.started_at, one.from_ms or 0)),
        unnamed_gaps=shown.unnamed_gaps,
        looked_at=looked.done_at if looked else None,
        not_looked=looked.not_looked if looked else None,
        detector=looked.detector if looked else None,
    )


def _gap(gap: TimelineGap, state: str) -> Fact:
    """What is missing of an open recording may come yet."""
    missing = gap.first_missing is not None
    kind = ("gap-open" if state == "open" else "missing") if missing else "gap"
    first, last = gap.first_missing, gap.last_missing
    reason = ",".join(sorted(gap.kinds)) or None
    return Fact(kind, gap.from_at, gap.to_at, first_missing=first, last_missing=last, reason=reason)


async def _clocks(db: AsyncSession, recording: Recording) -> Sequence[ClockOffset]:
    """What was noted of its key's clock while it was recorded, and the last before that."""
    if recording.key_id is None:
        return []
    until = recording.ended_at or datetime.max.replace(tzinfo=recording.started_at.tzinfo)
    this = (col(ClockOffset.recorder_id) == recording.recorder_id) & (col(ClockOffset.key_id) == recording.key_id)
    earlier = select(func.max(col(ClockOffset.noted_at)))
    before = earlier.where(this, col(ClockOffset.device_time) <= recording.started_at)
    since = func.coalesce(before.scalar_subquery(), recording.started_at)
    query = select(ClockOffset).where(this, col(ClockOffset.noted_at) >= since, col(ClockOffset.device_time) <= until)
    return (await db.scalars(query.order_by(col(ClockOffset.noted_at)).limit(_CLOCKS_READ))).all()


def _clock_off(recording: Recording, noted: Sequence[ClockOffset]) -> Iterator[Fact]:
    """By the recorder's own clock, as everything else is."""
    for place, one in enumerate(noted):
        if abs(one.offset_ms) <= CLOCK_LIMIT_MS:
            continue
        following = noted[place + 1] if place + 1 < len(noted) else None
        since = max(one.device_time, recording.started_at)
        if following is None:
            yield Fact("clock-off", since, recording.ended_at, offset_ms=one.offset_ms)
        else:
            # The clock as it went before it was set.
            until = following.noted_at + timedelta(milliseconds=one.offset_ms)
            yield Fact("clock-off", since, max(since, until), offset_ms=one.offset_ms)


async def _stretches(db: AsyncSession, recording: UUID) -> tuple[Detection | None, Sequence[Stretch]]:
    """Of the newest look."""
    newest = select(Detection).where(col(Detection.recording_id) == recording)
    looked = await db.scalar(newest.order_by(col(Detection.number).desc()).limit(1))
    if looked is None:
        return None, []
    query = select(Stretch).where(col(Stretch.recording_id) == recording, col(Stretch.number) == looked.number)
    return looked, (await db.scalars(query.order_by(col(Stretch.from_ms), col(Stretch.id)))).all()
