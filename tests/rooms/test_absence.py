"""Nobody does the vault's jobs, or not in time: who serves says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from services.vault import jobs
from services.vault.absence import ABSENT, Absence
from services.vault.retention import RENEW_BEFORE, keep
from services.vault.service import Vault
from services.vault.stores import open_store
from services.vault.stores.port import StoredObject
from tests.rooms.sealed import Room, open_recording, room_of, settings_of
from tests.system import System, running

SETTINGS = {"QUANCHENG_VAULT_WORK": "false", "QUANCHENG_VAULT_WATCH_SECONDS": "1"}


@pytest.fixture(scope="module")
def idle() -> Iterator[System]:
    """A vault that serves and does no jobs."""
    with running(None, settings=SETTINGS) as made:
        yield made


@pytest.fixture
async def room(idle: System) -> AsyncIterator[Room]:
    async with room_of(idle, open_store(settings_of(idle), b"x" * 32)) as made:
        yield made


async def change(room: Room, query: str, recording: UUID) -> None:
    async with room.engine.begin() as db:
        await db.execute(text(query), {"id": str(recording)})


async def test_no_worker_at_all_is_an_alarm_until_one_is_there(room: Room) -> None:
    absence, patient = Absence(room.engine, room.alarms, [], grace=0), Absence(room.engine, room.alarms, [])
    await patient.look()
    assert not await room.told(ABSENT, "jobs")
    await absence.look()
    assert "没有后台任务进程" in (await room.told(ABSENT, "jobs") or "")
    vault = await Vault.start(settings_of(room.system))
    vault.work()
    try:
        async with asyncio.timeout(30):
            while await room.told(ABSENT, "jobs"):  # the serving vault's own watch clears it
                await asyncio.sleep(0.2)
    finally:
        await vault.stop()


async def test_a_job_that_is_due_for_long_is_an_alarm_of_the_serving_vault_until_it_is_done(room: Room) -> None:
    subject = str(uuid7())
    async with room.engine.begin() as db:
        await jobs.enter(db, "settle-locks", subject)
    await asyncio.sleep(2.5)
    assert not await room.told(ABSENT, "jobs")
    late = "UPDATE vault.pgqueuer SET execute_after = now() - interval '1 hour'"
    await change(room, f"{late} WHERE dedupe_key = 'settle-locks/' || :id", UUID(subject))
    async with asyncio.timeout(30):
        while "后台任务自" not in (await room.told(ABSENT, "jobs") or ""):
            await asyncio.sleep(0.2)
    await caught_up(room)


async def test_what_is_due_for_renewal_for_long_is_an_alarm_until_it_is_looked_at(room: Room) -> None:
    recording = await open_recording(room.client)
    await change(room, "UPDATE vault.recordings SET renew_at = now() - interval '2 days' WHERE id = :id", recording)
    lapsing = datetime.now(UTC) + RENEW_BEFORE - timedelta(days=2)
    vault = await Vault.start(settings_of(room.system))
    try:
        stored = await vault.store.put(f"statements/{uuid7()}", b"x", lapsing)
    finally:
        await vault.stop()
    told = StoredObject(stored.key, stored.version, 1, stored.sha256, stored.lock, lapsing)
    await keep(room.engine, told, lapsing)
    async with asyncio.timeout(30):
        told_of = ""
        while "应查看续期" not in told_of or "日志文件" not in told_of:
            told_of = await room.told(ABSENT, "jobs") or ""
            await asyncio.sleep(0.2)
    await caught_up(room)


async def caught_up(room: Room) -> None:
    vault = await Vault.start(settings_of(room.system))
    vault.work()
    try:
        async with asyncio.timeout(60):
            while await room.told(ABSENT, "jobs"):
                await asyncio.sleep(0.2)
    finally:
        await vault.stop()
