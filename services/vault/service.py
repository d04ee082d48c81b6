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
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.jobs import Jobs, Streak
from services.vault import database, errors, jobs, keys, minutes, succession
from services.vault import retention as retention_
from services.vault.absence import Absence
from services.vault.alarms import Alarms
from services.vault.closing import Closer
from services.vault.contract import wire
from services.vault.custodians import Custodians
from services.vault.disposal import Disposer
from services.vault.enrolments import Enrolments
from services.vault.export.desk import PREPARE, Exports
from services.vault.export.lapsing import Lapsing
from services.vault.export.preparing import Preparer
from services.vault.export.serving import Server
from services.vault.holds import Holds
from services.vault.keyring import Keyring, files_alone, on_record
from services.vault.keys import Keys
from services.vault.log.appending import Appender
from services.vault.log.checkpoints import Checkpoints
from services.vault.log.pruning import Pruner
from services.vault.log.publish import CHECKPOINT, Publisher, check_history
from services.vault.log.sequencer import Sequencer
from services.vault.log.witnesses import Policy
from services.vault.models import LogHead, Recording, Segment
from services.vault.retention import Defaults, Retention
from services.vault.sampling import Sampler
from services.vault.sealing import Sealing
from services.vault.settings import Settings
from services.vault.stores import conformance, open_store
from services.vault.stores.local import LocalStore
from services.vault.stores.port import Store
from services.vault.stores.staging import FolderStaging, open_staging
from services.vault.sweeping import Sweeper
from services.vault.tails import Tails
from services.vault.timestamps import Authority, Timestamper, load_authorities
from services.vault.watch import Watch
from services.vault.writes import OwnWrites

_log = logging.getLogger("quancheng.vault")
_SEQUENCE_SECONDS, _TIDY_SECONDS, _STAMP_SECONDS, _KEYS_SECONDS, _PRUNE_SECONDS = 1.0, 5.0, 2.0, 1.0, 10.0
_LONGEST_WAIT = 8.0
_REFUSES = "witness-refuses"
_LAPSE_SECONDS, _STRAYS_SECONDS = 60.0, 3600.0
_EMPTY_ROOT = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


class Vault:
    def __init__(
        self, settings: Settings, engine: AsyncEngine, store: Store, own: Keyring, authorities: Sequence[Authority]
    ):
        retention = timedelta(days=settings.retention_days)
        self.engine, self.store, self.keyring = engine, store, own
        self.staging = open_staging(settings, own.keys.local_secret)
        self.tails = Tails(self.staging)
        own.turned = self._turn
        self.sequencer = Sequencer(engine, own)
        self.appender = Appender(engine, self.sequencer)
        self.enrolments = Enrolments(engine, self.sequencer)
        policy = Policy(settings.witnesses, settings.witnesses_needed)
        self.checkpoints = Checkpoints(engine, policy, seconds=settings.witness_seconds)
        self.publisher = Publisher(engine, store, own, self.checkpoints, retention=retention)
        self.pruner = Pruner(engine, store, after=timedelta(seconds=settings.partial_tile_seconds))
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
        self.exports = Exports(engine, lifetime=timedelta(days=settings.export_days))
        lapsing = Lapsing(engine, self.staging)
        self.bags = Server(engine, store, self.staging, self.alarms)
        preparer = Preparer(
            engine,
            store,
            self.staging,
            own,
            self.sequencer,
            self.checkpoints,
            self.timestamper,
            self.alarms,
            scratch=settings.scratch,
        )
        self.custodians = Custodians(engine, own.origin)
        default = Defaults(timedelta(days=settings.keep_days))
        self.retention = Retention(engine, store, self.alarms, defaults=default)
        self.holds = Holds(engine, self.custodians, self.retention)
        self.disposer = Disposer(engine, store, own, self.sequencer, self.custodians, self.retention)
        self._told = jobs.Told(engine, self.alarms, {PREPARE: preparer.gave_up})
        self.jobs = Jobs(settings.dsn.get_secret_value(), jobs.SCHEMA, self._told)
        self.jobs.every("tidy", _TIDY_SECONDS, self._tidy)
        self.jobs.every("sweep", settings.sweep_every_seconds, self._sweep)
        self.jobs.every("stamp", _STAMP_SECONDS, self._stamp)
        self.jobs.every("sample", 60 / settings.sample_per_minute, self.sampler.look)
        self.jobs.every("renew", settings.renew_every_seconds, self._renew)
        self.jobs.every("prune", _PRUNE_SECONDS, self.pruner.prune)
        self.jobs.every("lapse-exports", _LAPSE_SECONDS, lapsing.lapse)
        self.jobs.every("stray-copies", _STRAYS_SECONDS, lapsing.forget_strays)
        self.jobs.every("stray-tails", _STRAYS_SECONDS, self.tails.lapse)
        self.jobs.handle(PREPARE, preparer.prepare)
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
        async with files_alone(engine):
            known = await on_record(engine)
            if not known:
                await _nothing_published(settings)
            own = await asyncio.to_thread(keys.load, settings.keys, settings.origin, known, passphrase)
            async with engine.begin() as db:
                await _found_log(db, own)
        store = open_store(settings, own.local_secret)
        await store.start()
        await conformance.require(store)
        vault = cls(settings, engine, store, Keyring(engine, settings, passphrase, own), authorities)
        await check_history(engine, store, settings.origin)
        async with files_alone(engine):
            await asyncio.to_thread(keys.settle, settings.keys, await on_record(engine), passphrase)
        return vault

    def serve(self) -> None:
        """Sequence, publish and watch from here on."""
        self._go_on(
            self._repeat(self._sequence, "sequence"),
            self._repeat(self._publish, "publish"),
            self._repeat(self._look, "watch"),
            self._repeat(self._look_at_keys, "keys"),
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
        await self.staging.stop()
        await self.store.stop()
        await self.engine.dispose()

    def _turn(self, own: Keys, good: bool) -> None:
        for folder in (self.store, self.staging):
            if isinstance(folder, LocalStore | FolderStaging):
                folder.turn(own.local_secret, honour=good)

    def identity(self) -> wire.VaultIdentity:
        own = self.keyring.keys
        return wire.VaultIdentity(
            origin=own.origin,
            receipt_key=base64.b64encode(own.receipt_public).decode(),
            receipt_key_id=own.receipt_key_id,
            log_vkey=own.log_vkey,
            lock=self.store.lock,
        )

    async def keys(self) -> wire.VaultKeys:
        return await succession.told(self.engine, self.keyring.origin)

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
        for name, reason in (await self.checkpoints.refusals()).items():
            await self.alarms.settle(_REFUSES, name, reason)

    async def _look_at_keys(self) -> None:
        await asyncio.sleep(_KEYS_SECONDS)
        try:
            await self.keyring.renew()
        except errors.SigningStopped:
            return  # it has said why

    async def _look_for_workers(self) -> None:
        await asyncio.sleep(self._watch_seconds)
        await self.absence.look()

    async def _repeat(self, step: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        streak, wait = Streak(self._told, name), _SEQUENCE_SECONDS
        while True:
            try:
                await step()
                await streak.worked()
                wait = _SEQUENCE_SECONDS
            except Exception as error:
                # A store that is full or away for long fills nobody's log with what the alarm says.
                known = isinstance(error, errors.StoreUnavailable)
                _log.error("%s failed and will be tried again: %r", name, error, exc_info=not known)
                if not known:
                    await streak.failed(error)
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
    await succession.found(db, own)
