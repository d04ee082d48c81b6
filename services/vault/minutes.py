"""One statement for each minute of a recording: the log tells of every receipt, at a sixtieth of the rate.

Segments that no statement has told of yet are found by a partial index, so the cost is that of the last
minute and not of the archive. A statement and the marks on its segments are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import Segment

_BATCH = 5000
_TOLD_AT_ONCE = 1000
"""Segments that one statement tells of at most, so that no statement grows with the recording."""
_AHEAD = timedelta(minutes=1)
_MARK = text("""
    UPDATE vault.segments AS s SET statement_act = :act
    FROM unnest(CAST(:sequences AS integer[]), CAST(:digests AS char(64)[])) AS told(sequence, sha256)
    WHERE s.recording_id = :recording AND s.sequence = told.sequence AND s.sha256 = told.sha256
""")


async def state_minutes(engine: AsyncEngine, *, older_than: timedelta = timedelta(minutes=1)) -> int:
    """Enter the statements of all whole minutes that ended at least `older_than` ago, and of what was sealed by a
    clock that was ahead and has been set back since."""
    now = datetime.now(UTC)
    before = (now - older_than).replace(second=0, microsecond=0)
    query = (
        select(col(Segment.recording_id), col(Segment.sequence), col(Segment.sha256), col(Segment.sealed_at))
        .where(
            col(Segment.state) == "sealed",
            col(Segment.statement_act).is_(None),
            or_(col(Segment.sealed_at) < before, col(Segment.sealed_at) > now + _AHEAD),
        )
        .order_by(col(Segment.sealed_at))
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    async with engine.begin() as db:
        rows = (await db.execute(query)).all()
        return await state_segments(db, rows)


async def state_segments(db: AsyncConnection, rows: Iterable[Any]) -> int:
    """Enter one statement for each recording and minute among `rows`, and mark the segments with its act."""

    def place(row: Any) -> tuple[UUID, datetime]:
        return row.recording_id, row.sealed_at.replace(second=0, microsecond=0)

    entered = 0
    ordered = groupby(sorted(rows, key=lambda row: (*place(row), row.sequence)), key=place)
    for recording, segments in ((place[0], part) for place, group in ordered for part in _parts(list(group))):
        act = uuid7()
        told = [{"sequence": row.sequence, "sha256": row.sha256} for row in segments]
        fields = {"recording": str(recording), "segments": told}
        await enter(db, act, statement.build("segments", act, datetime.now(UTC), fields))
        names = {"sequences": [row.sequence for row in segments], "digests": [row.sha256 for row in segments]}
        await db.execute(_MARK, {"act": act, "recording": recording, **names})
        entered += 1
    return entered


def _parts(rows: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(rows), _TOLD_AT_ONCE):
        yield rows[start : start + _TOLD_AT_ONCE]
