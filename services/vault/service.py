"""The vault as one object: what its parts share, how it starts, what it does while it runs.

Start: read the keys, bring the log's head into being, check the store, refuse a history that is older than
what was published. Then loops go on until it stops: sequencing and publishing, which the log's own locks let one
process at a time do, and the watch over the store, which stops this process' tickets where it has to.

The rest are jobs, done by whichever process works (`jobs`): what sweeps up behind a crash or an absent source (minute
statements, manifests not yet in the store, idle supplements; segments put and never committed), time-stamping, and
samples of what is sealed.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.jobs import Jobs
from services.vault import database, errors, jobs, keys, minutes
from services.vault import retention as retention_
from services.vault.absence import Absence
from services.vault.alarms import Alarms
from services.vault.closing import Closer
from services.vault.contract import wire
from services.vault.contract.verify import key_id
from services.vault.custodians import Custodians
from services.vault.disposal import Disposer
from services.vault.export import Exporter
from services.vault.holds import Holds
from services.vault.keys import Keys
from services.vault.log import statement
from services.vault.log.appending import Appender
from services.vault.log.checkpoints import Checkpoints
from services.vault.log.publish import CHECKPOINT, Publisher
from services.vault.log.sequencer import Sequencer, enter
from services.vault.log.witnesses import Policy
from services.vault.models import Enrolment, KeyRecord, LogHead, Recording, Segment
from services.vault.retention import Defaults, Retention
from services.vault.sampling import Sampler
from services.vault.sealing import Sealing
from services.vault.settings import Settings
from services.vault.stores import conformance, open_store
from services.vault.stores.port import Store
from services.vault.sweeping import Sweeper
from services.vault.timestamps import Authority, Timestamper, load_authorities
from services.vault.watch import Watch
from services.vault.writes import OwnWrites

_log = logging.getLogger("quancheng.vault")
_ENROLMENTS = UUID("8f9d2b1c-5a3e-5c1f-9a70-5d6a3c0b7e11")
_SEQUENCE_SECONDS, _TIDY_SECONDS, _STAMP_SECONDS = 1.0, 5.0, 2.0
_LONGEST_WAIT = 8.0
_EMPTY_ROOT = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


class Vault:
    def __init__(
        self, settings: Settings, engine: AsyncEngine, store: Store, own: Keys, authorities: Sequence[Authority]
    ):
        retention = timedelta(days=settings.retention_days)
        self.engine, self.store, self.keys = engine, store, own
        self.sequencer = Sequencer(engine, own)
        self.appender = Appender(engine, self.sequencer)
        policy = Policy(settings.witnesses, settings.witnesses_needed)
        self.checkpoints = Checkpoints(engine, policy, seconds=settings.witness_seconds)
        self.publisher = Publisher(engine, store, own, self.checkpoints, retention=retention)
        self.alarms = Alarms(engine)
        self.watch = Watch(store, self.alarms)
        self.writes = OwnWrites(self.alarms)
        self.sampler = Sampler(engine, store, self.alarms)
        sweep_after = timedelta(seconds=settings.sweep_after_seconds)
        self.sealing = Sealing(engine, store, own, self.watch, retention=retention, sweep_after=sweep_after)
        self.sweeper = Sweeper(
            engine, store, self.sealing, self.alarms, whole=timedelta(seconds=settings.sweep_for_seconds)
        )
        idle = timedelta(seconds=settings.idle_seconds)
        self.closer = Closer(engine, store, own, self.sequencer, self.sweeper, retention=retention, idle=idle)
        self.timestamper = Timestamper(engine, store, authorities, retention=retention)
        self.exporter = Exporter(engine, store, own, self.sequencer, self.checkpoints, self.timestamper)
        self.custodians = Custodians(engine, own.origin)
        default = Defaults(timedelta(days=settings.keep_days))
        self.retention = Retention(engine, store, self.alarms, defaults=default)
        self.holds = Holds(engine, self.custodians, self.retention)
        self.disposer = Disposer(engine, store, own, self.sequencer, self.custodians, self.retention)
        told = jobs.Told(engine, self.alarms)
        self.jobs = Jobs(settings.dsn.get_secret_value(), jobs.SCHEMA, told)
        self.jobs.every("tidy", _TIDY_SECONDS, self._tidy)
        self.jobs.every("sweep", settings.sweep_every_seconds, self._sweep)
        self.jobs.every("stamp", _STAMP_SECONDS, self._stamp)
        self.jobs.every("sample", 60 / settings.sample_per_minute, self.sampler.look)
        self.jobs.every("renew", settings.renew_every_seconds, self._renew)
        self.jobs.handle(retention_.SETTLE, self.retention.settle)
        self.jobs.handle(retention_.RECONCILE, self.retention.reconcile)
        self.absence = Absence(engine, self.alarms, self.jobs.kinds)
        self._watch_seconds = settings.watch_seconds
        self._loops: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, settings: Settings) -> Vault:
        """Raises CertificateFault, KeyFault, StoreUnfit or HistoryLost, each with one clear sentence."""
        authorities = await asyncio.to_thread(load_authorities, settings)
        passphrase = await asyncio.to_thread(keys.read_passphrase, settings.keys_passphrase_file)
        engine = database.connect(settings)
        async with engine.begin() as db:
            known = {row.purpose: row.public_key for row in await db.execute(select(KeyRecord))}
            if not known:
                await _nothing_published(settings)
            own = await asyncio.to_thread(keys.load, settings.keys, settings.origin, known, passphrase)
            await _found_log(db, own)
        store = open_store(settings, own.local_secret)
        await store.start()
        await conformance.require(store)
        vault = cls(settings, engine, store, own, authorities)
        await vault.publisher.check_history()
        return vault

    def serve(self) -> None:
        """Sequence, publish and watch from here on."""
        self._go_on(
            self._repeat(self._sequence, "sequence"),
            self._repeat(self._publish, "publish"),
            self._repeat(self._look, "watch"),
            self._repeat(self._look_for_workers, "absence"),
        )

    def work(self) -> None:
        """Do the jobs from here on."""
        self._go_on(self.jobs.work())

    def _go_on(self, *loops: Coroutine[Any, Any, None]) -> None:
        self._loops += [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.checkpoints.stop()
        await self.timestamper.stop()
        await self.store.stop()
        await self.engine.dispose()

    def identity(self) -> wire.VaultIdentity:
        return wire.VaultIdentity(
            origin=self.keys.origin,
            receipt_key=base64.b64encode(self.keys.receipt_public).decode(),
            receipt_key_id=self.keys.receipt_key_id,
            log_vkey=self.keys.log_vkey,
            lock=self.store.lock,
        )

    async def enrol(self, message: wire.Enrol) -> wire.Appended:
        """A recorder's key enters the log; only then may it sign. The same again answers the same index."""
        public = base64.b64decode(message.public_key, validate=True)
        identity, now = key_id(public), datetime.now(UTC)
        act = uuid5(_ENROLMENTS, identity)
        values = {"key_id": identity, "recorder": message.recorder, "public_key": public, "act": act}
        async with self.engine.begin() as db:
            fresh = insert(Enrolment).values(**values, enrolled_at=now).on_conflict_do_nothing()
            if (await db.execute(fresh.returning(col(Enrolment.key_id)))).one_or_none():
                fields = {
                    "recorder": str(message.recorder),
                    "key_id": identity,
                    "public_key": message.public_key,
                }
                await enter(db, act, statement.build("enrolment", act, now, fields))
            elif message.recorder != await db.scalar(
                select(col(Enrolment.recorder)).where(col(Enrolment.key_id) == identity)
            ):
                raise errors.EnrolmentDiffers
        return await self.sequencer.settled(act)

    async def read_tickets(self, recording: UUID, message: wire.ReadTicketsRequest) -> wire.ReadTickets:
        query = select(Segment).where(col(Segment.recording_id) == recording, col(Segment.state) == "sealed")
        query = query.where(col(Segment.sequence).in_({item.sequence for item in message.items}))
        async with self.engine.connect() as db:
            state = await db.scalar(select(col(Recording.state)).where(col(Recording.id) == recording))
            if state in ("disposing", "disposed"):
                raise errors.RecordingDisposed
            rows = {(row.sequence, row.sha256): row for row in await db.execute(query)}
        now, tickets = datetime.now(UTC), []
        for item in message.items:
            row = rows.get((item.sequence, item.sha256))
            if row is None:
                raise errors.NoSuchSegment
            ticket = self.store.get_ticket(row.key, row.version, now)
            tickets.append(
                wire.ReadTicket(
                    sequence=row.sequence,
                    sha256=row.sha256,
                    url=ticket.url,
                    headers=ticket.headers,
                    size=row.size,
                )
            )
        return wire.ReadTickets(tickets=tickets)

    async def proof(self, act: UUID) -> wire.LogProof:
        """In the newest checkpoint that meets the witness policy if the act is in it, else in the newest signed."""
        position = await self.sequencer.position(act)
        size, checkpoint = await self.checkpoints.best(position + 1)
        return await self.sequencer.proof(act, size=size, checkpoint=checkpoint)

    async def log_state(self) -> wire.LogState:
        return await self.checkpoints.state(await self.timestamper.state())

    async def _sequence(self) -> None:
        await self.sequencer.wait_for_work(_SEQUENCE_SECONDS)
        while await self.sequencer.sequence():
            pass

    async def _publish(self) -> None:
        await self.sequencer.wait_for_growth(_SEQUENCE_SECONDS)
        async with self.writes.of("log"):
            await self.publisher.publish()

    async def _sweep(self) -> None:
        while await self.sweeper.sweep():
            pass

    async def _tidy(self) -> None:
        if await minutes.state_minutes(self.engine):
            self.sequencer.poke()
        async with self.writes.of("manifests"):
            await self.closer.seal_manifests()
        await self.closer.close_idle_supplements()

    async def _stamp(self) -> None:
        async with self.writes.of("timestamps"):
            await self.timestamper.run()

    async def _renew(self) -> None:
        await self.retention.enter_due()
        await self.retention.renew_files()

    async def _look(self) -> None:
        await asyncio.sleep(self._watch_seconds)
        await self.watch.look()

    async def _look_for_workers(self) -> None:
        await asyncio.sleep(self._watch_seconds)
        await self.absence.look()

    async def _repeat(self, step: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        wait = _SEQUENCE_SECONDS
        while True:
            try:
                await step()
                wait = _SEQUENCE_SECONDS
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # A store that is full or away for long fills nobody's log with what the alarm says.
                known = isinstance(error, errors.StoreUnavailable)
                _log.error("%s failed and will be tried again: %r", name, error, exc_info=not known)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)


