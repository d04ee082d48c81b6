"""Who handed footage over to whom 移交: the custody origin that an import names."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.errors import NoSuchHandover
from services.api.recordings.footage.models import Handover


async def require(db: AsyncSession, unit: UUID, source: UUID | None, handover: UUID) -> None:
    """One of this unit's; of this source, where a source brings what was handed over. Raises NoSuchHandover."""
    found = await db.scalar(select(Handover).where(col(Handover.id) == handover, col(Handover.unit_id) == unit))
    if found is None or source not in (None, found.source_id):
        raise NoSuchHandover
