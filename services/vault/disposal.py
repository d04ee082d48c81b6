"""Disposal 销毁: by an order that two custodians signed, item by item, and never because a lock has lapsed.

    python -m services.vault dispose [--check] signed.json

1. The order is authorized by the vault itself (`custodians`).
2. Each recording is looked at alone, under its row's lock: its term has ended and its locks have lapsed, no hold
   covers it, nothing of it is open, asked for, unsealed or still to be told in the published log, the clocks agree.
   What fails is named and stays as it is.
3. In the same transaction the recording becomes *disposing*, and the statement of its disposal enters the log.
4. Once that statement is published, so that the bucket itself says why, the media is deleted, version by version, by
   an identity that the serving vault does not have. The store refuses what is locked or held, whatever the rows say.
5. A signed tombstone is sealed in its place and the recording is *disposed*. Its manifests, receipts and statements
   stay: they prove what there was, and tell nobody what it showed.

Killed anywhere, the same command goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, union, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import database, errors, tallies
from services.vault.contract import custody, wire
from services.vault.custodians import Authorized, Custodians, remember
from services.vault.keyring import Keyring
from services.vault.log import statement
from services.vault.log.sequencer import Sequencer, enter
from services.vault.models import LogEntry, LogHead, Manifest, Recording, Segment, Tombstone
from services.vault.retention import FARTHEST, Retention, covered, keep, keep_manifests
from services.vault.stores.conformance import MAX_DRIFT
from services.vault.stores.port import Shredder, Store

TOMBSTONE_TYPE = "application/vnd.quancheng.tombstone.v1+json"
_BATCH = 256
_DRIFTS = "证据库的时钟与存储或数据库的相差超过 5 秒"


@dataclass(frozen=True)
class Outcome:
    """What became of one recording: `disposed`, or `why` not, in Chinese."""

    recording: UUID
    disposed: bool
    why: str = ""

    def line(self) -> str:
        return f"{'✓ 已销毁' if self.disposed else '✗ 未销毁'} {self.recording}{'：' + self.why if self.why else ''}"


class Disposer:
    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keyring,
        sequencer: Sequencer,
        custodians: Custodians,
        retention: Retention,
    ):
        self._engine, self._store, self._keys, self._sequencer = engine, store, keys, sequencer
        self._custodians, self._retention = custodians, retention

    async def check(self, envelope: wire.Envelope) -> list[Outcome]:
        """What a disposal by this order would do, and why not: nothing is changed."""
        authorized = await self._authorized(envelope)
        async with self._engine.connect() as db:
            return [Outcome(each, False, await self._obstacle(db, each)) for each in _recordings(authorized)]

    async def dispose(
        self, envelope: wire.Envelope, shredder: Shredder, told: Callable[[Outcome], None]
    ) -> list[Outcome]:
        """Raises what `Custodians.authorize` does. Each item is told as it ends."""
        # 1. The order.
        authorized = await self._authorized(envelope)
        outcomes = []
        for recording in _recordings(authorized):
            try:
                # A disposal may take hours, and a clock be stepped meanwhile.
                if await self._drifts():
                    outcome = Outcome(recording, False, _DRIFTS)
                else:
                    outcome = await self._one(recording, authorized, shredder)
            except (errors.OrderUnfit, errors.OrderNotAuthorized, errors.StoreUnavailable) as error:
                outcome = Outcome(recording, False, error.title)
            told(outcome)
            outcomes.append(outcome)
        return outcomes

    async def _drifts(self) -> bool:
        # A folder has no clock of its own; and a clock of ours that is ahead ends terms that have not ended.
        drifts = (await self._store.drift(), await database.drift(self._engine))
        return max(map(abs, drifts)) > MAX_DRIFT

    async def _authorized(self, envelope: wire.Envelope) -> Authorized:
        authorized = await self._custodians.authorize(envelope)
        if not isinstance(authorized.order, custody.Dispose):
            raise errors.OrderUnfit("another act")
        return authorized

    async def _one(self, recording: UUID, authorized: Authorized, shredder: Shredder) -> Outcome:
        # 2. and 3. Look, and begin.
        async with self._engine.begin() as db:
            query = select(col(Recording.state)).where(col(Recording.id) == recording).with_for_update()
            state = await db.scalar(query)
            if state == "disposed":
                return Outcome(recording, True, "先前已销毁")
            if state != "disposing":
                if why := await self._obstacle(db, recording):
                    return Outcome(recording, False, why)
                await self._begin(db, recording, authorized)
            act = await db.scalar(select(col(Tombstone.act)).where(col(Tombstone.recording_id) == recording))
        assert act is not None
        # 4. Delete.
        try:
            await self._sequencer.published(act)
            await self._shred(recording, shredder)
        except errors.LogUnavailable:
            return Outcome(recording, False, "已登记，等待日志签署；请在证据库运行时重新执行本指令")
        except errors.NotPublishedYet:
            return Outcome(
                recording, False, "已登记，日志尚未公布到存储，未删除任何内容；请在公布恢复后重新执行本指令"
            )
        except (errors.StillLocked, errors.StoreUnavailable) as error:
            return Outcome(recording, False, f"已登记，尚未删完（{error.title}）；请稍后重新执行本指令")
        # 5. The tombstone.
        await self._bury(recording)
        return Outcome(recording, True)

    async def _obstacle(self, db: AsyncConnection, recording: UUID) -> str:
        """Why this recording may not be disposed of now, in Chinese; empty where it may."""
        row = (await db.execute(select(Recording).where(col(Recording.id) == recording))).one_or_none()
        now = datetime.now(UTC)
        if row is None:
            return "证据库中没有这一记录"
        if row.state in ("disposing", "disposed"):
            return "" if row.state == "disposing" else "先前已销毁"
        if await covered(db, recording):
            return "处于复议诉讼留存中"
        if row.state == "open" and row.kind == "recording":
            return "尚未关闭，或有未关闭的补充"
        end = self._retention.ends(row)
        if end is None or end > now:
            return "保管期限未满" if end else "永久保管"
        return await _open_business(db, recording, now)

    async def _begin(self, db: AsyncConnection, recording: UUID, authorized: Authorized) -> None:
        act, now = uuid7(), datetime.now(UTC)
        # What has begun is finished however late; nothing begins by an order that no longer stands.
        await remember(db, authorized, now)
        this = col(Recording.id) == recording
        await db.execute(update(Recording).where(this).values(state="disposing", renew_at=None))
        manifests = select(col(Manifest.sha256)).where(col(Manifest.recording_id) == recording)
        row = {"recording_id": recording, "order_id": authorized.order.id, "act": act, "began_at": now}
        await db.execute(insert(Tombstone).values(row))
        fields = {
            "recording": str(recording),
            "custodians": authorized.custodians,
            "manifests": list(await db.scalars(manifests.order_by(col(Manifest.number)))),
        }
        await enter(db, act, statement.build("disposal", act, now, fields | authorized.told()))

    async def _shred(self, recording: UUID, shredder: Shredder) -> None:
        these = (col(Segment.recording_id) == recording) & (col(Segment.state) == "sealed")
        query = select(Segment).where(these).order_by(col(Segment.sequence), col(Segment.sha256)).limit(_BATCH)
        while True:
            async with self._engine.connect() as db:
                rows = (await db.execute(query)).all()
            if not rows:
                return
            for row in rows:
                await shredder.delete(row.key, row.version)
                async with self._engine.begin() as db:
                    await tallies.dispose(db, recording, row.sequence, row.sha256)

    async def _bury(self, recording: UUID) -> None:
        key, now = f"recordings/{recording}/tombstone", datetime.now(UTC)
        this = col(Tombstone.recording_id) == recording
        async with self._engine.connect() as db:
            row = (await db.execute(select(Tombstone).where(this))).one()
            gone = select(func.count(), func.coalesce(func.sum(col(Segment.size)), 0))
            gone = gone.where(col(Segment.recording_id) == recording, col(Segment.state) == "disposed")
            segments, media_bytes = (await db.execute(gone)).one()
        envelope = row.envelope
        if envelope is None:
            told = {
                "recording": str(recording),
                "order": str(row.order_id),
                "act": str(row.act),
                "began_at": wire.rfc3339(row.began_at),
                "disposed_at": wire.rfc3339(now),
                "segments": segments,
                "media_bytes": int(media_bytes),
            }
            # Signed once: what is put below must be the same however often it is tried.
            envelope = await self._keys.signed(lambda: self._sign_tombstone(recording, key, told))
        until = (now + FARTHEST).replace(microsecond=0)
        stored = await self._store.put(key, envelope, until)
        await keep(self._engine, stored, until)
        async with self._engine.begin() as db:
            await db.execute(update(Tombstone).where(this).values(version=stored.version))
            # Manifests stay for good, and from here on no job of the recording's renews them.
            await keep_manifests(db, recording)
            ended = (col(Recording.id) == recording) & (col(Recording.state) == "disposing")
            await db.execute(update(Recording).where(ended).values(state="disposed"))

    async def _sign_tombstone(self, recording: UUID, key: str, told: dict[str, Any]) -> bytes:
        """Of two that sign at once the first one counts."""
        signed = self._keys.envelope(TOMBSTONE_TYPE, told)
        this = col(Tombstone.recording_id) == recording
        first = update(Tombstone).where(this, col(Tombstone.envelope).is_(None))
        async with self._engine.begin() as db:
            await self._keys.hold(db, "receipt", [signed.signatures[0].keyid])
            await db.execute(first.values(envelope=wire.canonical(signed.model_dump()), key=key))
            envelope: bytes | None = await db.scalar(select(col(Tombstone.envelope)).where(this))
        assert envelope is not None
        return envelope

    async def tombstone(self, recording: UUID) -> wire.Tombstone:
        """Raises NoSuchRecording where it was not disposed of."""
        query = select(Tombstone).where(col(Tombstone.recording_id) == recording, col(Tombstone.version).is_not(None))
        async with self._engine.connect() as db:
            row = (await db.execute(query)).one_or_none()
        if row is None:
            raise errors.NoSuchRecording
        sha256 = hashlib.sha256(row.envelope).hexdigest()
        return wire.Tombstone(tombstone=wire.Envelope.model_validate_json(row.envelope), sha256=sha256, act=row.act)


def _recordings(authorized: Authorized) -> list[UUID]:
    assert isinstance(authorized.order, custody.Dispose)
    return list(dict.fromkeys(authorized.order.recordings))


async def _open_business(db: AsyncConnection, recording: UUID, now: datetime) -> str:
    """What of a recording is not settled yet: locks, tickets, manifests, statements."""
    mine = col(Segment.recording_id) == recording
    locked = select(func.max(col(Segment.retain_until))).where(mine, col(Segment.state) == "sealed")
    last = await db.scalar(locked)
    if last is not None and last >= now:
        return f"存储锁定至 {wire.rfc3339(last)}"
    # Its bytes may lie in the store already: it is looked for until it is sealed or has lapsed.
    asked = col(Segment.state) == "asked"
    if await db.scalar(select(func.count()).select_from(Segment).where(mine, asked)):
        return "有申请上传的片段尚未封存，也尚未失效"
    untold = (col(Segment.state) == "sealed") & col(Segment.statement_act).is_(None)
    own = select(col(Recording.kind)).where(col(Recording.id) == recording)
    if await db.scalar(own) == "recording" and await db.scalar(
        select(func.count()).select_from(Segment).where(mine, untold)
    ):
        return "有片段尚未记入日志"
    unsealed = select(func.count()).select_from(Manifest)
    unsealed = unsealed.where(col(Manifest.recording_id) == recording, col(Manifest.version).is_(None))
    if await db.scalar(unsealed):
        return "清单尚未封存"
    told = union(
        select(col(Manifest.act)).where(col(Manifest.recording_id) == recording),
        *(
            select(act).where(mine, act.is_not(None))
            for act in (col(Segment.statement_act), col(Segment.conflict_act))
        ),
    ).subquery()
    published = select(col(LogHead.published_size)).scalar_subquery()
    public = select(LogEntry).where(col(LogEntry.act) == told.c.act, col(LogEntry.position) < published).exists()
    unpublished = await db.scalar(select(func.count()).select_from(told).where(~public))
    return "清单或片段的日志记录尚未公布" if unpublished else ""
