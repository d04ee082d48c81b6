"""Heartbeats: the newest of each terminal is kept, with what it holds of each recording, and nothing piles up.

They change no recording: what a terminal says is shown beside what the vault has sealed, never in its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api.database import Sessions
from services.api.recorders.dependencies import Terminal
from services.api.recorders.models import ClockOffset, Heartbeat
from services.api.recordings.models import Held, Recording
from services.api.recordings.presence import CLOCK_LIMIT_MS
from services.api.recordings.schemas import NewHeartbeat


async def hear(sessions: Sessions, terminal: Terminal, told: NewHeartbeat) -> None:
    """A heartbeat that is older than the one that is kept changes nothing, and a recording that nobody has opened
    here yet is counted and no more."""
    now = datetime.now(UTC)
    async with sessions.begin() as db:
        known = await _known(db, terminal, told)
        noted = await _keep(db, terminal, told, now, len({each.id for each in told.recordings}) - len(known))
        if noted is None:
            return
        await _note_clock(db, terminal, told, now, noted)
        rows = {
            each.id: each.model_dump(exclude={"id"}) | {"recording_id": each.id, "told_at": now}
            for each in told.recordings
            if each.id in known
        }
        if rows:
            fresh = insert(Held).values([rows[each] for each in sorted(rows)])
            columns = Held.model_fields.keys() - {"recording_id"}
            changed = {name: fresh.excluded[name] for name in columns}
            await db.execute(fresh.on_conflict_do_update(index_elements=["recording_id"], set_=changed))


async def _known(db: AsyncSession, terminal: Terminal, told: NewHeartbeat) -> set[UUID]:
    query = select(col(Recording.id)).where(col(Recording.id).in_([each.id for each in told.recordings]))
    return set(await db.scalars(query.where(col(Recording.recorder_id) == terminal.recorder_id)))


async def _keep(db: AsyncSession, terminal: Terminal, told: NewHeartbeat, now: datetime, unheard: int) -> int | None:
    """The clock's offset that was noted last; None where a newer one is kept already."""
    values = told.model_dump(exclude={"recordings"}) | {
        "key_id": terminal.key_id,
        "recorder_id": terminal.recorder_id,
        "received_at": now,
        "clock_offset_ms": _offset(told, now),
        "unheard": unheard,
    }
    fresh = insert(Heartbeat).values(values)
    newer = (col(Heartbeat.run) != fresh.excluded.run) | (col(Heartbeat.monotonic_ms) < fresh.excluded.monotonic_ms)
    changed = {name: fresh.excluded[name] for name in values.keys() - {"key_id"}}
    kept = fresh.on_conflict_do_update(index_elements=["key_id"], set_=changed, where=newer)
    return await db.scalar(kept.returning(col(Heartbeat.noted_offset_ms)))


async def _note_clock(db: AsyncSession, terminal: Terminal, told: NewHeartbeat, now: datetime, noted: int) -> None:
    """A clock that went wrong, or right again, is a fact about everything recorded since."""
    offset = _offset(told, now)
    if abs(offset - noted) <= CLOCK_LIMIT_MS:
        return
    db.add(
        ClockOffset(
            id=uuid7(),
            recorder_id=terminal.recorder_id,
            key_id=terminal.key_id,
            noted_at=now,
            device_time=told.device_time,
            offset_ms=offset,
        )
    )
    this = update(Heartbeat).where(col(Heartbeat.key_id) == terminal.key_id)
    await db.execute(this.values(noted_offset_ms=offset))


def _offset(told: NewHeartbeat, now: datetime) -> int:
    return (told.device_time - now) // timedelta(milliseconds=1)
