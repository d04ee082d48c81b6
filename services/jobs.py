"""A service's jobs: a queue in its own PostgreSQL schema and the worker that empties it (pgqueuer on asyncpg).

    jobs = Jobs(dsn, "vault", told)
    jobs.handle("hold", place)               # async def place(subject: str) -> None
    jobs.every("renew", 3600, renew)         # async def renew() -> None
    await jobs.enter(db, "hold", str(hold))  # in the act's own transaction
    await jobs.work()                        # until cancelled

A handler is idempotent and keeps its progress in rows: it may be killed anywhere and is run again, by whichever
worker comes first. One that raises is tried again after 1, 2, 4 … `longest` seconds (and a fifth more or less),
`tries` times in all, or not at all where it raises `Hopeless`; then it is *dead*: it stays in the queue, `told` is
told, and somebody has to look and let it be retried. Where `told` itself raises, that is one more failed try: no job
is dead of whom nobody was told. Two jobs of one kind and subject never run at once. At a stop the running ones are
given back.

What recurs every few seconds has no row each time: the worker that holds the kind's advisory lock does it, and
whichever is next does where that one dies. Where it fails the waits grow; of the eighth failure in a row `told` is
told under the subject `every`, and of the first success after it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.asyncpg import AsyncpgPoolDriver
from pgqueuer.adapters.persistence import qb
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain import models
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.settings import DBSettings
from pgqueuer.executors import AbstractEntrypointExecutor, EntrypointExecutorParameters
from pgqueuer.ports.driver import NotifyCallback
from pgqueuer.types import Channel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_log = logging.getLogger("quancheng.jobs")
_LONGEST_WAIT = 300.0
_AGAIN_SECONDS = 2.0
_LONG_SECONDS = 7 * 24 * 3600.0
_KEPT = timedelta(days=30)
_MAX_SUBJECT = 200
_TELL_AFTER = 8
EVERY = "every"
"""The subject of what recurs."""

Handler = Callable[[str], Awaitable[None]]
Step = Callable[[], Awaitable[object]]


class Hopeless(Exception):
    """Trying again would change nothing: somebody has to look first. The message is the name of the reason."""


class Told(Protocol):
    """Who is told that a job is dead (`reason` is an exception's name), and that it was done after all."""

    async def died(self, kind: str, subject: str, reason: str) -> None: ...

    async def done(self, kind: str, subject: str) -> None: ...


class Streak:
    """The failures in a row of something that recurs. Who was told of them may have been told by a process that died,
    so the first success of each process is told too."""

    def __init__(self, told: Told, kind: str):
        self._told, self._kind = told, kind
        self._failed, self._said = 0, True

    async def worked(self) -> None:
        self._failed = 0
        if self._said:
            self._said = await _raised(self._told.done(self._kind, EVERY)) is not None

    async def failed(self, error: Exception) -> None:
        self._failed += 1
        if self._failed >= _TELL_AFTER and not (self._said and self._failed > _TELL_AFTER):
            self._said = await _raised(self._told.died(self._kind, EVERY, type(error).__name__)) is None

    def wait(self, seconds: float, longest: float) -> float:
        """How long to wait for the next time, where `seconds` lie between two that work."""
        return max(seconds, min(longest, seconds * 2.0 ** min(self._failed, 16)))


@dataclass(frozen=True)
class DeadJob:
    id: int
    kind: str
    subject: str
    entered_at: datetime
    died_at: datetime


@dataclass(frozen=True)
class KindSummary:
    """How many jobs of a kind wait, run and are dead, and since when the oldest that is due waits."""

    kind: str
    waiting: int
    running: int
    dead: int
    oldest_due: datetime | None


def names(schema: str) -> DBSettings:
    """What the queue's tables are called. The migration that makes them says the same."""
    return DBSettings(db_schema=schema, channel=Channel(f"quancheng_{schema}_jobs"))


class Jobs:
    """`lease`: how long after its last sign of life a killed worker's jobs are taken over."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        told: Told,
        *,
        lease: timedelta = timedelta(seconds=30),
        tries: int = 8,
        longest: float = _LONGEST_WAIT,
    ):
        self._dsn = dsn.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._schema, self._told, self._lease, self._tries = schema, told, lease, tries
        self._longest = longest
        self._handlers: dict[str, tuple[Handler, int]] = {}
        self._steps: dict[str, tuple[float, Step]] = {}
        self._stopping = asyncio.Event()

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._handlers)

    def handle(self, kind: str, handler: Handler, *, at_once: int = 2) -> None:
        """`at_once`: how many of this kind run at a time, over all workers."""
        self._handlers[kind] = (handler, at_once)

    def every(self, kind: str, seconds: float, step: Step) -> None:
        """`seconds` lie between the end of one and the beginning of the next, and more after one that raised."""
        self._steps[kind] = (seconds, step)

    async def enter(self, db: AsyncConnection, kind: str, subject: str, *, due: datetime | None = None) -> None:
        """Have this done once the transaction has committed. One waits at most for each kind and subject."""
        await enter(db, self._schema, kind, subject, due=due)

    async def work(self) -> None:
        """Until cancelled. A lost database is waited for."""
        while True:
            try:
                await self._work()
            except Exception:
                _log.exception("the worker lost its database and will try again")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _work(self) -> None:
        self._stopping = asyncio.Event()
        settings = {"timezone": "UTC", "application_name": f"quancheng-{self._schema}-worker"}
        # One connection listens, each running job holds one, and the queue itself needs a few.
        size = 4 + sum(at_once for _, at_once in self._handlers.values())
        async with asyncpg.create_pool(
            self._dsn, min_size=1, max_size=size, command_timeout=30, server_settings=settings
        ) as pool:
            queuer = self._queuer(pool)
            steps = [asyncio.create_task(self._repeat(*named)) for named in self._steps.items()]
            running = asyncio.create_task(
                queuer.run(
                    dequeue_timeout=timedelta(seconds=5),
                    heartbeat_timeout=self._lease,
                    shutdown_on_listener_failure=True,
                )
            )
            tidying = asyncio.create_task(_forget_old(pool, self._schema))
            try:
                await asyncio.shield(running)
            finally:
                for step in (*steps, tidying):
                    step.cancel()
                self._stopping.set()
                queuer.shutdown.set()
                await asyncio.gather(running, tidying, *steps, return_exceptions=True)

    def _queuer(self, pool: asyncpg.Pool) -> PgQueuer:
        named = names(self._schema)
        driver = ListeningDriver(pool)
        queries = Queries(
            driver, qb.QueryBuilderEnvironment(named), qb.QueryQueueBuilder(named), qb.QuerySchedulerBuilder(named)
        )
        queuer = PgQueuer(driver, channel=Channel(named.channel), queries=queries)
        for kind, (handler, at_once) in self._handlers.items():
            parameters = EntrypointExecutorParameters(
                concurrency_limit=at_once, func=_unused, accepts_context=False, on_failure="hold"
            )
            queuer.qm.register_executor(kind, _Executor(parameters, self, kind, handler, pool))
        return queuer

    async def run(self, kind: str, handler: Handler, subject: str, attempts: int, pool: asyncpg.Pool) -> None:
        """One try of one job. Raises RetryRequested where it is to be tried again."""
        if self._stopping.is_set():
            raise RetryRequested(delay=timedelta(), reason="stopping")
        task = asyncio.create_task(self._alone(kind, handler, subject, pool))
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            raise RetryRequested(delay=timedelta(), reason="stopping")
        error = task.exception() or await _raised(self._told.done(kind, subject))
        if error is None:
            return
        if attempts + 1 >= self._tries or isinstance(error, Hopeless):
            reason = str(error) if isinstance(error, Hopeless) else type(error).__name__
            # A death that nobody could be told of is none yet.
            untold = await _raised(self._told.died(kind, subject, reason))
            if untold is None:
                raise error
            error = untold
        _log.warning("job kind=%s subject=%s failed and will be tried again: %r", kind, subject, error)
        wait = min(self._longest, 2.0 ** min(attempts, 16)) * random.uniform(0.8, 1.2)  # noqa: S311
        raise RetryRequested(delay=timedelta(seconds=wait), reason=type(error).__name__) from error

    async def _alone(self, kind: str, handler: Handler, subject: str, pool: asyncpg.Pool) -> None:
        async with pool.acquire() as held:
            name = f"{self._schema}/{kind}/{subject}"
            await held.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name, timeout=_LONG_SECONDS)
            try:
                await handler(subject)
            finally:
                await held.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", name)

    async def _repeat(self, kind: str, each: tuple[float, Step]) -> None:
        """The steps of one kind, for as long as this worker is the one that holds its lock."""
        seconds, step = each
        name, streak = f"{self._schema}/every/{kind}", Streak(self._told, kind)
        while True:
            try:
                connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=30)
                try:
                    lock = "SELECT pg_advisory_lock(hashtextextended($1, 0))"
                    await connection.execute(lock, name, timeout=_LONG_SECONDS)
                    while await connection.fetchval("SELECT true"):
                        try:
                            await step()
                            await streak.worked()
                        except Exception as error:
                            _log.exception("%s failed and will be tried again", kind)
                            await streak.failed(error)
                        await asyncio.sleep(streak.wait(seconds, self._longest))
                finally:
                    connection.terminate()
            except Exception:
                _log.warning("%s waits for the database", kind)
                await asyncio.sleep(_AGAIN_SECONDS)


class ListeningDriver(AsyncpgPoolDriver):
    """It says nothing before it listens: where both connections were made at the same time, the worker's first probe
    of itself went unheard, and it gave up ten seconds later."""

    def __init__(self, pool: asyncpg.Pool):
        super().__init__(pool)
        self._listens = asyncio.Event()

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        await super().add_listener(channel, callback)
        self._listens.set()

    async def notify(self, channel: str, payload: str) -> None:
        await self._listens.wait()
        await super().notify(channel, payload)


class _Executor(AbstractEntrypointExecutor):
    def __init__(
        self, parameters: EntrypointExecutorParameters, jobs: Jobs, kind: str, handler: Handler, pool: asyncpg.Pool
    ):
        super().__init__(parameters)
        self._jobs, self._kind, self._handler, self._pool = jobs, kind, handler, pool

    async def execute(self, job: models.Job, context: models.Context) -> None:
        subject = (job.payload or b"").decode()
        await self._jobs.run(self._kind, self._handler, subject, job.attempts, self._pool)


async def _raised(telling: Awaitable[None]) -> Exception | None:
    try:
        await telling
    except Exception as error:
        return error
    return None


async def _unused(_: models.Job) -> None:
    raise NotImplementedError


async def enter(db: AsyncConnection, schema: str, kind: str, subject: str, *, due: datetime | None = None) -> None:
    """See `Jobs.enter`. What waits already stands for it, sooner if need be, and no worker takes that before this
    transaction has ended: one that did would not see what is entered here. Where the same is running, one more waits
    behind it, since what was entered now may have come too late for the one that runs."""
    if len(subject) > _MAX_SUBJECT:
        raise ValueError("the subject of a job is a name, not its content")
    queue = f"{schema}.pgqueuer"
    statement = text(f"""
        INSERT INTO {queue} (priority, entrypoint, payload, status, dedupe_key, execute_after)
        VALUES (0, :kind, :payload, 'queued', :key, now() + CAST(:wait AS interval))
        ON CONFLICT DO NOTHING RETURNING id
    """)  # noqa: S608 - the schema is a constant of the service
    sooner = text(f"""
        UPDATE {queue} SET execute_after = now() + CAST(:wait AS interval) WHERE dedupe_key = :key
        AND status = 'queued' AND attempts = 0 AND execute_after > now() + CAST(:wait AS interval) RETURNING id
    """)  # noqa: S608
    waiting = text(f"SELECT id FROM {queue} WHERE dedupe_key = :key AND status = 'queued' FOR SHARE")  # noqa: S608
    running = text(f"SELECT id FROM {queue} WHERE dedupe_key = :key AND status = 'picked'")  # noqa: S608
    # The queue goes by the database's clock alone: a clock of ours that is ahead would make a job wait for hours.
    wait = max(due - datetime.now(UTC), timedelta()) if due else timedelta()
    values = {"kind": kind, "payload": subject.encode(), "wait": wait}
    key = f"{kind}/{subject}"
    while True:
        # An INSERT is a NOTIFY even where it finds that another stands for it.
        for standing, told in ((sooner, {"wait": wait}), (waiting, {})):
            if await db.scalar(standing, told | {"key": key}) is not None:
                return
        if await db.scalar(statement, values | {"key": key}) is not None:
            return
        if await db.scalar(running, {"key": key}) is not None:
            key += "+"


async def dead(engine: AsyncEngine, schema: str, *, after: int | None, limit: int) -> list[DeadJob]:
    """The dead jobs, newest first, from below the id `after`."""
    query = text(f"""
        SELECT id, entrypoint, payload, created, updated FROM {schema}.pgqueuer
        WHERE status = 'failed' AND id < :after ORDER BY id DESC LIMIT :limit
    """)  # noqa: S608
    async with engine.connect() as db:
        rows = (await db.execute(query, {"after": after or 2**63 - 1, "limit": limit})).all()
    return [DeadJob(row.id, row.entrypoint, row.payload.decode(), row.created, row.updated) for row in rows]


async def retry(engine: AsyncEngine, schema: str, job: int) -> bool:
    """Let a dead job wait again, as if it had never been tried; False where there is no such dead job. Where the
    same was entered anew meanwhile, that one stands for it and the dead one goes."""
    again = text(f"""
        UPDATE {schema}.pgqueuer AS dead
        SET status = 'queued', execute_after = now(), updated = now(), attempts = 0, queue_manager_id = NULL
        WHERE id = :job AND status = 'failed' AND NOT EXISTS (
            SELECT FROM {schema}.pgqueuer AS live
            WHERE live.dedupe_key = dead.dedupe_key AND live.status IN ('queued', 'picked')
        ) RETURNING id
    """)  # noqa: S608
    gone = text(f"DELETE FROM {schema}.pgqueuer WHERE id = :job AND status = 'failed' RETURNING id")  # noqa: S608
    async with engine.begin() as db:
        if await db.scalar(again, {"job": job}) is not None:
            return True
        return await db.scalar(gone, {"job": job}) is not None


async def forget_dead(engine: AsyncEngine, schema: str, kind: str, subject: str) -> None:
    """What is done now need not be retried."""
    query = text(f"""
        DELETE FROM {schema}.pgqueuer WHERE status = 'failed' AND entrypoint = :kind AND payload = :payload
    """)  # noqa: S608
    async with engine.begin() as db:
        await db.execute(query, {"kind": kind, "payload": subject.encode()})


async def summary(engine: AsyncEngine, schema: str) -> list[KindSummary]:
    query = text(f"""
        SELECT entrypoint AS kind,
            count(*) FILTER (WHERE status = 'queued') AS waiting,
            count(*) FILTER (WHERE status = 'picked') AS running,
            count(*) FILTER (WHERE status = 'failed') AS dead,
            min(execute_after) FILTER (WHERE status = 'queued' AND execute_after <= now()) AS oldest_due
        FROM {schema}.pgqueuer GROUP BY entrypoint ORDER BY entrypoint
    """)  # noqa: S608
    async with engine.connect() as db:
        rows = (await db.execute(query)).all()
    return [KindSummary(row.kind, row.waiting, row.running, row.dead, row.oldest_due) for row in rows]


async def _forget_old(pool: asyncpg.Pool, schema: str) -> None:
    """The library's own account of finished jobs is kept for thirty days."""
    while True:
        for table in ("pgqueuer_log", "pgqueuer_statistics"):
            await pool.execute(f"DELETE FROM {schema}.{table} WHERE created < now() - $1::interval", _KEPT)  # noqa: S608
        await asyncio.sleep(24 * 3600)
