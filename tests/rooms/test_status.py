"""What an operator sees at the command line: alarms, dead jobs and how to retry them, and the state of the log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from deploy.local.processes import ROOT
from services.vault.errors import StoredDiffers
from services.vault.stores import open_store
from services.vault.writes import FORKED, OwnWrites
from tests.rooms.sealed import Room, room_of, settings_of
from tests.system import System


@pytest.fixture
async def room(local_system: System) -> AsyncIterator[Room]:
    async with room_of(local_system, open_store(settings_of(local_system), b"x" * 32)) as made:
        yield made


def said(system: System, *arguments: str, **changes: str) -> tuple[int, str]:
    environment = system.stack.vault_environment() | changes
    argv = [sys.executable, "-m", "services.vault", *arguments]
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


async def test_alarms_are_listed_while_they_stand(room: Room) -> None:
    await room.alarms.sound("stray-object", "recordings/somewhere", "来历不明的对象。")
    code, told = said(room.system, "alarms")
    assert code == 1 and "✗ stray-object recordings/somewhere" in told and "来历不明的对象。" in told
    await room.alarms.clear("stray-object", "recordings/somewhere")
    assert "recordings/somewhere" not in said(room.system, "alarms")[1]


async def test_dead_jobs_are_listed_and_may_be_retried(room: Room) -> None:
    query = text("""
        INSERT INTO vault.pgqueuer (priority, entrypoint, payload, status)
        VALUES (0, 'nobody-does-this', 'its-subject', 'failed') RETURNING id
    """)
    async with room.engine.begin() as db:
        job = await db.scalar(query)
    try:
        code, told = said(room.system, "jobs")
        assert code == 1 and f"✗ {job} nobody-does-this its-subject" in told and "失败 1" in told
        assert said(room.system, "retry-job", str(job)) == (0, f"✓ 任务 {job} 将重新执行\n")
        told = said(room.system, "jobs")[1]
        assert f"✗ {job}" not in told and "nobody-does-this：等待 1" in told
        assert said(room.system, "retry-job", str(job))[0] == 1
    finally:
        async with room.engine.begin() as db:
            await db.execute(text("DELETE FROM vault.pgqueuer WHERE id = :job"), {"job": job})


def test_the_logs_state_is_told(local_system: System) -> None:
    code, told = said(local_system, "log-state")
    assert code == 0 and told.startswith("日志 ") and "已公布" in told


@pytest.mark.parametrize("call", [("alarms", "x"), ("retry-job",), ("retry-job", "x"), ("jobs", "--all")])
def test_a_wrong_call_is_told(local_system: System, call: tuple[str, ...]) -> None:
    code, told = said(local_system, *call)
    assert code == 64 and "retry-job N" in told


def test_a_database_that_is_away_is_told_in_one_sentence(local_system: System) -> None:
    away = {"QUANCHENG_VAULT_DSN": "postgresql+asyncpg://x:y@/x?host=/nowhere"}
    code, told = said(local_system, "alarms", **away)
    assert code == 3 and "数据库连接不上" in told and len(told.strip().splitlines()) == 1


async def test_what_lies_where_the_log_is_to_be_written_is_an_alarm(room: Room) -> None:
    """Whoever publishes other bytes under the same name tells another history."""
    path, writes = "tile/7/000", OwnWrites(room.alarms)
    await room.store.publish(path, b"what was published", immutable=True)
    with pytest.raises(StoredDiffers):
        async with writes.of("log"):
            await room.store.publish(path, b"what the rows say", immutable=True)
    assert "不同" in (await room.told(FORKED, "log") or "")
    async with writes.of("log"):
        await room.store.publish(path, b"what was published", immutable=True)
    assert await room.told(FORKED, "log") is None
