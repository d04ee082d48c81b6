"""One recording from end to end by the recorder's clock: where there are pictures, where there are none, and why.

Contiguous segments become one span where they lie, in the database, by one scan of the recording's own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.errors import NoSuchRecording
from services.api.identity.principal import Principal
from services.api.recordings.models import Gap, Recording
from services.api.recordings.queries import visible_to
from services.api.recordings.views import Span, Timeline, TimelineGap

MAX_SPANS = 200
NOTICED = timedelta(seconds=1)
"""The shortest pause between two segments that counts as one."""
_GAPS_READ = 5000
# A span ends where a sequence is missing or the clock does not go on where it was, forward or back.
_SPANS = text("""
WITH played AS (
    SELECT DISTINCT ON (sequence) sequence, started_at,
        started_at + duration_ms * interval '1 millisecond' AS ended_at
    FROM api.segments WHERE recording_id = :recording AND media = 'media' AND NOT beside
    ORDER BY sequence, sealed_at
), followed AS (
    SELECT *, sequence = lag(sequence) OVER inorder + 1
        AND started_at - lag(ended_at) OVER inorder BETWEEN -CAST(:noticed AS interval) AND :noticed AS goes_on
    FROM played WINDOW inorder AS (ORDER BY sequence)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE goes_on IS NOT TRUE) OVER (ORDER BY sequence) AS span FROM followed
)
SELECT min(sequence) AS first, max(sequence) AS last, min(started_at) AS from_at, max(ended_at) AS to_at
FROM numbered GROUP BY span ORDER BY span
""")


@dataclass(frozen=True)
class Found:
    """A recording that may be seen, and what its timeline is known by while nothing is added to it."""

    recording: Recording
    etag: str


async def find(db: AsyncSession, who: Principal, recording: UUID) -> Found:
    """Raises NoSuchRecording."""
    kept = await db.scalar(select(Recording).where(visible_to(who), col(Recording.id) == recording))
    if kept is None:
        raise NoSuchRecording
    gaps = await db.scalar(select(func.count()).where(col(Gap.recording_id) == recording))
    return Found(kept, f'"{kept.state}-{kept.segments}-{kept.supplements}-{gaps}"')


async def of(db: AsyncSession, recording: Recording) -> Timeline:
    rows = (await db.execute(_SPANS, {"recording": recording.id, "noticed": NOTICED})).all()
    query = select(Gap).where(col(Gap.recording_id) == recording.id).order_by(col(Gap.before_sequence), col(Gap.id))
    noted = list(await db.scalars(query.limit(_GAPS_READ)))
    spans = [Span(row.from_at, row.to_at, row.first, row.last) for row in rows]
    first = 0 if recording.container == "ts" else 1
    gaps = _gaps(spans, noted, Span(recording.started_at, recording.started_at, first - 1, first - 1))
    shown, named, unnamed = _coarse(spans, gaps)
    stretches: list[Span | TimelineGap] = [*spans, *gaps]
    begun = min((one.from_at for one in stretches), default=recording.started_at)
    return Timeline(
        state="open" if recording.state == "open" else "closed",
        from_at=begun,
        to_at=max((one.to_at for one in stretches), default=begun),
        spans=shown,
        gaps=named,
        unnamed_gaps=unnamed,
    )


def _gaps(spans: Sequence[Span], noted: Sequence[Gap], before: Span) -> list[TimelineGap]:
    """What lies between the spans, before the first and after the last. `before` stands for what comes before all."""
    found, rest = [], list(noted)
    for last, following in zip([before, *spans], spans, strict=False):
        own = []
        while rest and rest[0].before_sequence <= following.first_sequence:
            own.append(rest.pop(0))
        missing = following.first_sequence - last.last_sequence - 1
        paused = last is not before and following.from_at - last.to_at > NOTICED
        if own or missing or paused:
            found.append(_gap(own, last.to_at, following.from_at, last.last_sequence, missing))
    if rest:
        found.append(_gap(rest, rest[0].from_at, rest[-1].to_at, spans[-1].last_sequence if spans else 0, 0))
    return found


def _gap(noted: Sequence[Gap], from_at: datetime, to_at: datetime, last: int, missing: int) -> TimelineGap:
    kinds: dict[Any, None] = dict.fromkeys(gap.kind for gap in noted)
    # A clock that was set back leaves a gap of no length: it is named, and takes no room.
    return TimelineGap(
        from_at=from_at,
        to_at=max(from_at, to_at),
        kinds=list(kinds),
        first_missing=last + 1 if missing else None,
        last_missing=last + missing if missing else None,
    )


def _coarse(spans: list[Span], gaps: list[TimelineGap]) -> tuple[list[Span], list[TimelineGap], int]:
    """No more than can be told apart: past the limit the shortest pauses are passed over, and counted."""
    if len(spans) <= MAX_SPANS and len(gaps) <= MAX_SPANS:
        return spans, gaps, 0
    named = sorted(gaps, key=lambda gap: gap.from_at - gap.to_at)[: MAX_SPANS - 1]
    pauses = [following.from_at - last.to_at for last, following in pairwise(spans)]
    shortest = sorted(pauses, reverse=True)[: MAX_SPANS - 1][-1] if pauses else timedelta()
    shown = spans[:1]
    for pause, span in zip(pauses, spans[1:], strict=True):
        if pause >= shortest and len(shown) < MAX_SPANS:
            shown.append(span)
        else:
            last = shown[-1]
            shown[-1] = Span(last.from_at, max(last.to_at, span.to_at), last.first_sequence, span.last_sequence)
    return shown, sorted(named, key=lambda gap: gap.from_at), len(gaps) - len(named)