async def _nothing_published(settings: Settings) -> None:
    """An empty database beside a log that was published is a lost one: no key is made for it and no log begun."""
    store = open_store(settings, b"")
    try:
        note = await store.published(CHECKPOINT)
    finally:
        await store.stop()
    if note is not None:
        raise errors.HistoryLost(
            "数据库是空的，而存储中已有公布的日志：请恢复数据库备份，或运行 python -m services.vault rebuild 重建。"
        )


async def _found_log(db: AsyncConnection, own: Keys) -> None:
    """At the very first start: the head of the empty log, and a statement for each of the vault's keys."""
    empty = insert(LogHead).values(
        single=True, size=0, root=_EMPTY_ROOT, checkpoint=own.checkpoint(0, _EMPTY_ROOT), published_size=0
    )
    await db.execute(empty.on_conflict_do_nothing())
    for purpose, public in (("receipt", own.receipt_public), ("log", own.log_public)):
        act, now = uuid7(), datetime.now(UTC)
        row = insert(KeyRecord).values(purpose=purpose, public_key=public, act=act, since=now)
        if (await db.execute(row.on_conflict_do_nothing().returning(col(KeyRecord.purpose)))).one_or_none():
            fields = {
                "purpose": purpose,
                "key_id": key_id(public),
                "public_key": base64.b64encode(public).decode(),
            }
            await enter(db, act, statement.build("key", act, now, fields))
    recorded = {row.purpose: row.public_key for row in await db.execute(select(KeyRecord))}
    if recorded != {"receipt": own.receipt_public, "log": own.log_public}:
        raise errors.KeyFault(
            "另一个证据库进程刚以别的密钥登记了自己；同一数据库的各进程须使用同一密钥文件夹，拒绝启动。"
        )
