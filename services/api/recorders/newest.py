"""What belongs to sources, for pages of them: the newest of each, and no more than a page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from services.api.recorders.models import PushAddress, RecorderKey

SHOWN = 20
_Row = TypeVar("_Row", RecorderKey, PushAddress)


async def newest_of(
    db: AsyncSession, table: type[_Row], made_at: Any, recorders: Sequence[UUID]
) -> dict[UUID, list[_Row]]:
    """The newest rows of each of these sources, at most twenty; `made_at` is the column that says which those are."""
    owner: Any = table.recorder_id
    place = func.row_number().over(partition_by=owner, order_by=made_at.desc())
    ranked = select(table, place.label("place")).where(owner.in_(recorders)).subquery()
    rows = aliased(table, ranked)
    found: dict[UUID, list[_Row]] = {}
    for row in await db.scalars(select(rows).where(ranked.c.place <= SHOWN).order_by(ranked.c.place)):
        found.setdefault(row.recorder_id, []).append(row)
    return found
