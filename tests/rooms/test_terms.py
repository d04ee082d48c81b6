"""Terms and the renewal of locks, on both stores: what is kept is locked to the end of its term."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from services.vault import jobs
from services.vault.contract import wire
from services.vault.retention import RENEWAL_FAILED, SETTLE, Retention, keep
from services.vault.sealing import Sealing, lock
from services.vault.service import Vault
from services.vault.stores.port import StoredObject
from tests.rooms.custody import (
    change,
    recorded,
    room,
    short,
    stored,
    value,
    without_jobs,
)
from tests.rooms.sealed import Room, ask, settings_of

__all__ = ["room", "short"]


async def test_locks_are_renewed_to_the_end_of_the_term_and_at_most_a_year(room: Room) -> None:
    near, far = await recorded(room, [b"near"]), await recorded(room, [b"far"])
    until = (datetime.now(UTC) + timedelta(days=200)).replace(microsecond=0)
    await room.client.set_term(near.id, wire.SetTerm(keep_until=until, basis="保管期限表 3.2", schedule="2026"))
    await room.client.set_term(far.id, wire.SetTerm(keep_until=None, basis="永久"))
    async with asyncio.timeout(30):
        while (told := await room.client.retention(near.id)).locked_until != until:
            await asyncio.sleep(0.1)
        while ((await room.client.retention(far.id)).locked_until or until) <= until:
            await asyncio.sleep(0.1)
    assert (told.ends_at, told.terms[0].basis) == (until, "保管期限表 3.2")
    if room.store.lock == "compliance":
        assert (await stored(room, near.keys[0])).retain_until == until
        year = (await stored(room, far.keys[0])).retain_until
        assert year is not None and timedelta(days=364) < year - datetime.now(UTC) <= timedelta(days=365)
        manifest = await stored(room, f"recordings/{near.id}/manifest-0000")
        assert manifest.retain_until == until


async def test_a_recording_is_looked_at_ninety_days_before_its_first_locks_end(room: Room) -> None:
    nobody: Any = None
    begun, year = uuid7(), timedelta(days=365)
    sealing = Sealing(room.engine, room.store, nobody, nobody, retention=year, sweep_after=year)
    await sealing.open(begun, wire.OpenRecording(source=uuid7(), key_id=None, started_at=datetime.now(UTC)))
    ahead = "SELECT renew_at - opened_at FROM vault.recordings WHERE id = :id"
    assert await value(room, ahead, begun) == timedelta(days=275)


async def test_locks_are_renewed_once_they_end_within_ninety_days(room: Room) -> None:
    sealed = await recorded(room, [b"ends sooner", b"ends later"], close=False)
    await room.client.set_term(sealed.id, wire.SetTerm(keep_until=None, basis="永久"))
    locked = "SELECT retain_until FROM vault.segments WHERE recording_id = :id AND sequence = {}"
    now = datetime.now(UTC)
    async with asyncio.timeout(30):
        while await value(room, locked.format(1), sealed.id) < now + timedelta(days=300):
            await asyncio.sleep(0.1)
    async with without_jobs(room, sealed.id):
        days = "(89 + 11 * sequence) * interval '1 day'"
        await change(
            room, f"UPDATE vault.segments SET retain_until = now() + {days} WHERE recording_id = :id", sealed.id
        )
        later = await value(room, locked.format(1), sealed.id)
        await Retention(room.engine, room.store, room.alarms).settle(str(sealed.id))
    assert await value(room, locked.format(0), sealed.id) > now + timedelta(days=364)
    assert await value(room, locked.format(1), sealed.id) == later
    due = await value(room, "SELECT renew_at FROM vault.recordings WHERE id = :id", sealed.id)
    assert due == later - timedelta(days=90)


async def test_a_file_of_the_log_that_cannot_be_renewed_is_an_alarm_and_keeps_no_other_back(room: Room) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    gone, here = f"statements/{uuid7()}", f"statements/{uuid7()}"
    await keep(room.engine, StoredObject(gone, str(uuid7()), 4, "a" * 64, room.store.lock, now), now)
    vault = await Vault.start(settings_of(room.system))
    try:
        put = await vault.store.put(here, b"here", now + timedelta(days=1))
    finally:
        await vault.stop()
    # As when it could not be renewed the last time.
    await room.alarms.sound(RENEWAL_FAILED, here, "存储中已没有这一版本，锁定无法续期")
    await keep(room.engine, put, now + timedelta(days=1))
    async with asyncio.timeout(30):
        while not await room.told(RENEWAL_FAILED, gone):
            await asyncio.sleep(0.1)
        query = text("SELECT retain_until FROM vault.kept_files WHERE key = :key")
        until = now
        while until < now + timedelta(days=300):
            async with room.engine.connect() as db:
                until = await db.scalar(query, {"key": here})
            await asyncio.sleep(0.1)
        while await room.told(RENEWAL_FAILED, here):
            await asyncio.sleep(0.1)
    assert await room.told(RENEWAL_FAILED, gone)


async def test_a_lock_that_reaches_further_than_is_asked_is_left_as_it_is(room: Room) -> None:
    """Else one such object would keep its whole recording from being renewed."""
    sealed = await recorded(room, [b"locked for long"])
    found, now = await stored(room, sealed.keys[0]), datetime.now(UTC).replace(microsecond=0)
    await room.store.extend(found.key, found.version, now + timedelta(days=30))
    await room.store.extend(found.key, found.version, now + timedelta(days=20))
    if room.store.lock == "compliance":
        assert (await stored(room, found.key)).retain_until == now + timedelta(days=30)


async def test_looking_for_what_is_due_does_not_block_who_places_a_hold(room: Room) -> None:
    sealed = await recorded(room, [b"due"])
    async with without_jobs(room, sealed.id):
        queued = "DELETE FROM vault.pgqueuer WHERE status = 'queued' AND payload = convert_to(:id, 'UTF8')"
        async with room.engine.begin() as db:
            await db.execute(text(queued), {"id": str(sealed.id)})
        await change(
            room, "UPDATE vault.recordings SET renew_at = now() - interval '1 day' WHERE id = :id", sealed.id
        )
        async with room.engine.begin() as db:
            await lock(db, sealed.id)
            looking = asyncio.create_task(Retention(room.engine, room.store, room.alarms).enter_due(limit=10000))
            await asyncio.sleep(2)
            await jobs.enter(db, SETTLE, str(sealed.id))
        await looking


async def test_a_series_that_is_locked_to_the_end_of_its_term_is_not_looked_at_again(room: Room) -> None:
    series, data = uuid7(), b"a document"
    await room.client.open_series(series, wire.OpenSeries(source=uuid7()))
    version = ask(1, data).model_copy(update={"media": "file"})
    (ticket,) = (await room.client.exchange(series, wire.ExchangeRequest(asks=[version]))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()
    name = wire.SegmentName(sequence=1, sha256=version.sha256)
    assert (await room.client.exchange(series, wire.ExchangeRequest(commits=[name]))).sealed
    until = (datetime.now(UTC) + timedelta(days=200)).replace(microsecond=0)
    await room.client.set_term(series, wire.SetTerm(keep_until=until, basis="保管期限表 3.2"))
    async with asyncio.timeout(20):
        while await value(room, "SELECT renew_at FROM vault.recordings WHERE id = :id", series):
            await asyncio.sleep(0.1)
    assert (await room.client.retention(series)).locked_until == until


@pytest.mark.parametrize("short", ["minio"], indirect=True)
async def test_the_date_on_record_is_that_of_the_ticket_the_bytes_came_with(room: Room) -> None:
    sealed, late = await recorded(room, [b"first"]), ask(1, b"asked for long ago")
    await room.client.exchange(sealed.id, wire.ExchangeRequest(asks=[late]))
    ago = "retain_until = now() - interval '2 days'"
    await change(room, f"UPDATE vault.segments SET {ago} WHERE recording_id = :id AND state = 'asked'", sealed.id)
    (ticket,) = (await room.client.exchange(sealed.id, wire.ExchangeRequest(asks=[late]))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        (await store.put(ticket.url, content=b"asked for long ago", headers=ticket.headers)).raise_for_status()
    name = wire.SegmentName(sequence=1, sha256=late.sha256)
    assert (await room.client.exchange(sealed.id, wire.ExchangeRequest(commits=[name]))).sealed
    told = await value(
        room, "SELECT retain_until FROM vault.segments WHERE recording_id = :id AND sequence = 1", sealed.id
    )
    found = await stored(room, f"recordings/{sealed.id}/{1:010d}-{late.sha256}")
    assert told >= found.retain_until
