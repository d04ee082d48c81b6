"""Alarms: something is otherwise than it should be, and somebody has to look.

    await alarms.sound("object-differs", key, "存储中已不存在这一版本")
    await alarms.clear("object-differs", key)

An alarm stands from the first time it is sounded until it is cleared, as one row for each kind and subject;
a cleared one stays on record. Each sounding is a line in the log at level ERROR that begins with `alarm`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault.contract import wire
from services.vault.models import Alarm

_log = logging.getLogger("quancheng.vault.alarms")


class Alarms:
    def __init__(self, engine: AsyncEngine):
        self._engine = engine

    async def sound(self, kind: str, subject: str, detail: str) -> None:
        """`kind` is a slug, `subject` what it is about (at most 512 characters), `detail` a Chinese sentence."""
        _log.error("alarm kind=%s subject=%s %s", kind, subject, detail)
        now = datetime.now(UTC)
        row = insert(Alarm).values(kind=kind, subject=subject, detail=detail, first_seen=now, last_seen=now)
        # Two vaults' clocks may differ a little.
        row = row.on_conflict_do_update(
            index_elements=[col(Alarm.kind), col(Alarm.subject)],
            index_where=col(Alarm.cleared_at).is_(None),
            set_={"detail": detail, "last_seen": _not_before_first(now)},
        )
        async with self._engine.begin() as db:
            await db.execute(row)

    async def clear(self, kind: str, subject: str) -> None:
        """It is as it should be again. Nothing happens where no such alarm stands."""
        await self._clear(kind, col(Alarm.subject) == subject)

    async def clear_all(self, kind: str, subjects: Collection[str]) -> None:
        """For many at once, most of which never had an alarm."""
        if subjects:
            await self._clear(kind, col(Alarm.subject).in_(subjects))

    async def clear_under(self, kind: str, prefix: str) -> None:
        """For whatever begins with `prefix`."""
        await self._clear(kind, col(Alarm.subject).startswith(prefix, autoescape=True))

    async def _clear(self, kind: str, which: ColumnElement[bool]) -> None:
        standing = update(Alarm).where(col(Alarm.kind) == kind, which, col(Alarm.cleared_at).is_(None))
        cleared = standing.values(cleared_at=_not_before_first(datetime.now(UTC))).returning(col(Alarm.subject))
        async with self._engine.begin() as db:
            for subject in await db.scalars(cleared):
                _log.warning("cleared kind=%s subject=%s", kind, subject)

    async def settle(self, kind: str, subject: str, detail: str) -> None:
        """Sound where `detail` tells of something, clear where it is empty."""
        if detail:
            await self.sound(kind, subject, detail)
        else:
            await self.clear(kind, subject)

    async def longest_unseen(self, kind: str) -> str | None:
        """The subject of the standing alarm of this kind that was last seen longest ago."""
        query = select(col(Alarm.subject)).where(col(Alarm.kind) == kind, col(Alarm.cleared_at).is_(None))
        async with self._engine.connect() as db:
            subject: str | None = await db.scalar(query.order_by(col(Alarm.last_seen), col(Alarm.place)).limit(1))
        return subject

    async def standing(self, limit: int) -> wire.Alarms:
        """The alarms that stand, the one last seen first."""
        query = select(Alarm).where(col(Alarm.cleared_at).is_(None))
        query = query.order_by(col(Alarm.last_seen).desc(), col(Alarm.place).desc()).limit(limit + 1)
        async with self._engine.connect() as db:
            rows = (await db.execute(query)).all()
        fields = wire.Alarm.model_fields
        told = [wire.Alarm.model_validate({name: getattr(row, name) for name in fields}) for row in rows[:limit]]
        return wire.Alarms(alarms=told, more=len(rows) > limit)


def _not_before_first(now: datetime) -> ColumnElement[datetime]:
    return func.greatest(col(Alarm.first_seen), now)
