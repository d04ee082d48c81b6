"""The queue on a real database, with workers that are processes and are killed."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.processes import ROOT
from services import jobs
from services.jobs import Jobs, ListeningDriver
from services.vault import database
from services.vault.contract.client import VaultRefused
from tests.rooms.vaults import vault_settings
from tests.rooms.workers import Told
from tests.system import System


@pytest.fixture
async def engine(local_system: System) -> AsyncIterator[AsyncEngine]:
    made = database.connect(vault_settings(local_system.stack))
    yield made
    await made.dispose()


@pytest.fixture
def dsn(local_system: System) -> str:
    return vault_settings(local_system.stack).dsn.get_secret_value()


@pytest.fixture
def kind() -> str:
    return f"test-{secrets.token_hex(4)}"


@contextmanager
def worker(dsn: str, kind: str, folder: Path, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "tests.rooms.workers", dsn, kind, str(folder), mode]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.05)


async def enter(engine: AsyncEngine, kind: str, subject: str) -> None:
    async with engine.begin() as db:
        await jobs.enter(db, "vault", kind, subject)


def files(folder: Path, begin: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{begin}*"))


async def test_a_killed_workers_job_is_done_by_another(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    await enter(engine, kind, "one")
    with worker(dsn, kind, tmp_path, "hang") as first:
        await until(lambda: bool(files(tmp_path, "one.begun")))
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with worker(dsn, kind, tmp_path, "do") as second:
            await until((tmp_path / f"one.done.{second.pid}").exists)
            await until((tmp_path / "one.told-done").exists)
    assert len(files(tmp_path, "one.done")) == 1


async def test_two_workers_share_the_jobs_and_do_each_once(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    for number in range(12):
        await enter(engine, kind, f"job{number:02d}")
    with worker(dsn, kind, tmp_path, "do"), worker(dsn, kind, tmp_path, "do"):
        await until(lambda: len(files(tmp_path, "job*.told-done")) == 12)
    assert [len(files(tmp_path, f"job{number:02d}.begun")) for number in range(12)] == [1] * 12


async def test_what_fails_backs_off_dies_is_seen_and_can_be_retried(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path, local_system: System
) -> None:
    await enter(engine, kind, "bad")
    with worker(dsn, kind, tmp_path, "fail"):
        await until((tmp_path / "bad.died").exists)
        async with asyncio.timeout(20):
            while not (
                found := [job for job in await jobs.dead(engine, "vault", after=None, limit=200) if job.kind == kind]
            ):
                await asyncio.sleep(0.05)
    assert [job.subject for job in found] == ["bad"]
    assert (tmp_path / "bad.died").read_text() == "ValueError"

    async with local_system.vault() as vault:
        (dead,) = [job for job in (await vault.dead_jobs(limit=200)).jobs if job.kind == kind]
        assert dead.subject == "bad"
        (counted,) = [each for each in (await vault.job_summary()).kinds if each.kind == kind]
        assert (counted.waiting, counted.running, counted.dead) == (0, 0, 1)
        await vault.retry_job(dead.id)
        with worker(dsn, kind, tmp_path, "do"):
            await until((tmp_path / "bad.told-done").exists)
        assert not [job for job in (await vault.dead_jobs(limit=200)).jobs if job.kind == kind]
        with pytest.raises(VaultRefused) as refused:
            await vault.retry_job(dead.id)
    assert refused.value.problem.slug == "no-such-job"


async def test_a_job_goes_with_the_transaction_that_entered_it(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012
        async with engine.begin() as db:
            await jobs.enter(db, "vault", kind, "undone")
            raise RuntimeError
    await enter(engine, kind, "kept")
    with worker(dsn, kind, tmp_path, "do"):
        await until((tmp_path / "kept.told-done").exists)
    assert files(tmp_path, "undone") == []


async def test_the_same_waits_once_and_once_more_behind_one_that_runs(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    for _ in range(3):
        await enter(engine, kind, "same")
    begun, go = asyncio.Event(), asyncio.Event()
    ran: list[str] = []
    at_once = 0

    async def handler(subject: str) -> None:
        nonlocal at_once
        at_once += 1
        assert at_once == 1
        begun.set()
        await go.wait()
        ran.append(subject)
        at_once -= 1

    queue = Jobs(dsn, "vault", Told(tmp_path), lease=timedelta(seconds=5))
    queue.handle(kind, handler)
    working = asyncio.create_task(queue.work())
    await asyncio.wait_for(begun.wait(), 30)
    for _ in range(3):
        await enter(engine, kind, "same")
    go.set()
    await until(lambda: len(ran) >= 2)
    await asyncio.sleep(0.5)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    # The one behind may have been taken already, and then one more waits behind that one.
    assert 2 <= len(ran) <= 3


async def test_a_stopped_worker_gives_its_job_back(engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path) -> None:
    await enter(engine, kind, "long")
    begun = asyncio.Event()

    async def handler(subject: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    queue = Jobs(dsn, "vault", Told(tmp_path), lease=timedelta(minutes=10))
    queue.handle(kind, handler)
    working = asyncio.create_task(queue.work())
    await asyncio.wait_for(begun.wait(), 30)
    working.cancel()
    await asyncio.wait_for(asyncio.gather(working, return_exceptions=True), 15)
    with worker(dsn, kind, tmp_path, "do"):
        await until((tmp_path / "long.told-done").exists, 30)


async def test_one_worker_at_a_time_does_what_recurs(dsn: str, kind: str, tmp_path: Path) -> None:
    did: dict[str, int] = {"a": 0, "b": 0}

    def queue(name: str) -> Jobs:
        async def step() -> None:
            did[name] += 1

        made = Jobs(dsn, "vault", Told(tmp_path))
        made.every(kind, 0.05, step)
        return made

    first = asyncio.create_task(queue("a").work())
    await until(lambda: did["a"] > 2)
    second = asyncio.create_task(queue("b").work())
    await until(lambda: did["a"] > 10)
    assert did["b"] == 0
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await until(lambda: did["b"] > 2)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_what_recurs_and_fails_again_and_again_waits_longer_and_is_told_until_it_works(
    dsn: str, kind: str, tmp_path: Path
) -> None:
    works, times = False, []

    async def step() -> None:
        times.append(asyncio.get_running_loop().time())
        if not works:
            raise ValueError("made to fail")

    queue = Jobs(dsn, "vault", Told(tmp_path), longest=1.0)
    queue.every(kind, 0.01, step)
    working = asyncio.create_task(queue.work())
    await until((tmp_path / "every.died").exists)
    assert (tmp_path / "every.died").read_text() == "ValueError"
    assert len(times) == 8
    assert times[-1] - times[-2] > 4 * (times[2] - times[1])
    died, done = tmp_path / "every.died", tmp_path / "every.told-done"
    died.unlink()
    await until(lambda: len(times) == 10)
    assert not died.exists() and not done.exists()
    works = True
    await until(done.exists)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_an_empty_queue_is_looked_at_seldom(engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path) -> None:
    """What a worker that waits costs the database: a look every few seconds and at each entry, and no more."""

    async def handler(subject: str) -> None:
        return

    queue = Jobs(dsn, "vault", Told(tmp_path))
    queue.handle(kind, handler)
    working = asyncio.create_task(queue.work())
    await enter(engine, kind, "first")
    await until((tmp_path / "first.told-done").exists)
    query = text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    async with engine.connect() as plain:
        db = await plain.execution_options(isolation_level="AUTOCOMMIT")
        await asyncio.sleep(2)
        before = int(await db.scalar(query) or 0)
        await asyncio.sleep(5)
        after = int(await db.scalar(query) or 0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    # The system's own vault, its worker and the api run beside it.
    assert after - before < 300


async def test_what_is_entered_while_the_same_waits_is_not_done_before_it_is_committed(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    """The one that waits stands for it, so no worker may begin that one and miss what is not committed yet."""
    await enter(engine, kind, "same")
    async with engine.begin() as db:
        await jobs.enter(db, "vault", kind, "same")
        with worker(dsn, kind, tmp_path, "do"):
            await asyncio.sleep(6)
            assert files(tmp_path, "same.begun") == []
    with worker(dsn, kind, tmp_path, "do"):
        await until((tmp_path / "same.told-done").exists)
    assert len(files(tmp_path, "same.begun")) == 1


async def test_what_is_entered_while_two_of_the_same_are_taken_is_done_after_both(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    await enter(engine, kind, "same")
    begun, go = asyncio.Event(), asyncio.Event()
    ran = 0

    async def handler(subject: str) -> None:
        nonlocal ran
        begun.set()
        await go.wait()
        ran += 1

    queue = Jobs(dsn, "vault", Told(tmp_path), lease=timedelta(seconds=30))
    queue.handle(kind, handler)
    working = asyncio.create_task(queue.work())
    await asyncio.wait_for(begun.wait(), 30)
    await enter(engine, kind, "same")
    taken = text("SELECT count(*) FROM vault.pgqueuer WHERE entrypoint = :kind AND status = 'picked'")
    async with asyncio.timeout(30):
        while True:
            async with engine.connect() as db:
                if await db.scalar(taken, {"kind": kind}) == 2:
                    break
            await asyncio.sleep(0.05)
    async with engine.begin() as db:
        await jobs.enter(db, "vault", kind, "same")
        go.set()
        await until(lambda: ran == 2)
    await until(lambda: ran == 3, 20)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


class Deaf(Told):
    """Its database is away the first times that something is to be told."""

    def __init__(self, folder: Path, failures: int):
        super().__init__(folder)
        self.failures = failures

    async def died(self, kind: str, subject: str, reason: str) -> None:
        self.fail()
        await super().died(kind, subject, reason)

    async def done(self, kind: str, subject: str) -> None:
        self.fail()
        await super().done(kind, subject)

    def fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError


async def test_a_job_that_was_done_and_could_not_be_told_of_is_not_dead(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    ran = 0

    async def handler(subject: str) -> None:
        nonlocal ran
        ran += 1

    queue = Jobs(dsn, "vault", Deaf(tmp_path, 1), tries=4)
    queue.handle(kind, handler)
    working = asyncio.create_task(queue.work())
    try:
        await enter(engine, kind, "done")
        await until((tmp_path / "done.told-done").exists)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert ran == 2
    assert not [job for job in await jobs.dead(engine, "vault", after=None, limit=200) if job.kind == kind]


async def test_a_job_is_dead_only_once_somebody_was_told(
    engine: AsyncEngine, dsn: str, kind: str, tmp_path: Path
) -> None:
    async def handler(subject: str) -> None:
        raise ValueError

    queue = Jobs(dsn, "vault", Deaf(tmp_path, 1), tries=1)
    queue.handle(kind, handler)
    working = asyncio.create_task(queue.work())
    try:
        await enter(engine, kind, "bad")
        await until((tmp_path / "bad.died").exists)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_what_waits_stands_for_what_is_entered_without_a_call_to_the_workers_and_sooner_if_need_be(
    engine: AsyncEngine, dsn: str, kind: str
) -> None:
    calls: list[object] = []
    listening = await asyncpg.connect(dsn.replace("postgresql+asyncpg://", "postgresql://"))
    await listening.add_listener("quancheng_vault_jobs", lambda *_: calls.append(_))

    async def entered(seconds: float) -> float:
        """How many seconds from now the one that waits is due."""
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        async with engine.begin() as db:
            await jobs.enter(db, "vault", kind, "same", due=due)
        query = "SELECT extract(epoch FROM execute_after - now()) FROM vault.pgqueuer WHERE entrypoint = :kind"
        async with engine.connect() as db:
            return float((await db.execute(text(query), {"kind": kind})).scalar_one())

    try:
        assert await entered(600) > 500
        await until(lambda: len(calls) == 1)
        for _ in range(20):
            assert await entered(900) > 500
        assert 200 < await entered(300) < 310
        await asyncio.sleep(0.5)
        assert len(calls) == 1
    finally:
        await listening.close()
        async with engine.begin() as db:
            await db.execute(text("DELETE FROM vault.pgqueuer WHERE entrypoint = :kind"), {"kind": kind})


async def test_the_queues_probe_of_itself_is_heard_however_late_it_listens(dsn: str, kind: str) -> None:
    heard: list[str | bytes | bytearray] = []
    async with asyncpg.create_pool(dsn.replace("+asyncpg", ""), min_size=1, max_size=3) as pool:
        driver = ListeningDriver(pool)
        async with driver:
            probe = asyncio.create_task(driver.notify(kind, "probe"))
            await asyncio.sleep(0.3)
            await driver.add_listener(kind, heard.append)
            await probe
            await until(lambda: heard == ["probe"])
