"""Legal holds 复议诉讼留存, counted for each case and reason: what one of them covers is not disposed of.

1. Place: hold and recordings are stored and the statement enters the log in one transaction, with a job for each
   recording. From here on no disposal can begin.
2. The job flags every sealed object in the store and then locks it for a year ahead (`retention.settle`); what is
   sealed into a held recording later enters the same job again.
3. Release: an order that two custodians signed, a statement, and a job for each recording; a flag is cleared only
   where no other hold covers the recording. The locks stay as they are, so that clearing a flag frees nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors, jobs, tallies
from services.vault.contract import custody, wire
from services.vault.custodians import Custodians, remember
from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import HeldRecording, Hold, Manifest, Recording, Segment, Term
from services.vault.retention import LATER, SETTLE, Retention


class Holds:
    def __init__(self, engine: AsyncEngine, custodians: Custodians, retention: Retention):
        self._engine, self._custodians, self._retention = engine, custodians, retention

    async def place(self, hold: UUID, message: wire.PlaceHold) -> wire.Hold:
        """Raises HoldDiffers, HoldReleased, NoSuchRecording, RecordingDisposed; nothing has been changed then."""
        # 1. Place.
        now, wanted = datetime.now(UTC), sorted(set(message.recordings))
        row = {"id": hold, "case_id": message.case, "reason": message.reason, "state": "active", "placed_at": now}
        async with self._engine.begin() as db:
            await db.execute(insert(Hold).values(row).on_conflict_do_nothing())
            known = (await db.execute(select(Hold).where(col(Hold.id) == hold).with_for_update())).one()
            if (known.case_id, known.reason) != (message.case, message.reason):
                raise errors.HoldDiffers
            if known.state != "active":
                raise errors.HoldReleased
            await _standing(db, wanted)
            here = select(col(HeldRecording.recording_id)).where(col(HeldRecording.hold_id) == hold)
            covered = set(await db.scalars(here.where(col(HeldRecording.recording_id).in_(wanted))))
            if fresh := [recording for recording in wanted if recording not in covered]:
                act = uuid7()
                rows = [{"recording_id": each, "hold_id": hold, "act": act} for each in fresh]
                await db.execute(insert(HeldRecording), rows)
                told = {"hold": str(hold), "case": str(message.case), "recordings": [str(each) for each in fresh]}
                await enter(db, act, statement.build("hold", act, now, told))
            await _settle(db, fresh, now)
        return await self.state(hold)

    async def release(self, hold: UUID, envelope: wire.Envelope) -> wire.Hold:
        """Raises NoSuchHold and what `Custodians.authorize` raises; nothing has been changed then."""
        # 3. Release.
        authorized = await self._custodians.authorize(envelope)
        order, now = authorized.order, datetime.now(UTC)
        if not isinstance(order, custody.Release) or order.hold != hold:
            raise errors.OrderUnfit("it names another hold")
        async with self._engine.begin() as db:
            this = (col(Hold.id) == hold) & (col(Hold.state) == "active")
            known = (await db.execute(select(Hold).where(col(Hold.id) == hold).with_for_update())).one_or_none()
            if known is None:
                raise errors.NoSuchHold
            if known.state == "active":
                await remember(db, authorized, now)
                values = {"state": "released", "released_at": now, "order_id": order.id}
                await db.execute(update(Hold).where(this).values(**values))
                act = uuid7()
                told = {"hold": str(hold), "case": str(known.case_id), "custodians": authorized.custodians}
                await enter(db, act, statement.build("release", act, now, told | authorized.told()))
                covered = select(col(HeldRecording.recording_id)).where(col(HeldRecording.hold_id) == hold)
                await _settle(db, (await db.scalars(covered)).all(), now)
            elif known.order_id != order.id:
                raise errors.HoldReleased
        return await self.state(hold)

    async def state(self, hold: UUID) -> wire.Hold:
        async with self._engine.connect() as db:
            row = (await db.execute(select(Hold).where(col(Hold.id) == hold))).one_or_none()
            if row is None:
                raise errors.NoSuchHold
            counts = await tallies.of_hold(db, hold)
            return _told(row, counts.recordings, counts.objects, counts.settled)

    async def listed(self, *, case: UUID | None, active: bool, after: UUID | None, limit: int) -> wire.Holds:
        query = select(Hold).order_by(col(Hold.id).desc()).limit(limit + 1)
        query = query.where(col(Hold.case_id) == case) if case else query
        query = query.where(col(Hold.state) == "active") if active else query
        query = query.where(col(Hold.id) < after) if after else query
        async with self._engine.connect() as db:
            rows = (await db.execute(query)).all()
            counted = [(row, await tallies.of_hold(db, row.id)) for row in rows[:limit]]
        told = [_told(row, counts.recordings, counts.objects, counts.settled) for row, counts in counted]
        return wire.Holds(holds=told, next=told[-1].id if len(rows) > limit else None)

    async def retention_of(self, recording: UUID) -> wire.RetentionState:
        async with self._engine.connect() as db:
            row = (await db.execute(select(Recording).where(col(Recording.id) == recording))).one_or_none()
            if row is None:
                raise errors.NoSuchRecording
            segments = select(func.min(col(Segment.retain_until)))
            segments = segments.where(col(Segment.recording_id) == recording, col(Segment.state) == "sealed")
            manifests = select(func.min(col(Manifest.retain_until))).where(col(Manifest.recording_id) == recording)
            dates = [await db.scalar(segments), await db.scalar(manifests)]
            active = select(col(Hold.id)).join(HeldRecording, col(HeldRecording.hold_id) == col(Hold.id))
            active = active.where(col(HeldRecording.recording_id) == recording, col(Hold.state) == "active")
            holds = (await db.scalars(active.order_by(col(Hold.id)))).all()
            terms = select(Term).where(col(Term.recording_id) == recording).order_by(col(Term.place).desc())
            told = (await db.execute(terms.limit(100))).all()
        fields = wire.Term.model_fields
        return wire.RetentionState(
            ends_at=self._retention.ends(row),
            locked_until=min((date for date in dates if date), default=None),
            holds=list(holds),
            terms=[wire.Term.model_validate({name: getattr(term, name) for name in fields}) for term in told],
        )


async def _standing(db: AsyncConnection, recordings: list[UUID]) -> None:
    """They exist and are not being disposed of, and stay so until the transaction ends."""
    query = select(col(Recording.id), col(Recording.state)).where(col(Recording.id).in_(recordings))
    found = {
        row.id: row.state
        for row in await db.execute(query.order_by(col(Recording.id)).with_for_update(key_share=True))
    }
    if missing := [each for each in recordings if each not in found]:
        raise errors.NoSuchRecording(recordings=[str(each) for each in missing[:20]])
    if gone := [each for each in recordings if found[each] in ("disposing", "disposed")]:
        raise errors.RecordingDisposed(recordings=[str(each) for each in gone[:20]])


async def _settle(db: AsyncConnection, recordings: Sequence[UUID], now: datetime) -> None:
    """A job for each, and another each hour until one was done: that it died while the store was away must not be
    the end of it."""
    these = col(Recording.id).in_(recordings)
    standing = these & col(Recording.state).not_in(("disposing", "disposed"))
    locked = select(col(Recording.id)).where(standing).order_by(col(Recording.id)).with_for_update(key_share=True)
    await db.execute(locked)
    await db.execute(
        update(Recording).where(standing).values(renew_at=func.least(col(Recording.renew_at), now + LATER))
    )
    for recording in sorted(recordings):
        await jobs.enter(db, SETTLE, str(recording))


async def _recordings(db: AsyncConnection, hold: UUID) -> int:
    counted = select(func.count()).select_from(HeldRecording).where(col(HeldRecording.hold_id) == hold)
    return await db.scalar(counted) or 0


def _told(row: Any, recordings: int, objects: int, settled: int) -> wire.Hold:
    return wire.Hold(
        id=row.id,
        case=row.case_id,
        reason=row.reason,
        state=row.state,
        recordings=recordings,
        objects=objects,
        settled=settled,
        placed_at=row.placed_at,
        released_at=row.released_at,
    )
