"""Where exports are asked for and looked at (step 1; `__init__` tells all)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.media.program import ffmpeg
from services.vault import errors, jobs
from services.vault.contract import wire
from services.vault.models import Export, LogEntry, Recording

PREPARE = "prepare-export"
MAX_OF_PERSON, MAX_IN_ALL = 3, 20
"""Exports that may wait or be prepared at once."""
_RETRY_SECONDS = 30
_UNREADY = ("waiting", "preparing")


class Exports:
    """`lifetime`: how long an export may be fetched, from when it was asked for."""

    def __init__(self, engine: AsyncEngine, *, lifetime: timedelta):
        self._engine, self._lifetime = engine, lifetime

    async def begin(self, request: wire.ExportRequest) -> wire.ExportState:
        """The same again is answered as it is. Raises NoSuchStatement, ActDiffers, NoSuchRecording, NothingSealed,
        DisposalUnderway, CopiesUnavailable and TooManyExports: nothing was changed."""
        now = datetime.now(UTC)
        async with self._engine.connect() as db:
            moment = await self._logged(db, request)
            known = await _row(db, request.act)
            if known is None:
                await self._fit(db, request)
        if known is not None:
            return _state(known)
        if request.copies and ffmpeg() is None:
            raise errors.CopiesUnavailable
        values = {
            "act": request.act,
            "person": request.person,
            "case_id": request.case,
            "recordings": request.recordings,
            "series": request.series,
            "copies": request.copies,
            "moment": moment,
            "state": "waiting",
            "requested_at": now,
            "expires_at": now + self._lifetime,
        }
        async with self._engine.begin() as db:
            # One at a time, so that what is counted is still so when it is written.
            await db.execute(text("SELECT pg_advisory_xact_lock(hashtext('quancheng-exports'))"))
            await self._bounded(db, request.person)
            fresh = insert(Export).values(values).on_conflict_do_nothing().returning(col(Export.act))
            if await db.scalar(fresh) is not None:
                await jobs.enter(db, PREPARE, str(request.act))
            row = await _row(db, request.act)
        return _state(row)

    async def state(self, act: UUID) -> wire.ExportState:
        async with self._engine.connect() as db:
            row = await _row(db, act)
        if row is None:
            raise errors.NoSuchExport
        return _state(row)

    async def states(self, acts: Sequence[UUID]) -> wire.ExportStates:
        async with self._engine.connect() as db:
            rows = (await db.execute(select(Export).where(col(Export.act).in_(acts)))).all()
        return wire.ExportStates(exports=[_state(row) for row in rows])

    async def listed(self, *, after: UUID | None, limit: int) -> wire.ExportList:
        """Newest first; their acts are UUIDv7."""
        query = select(Export).order_by(col(Export.act).desc()).limit(limit + 1)
        if after is not None:
            query = query.where(col(Export.act) < after)
        async with self._engine.connect() as db:
            rows = (await db.execute(query)).all()
        told = [_state(row) for row in rows[:limit]]
        return wire.ExportList(exports=told, next=told[-1].act if len(rows) > limit else None)

    async def _logged(self, db: AsyncConnection, request: wire.ExportRequest) -> datetime:
        """When the act was logged, which must say what is asked for."""
        logged = await db.scalar(select(col(LogEntry.statement)).where(col(LogEntry.act) == request.act))
        if logged is None:
            raise errors.NoSuchStatement
        told, asked = json.loads(logged), request.told()
        names = ("recordings", "person", "series", "case", "copies")
        differ = [name for name in names if (told.get(name) or None) != (asked.get(name) or None)]
        if told.get("kind") != "export" or differ:
            raise errors.ActDiffers
        return datetime.fromisoformat(told["at"])

    async def _fit(self, db: AsyncConnection, request: wire.ExportRequest) -> None:
        for kind, ids in (("recording", request.recordings), ("series", request.series)):
            rows = await _known(db, ids)
            if {row.id for row in rows if row.kind == kind} != set(ids):
                raise errors.NoSuchRecording
            if any(row.state == "disposing" for row in rows):
                raise errors.DisposalUnderway
            if empty := [str(row.id) for row in rows if not row.anything]:
                raise errors.NothingSealed(recordings=empty[:100])

    async def _bounded(self, db: AsyncConnection, person: UUID) -> None:
        unready = select(func.count()).select_from(Export).where(col(Export.state).in_(_UNREADY))
        own = await db.scalar(unready.where(col(Export.person) == person)) or 0
        if own >= MAX_OF_PERSON or (await db.scalar(unready) or 0) >= MAX_IN_ALL:
            raise errors.TooManyExports(retry_after=_RETRY_SECONDS)


async def _known(db: AsyncConnection, ids: Sequence[UUID]) -> Sequence[Any]:
    anything = text("""
        EXISTS (SELECT FROM vault.manifests AS m WHERE m.recording_id = recordings.id) OR EXISTS (
            SELECT FROM vault.segments AS s WHERE s.recording_id = recordings.id AND s.state IN ('sealed', 'disposed')
        ) AS anything
    """)
    columns = (col(Recording.id), col(Recording.kind), col(Recording.state), anything)
    return list(await db.execute(select(*columns).where(col(Recording.id).in_(ids))))


async def _row(db: AsyncConnection, act: UUID) -> Any:
    return (await db.execute(select(Export).where(col(Export.act) == act))).one_or_none()


def _state(row: Any) -> wire.ExportState:
    told = {name: getattr(row, name) for name in wire.ExportState.model_fields}
    return wire.ExportState.model_validate(told | {"bytes_done": min(row.bytes_done, row.bytes_total)})
