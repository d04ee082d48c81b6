"""Holds, on both stores: what is held is flagged, whatever is sealed, dies or is cleared meanwhile."""

from __future__ import annotations

import asyncio
import importlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from services.vault import jobs
from services.vault.contract import wire
from services.vault.custodians import Custodians
from services.vault.holds import Holds
from services.vault.retention import HOLD_MISSING, RECONCILE, SETTLE, Retention
from services.vault.sampling import DIFFERS
from services.vault.stores import open_store
from tests.rooms.custody import (
    FIRST,
    MISCOUNTED,
    SECOND,
    change,
    lapsed,
    placed,
    recorded,
    refused,
    release,
    room,
    seal_at,
    settled,
    short,
    shredder_of,
    stored,
    value,
)
from tests.rooms.liar import LOCK, Answer, Gateway, Request, gateway, truthful
from tests.rooms.orders import ORIGIN
from tests.rooms.sealed import Room, settings_of

__all__ = ["room", "short"]


async def test_an_object_that_is_gone_keeps_no_other_from_being_held(room: Room) -> None:
    sealed = await recorded(room, [f"one of many {n}".encode() for n in range(530)])
    await lapsed(room, sealed.id)
    found, shredder = await stored(room, sealed.keys[0]), shredder_of(room)
    await shredder.delete(found.key, found.version)
    await shredder.stop()
    hold = await placed(room, sealed.id)
    async with asyncio.timeout(60):
        while (await room.client.hold_state(hold)).settled < 530:  # and the manifest
            await asyncio.sleep(0.2)
    assert (await stored(room, sealed.keys[-1])).held
    assert await room.told(DIFFERS, found.key)
    listed = (await room.client.holds(active=True)).holds
    assert [one for one in listed if one.id == hold] == [await room.client.hold_state(hold)]


async def test_a_hold_is_placed_though_its_job_died(room: Room) -> None:
    sealed, hold = await recorded(room, [b"while the store was away"]), uuid7()
    await asyncio.sleep(1)
    await change(room, "UPDATE vault.recordings SET renew_at = NULL WHERE id = :id", sealed.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "enter", nothing)
        vault = Holds(room.engine, Custodians(room.engine, ORIGIN), Retention(room.engine, room.store, room.alarms))
        await vault.place(hold, wire.PlaceHold(case=uuid7(), reason="行政复议", recordings=[sealed.id]))
    due = await value(room, "SELECT renew_at FROM vault.recordings WHERE id = :id", sealed.id)
    assert due <= datetime.now(UTC) + timedelta(hours=1)
    await change(room, "UPDATE vault.recordings SET renew_at = now() WHERE id = :id", sealed.id)
    await settled(room, hold, objects=2)


async def nothing(*_: Any, **__: Any) -> None:
    return


async def test_a_hold_covers_what_was_sealed_before_and_what_is_sealed_after(room: Room) -> None:
    sealed = await recorded(room, [b"one", b"two", b"three"], close=False)
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=3)
    (later,) = await seal_at(room, sealed.id, 3, [b"four"])
    state = await settled(room, hold, objects=4)
    assert (state.recordings, state.objects) == (1, 4)
    for key in (*sealed.keys, later):
        found = await stored(room, key)
        assert found.held
        if room.store.lock == "compliance":
            assert found.retain_until and found.retain_until > datetime.now(UTC) + timedelta(days=364)

    assert (await room.client.release(hold, release(hold, FIRST, SECOND))).state == "released"
    async with asyncio.timeout(60):
        while (await stored(room, later)).held or (await stored(room, sealed.keys[0])).held:
            await asyncio.sleep(0.1)
    if room.store.lock == "compliance":  # clearing the flag frees nothing
        until = (await stored(room, later)).retain_until
        assert until and until > datetime.now(UTC) + timedelta(days=364)


async def test_how_far_a_hold_has_come_is_told_without_a_look_at_its_objects(room: Room) -> None:
    first, second = await recorded(room, [b"one", b"two"]), await recorded(room, [b"three"])
    hold = await placed(room, first.id)
    await settled(room, hold, objects=3)
    owner = create_async_engine(room.system.stack.postgres.dsn("quancheng_owner"))
    try:
        async with owner.begin() as db, asyncio.timeout(20):
            await db.execute(text("LOCK TABLE vault.segments, vault.manifests IN ACCESS EXCLUSIVE MODE"))
            state = await room.client.hold_state(hold)
            assert (state.recordings, state.objects, state.settled) == (1, 3, 3)
            more = wire.PlaceHold(case=state.case, reason=state.reason, recordings=[first.id, second.id])
            state = await room.client.hold(hold, more)
            assert (state.recordings, state.objects, state.settled) == (2, 5, 3)
    finally:
        await owner.dispose()
    await settled(room, hold, objects=5)


async def test_what_was_sealed_before_objects_were_counted_is_counted_by_the_migration(room: Room) -> None:
    sealed = await recorded(room, [b"one", b"two"])
    await settled(room, await placed(room, sealed.id), objects=3)
    counting = importlib.import_module("migrations.vault.versions.0009_holds_counted").STATEMENTS[-1]
    owner = create_async_engine(room.system.stack.postgres.dsn("quancheng_owner"))
    try:
        async with owner.connect() as db:
            await db.execute(text("UPDATE vault.recordings SET objects = 0, flagged = 0, doubted = 0"))
            assert (await db.execute(text(MISCOUNTED))).all()
            await db.execute(text(counting))
            assert (await db.execute(text(MISCOUNTED))).all() == []
            await db.rollback()
    finally:
        await owner.dispose()


async def test_a_hold_of_many_is_seen_to_move(room: Room) -> None:
    sealed = await recorded(room, [f"one of many {n}".encode() for n in range(1100)])
    hold, seen = await placed(room, sealed.id), set[int]()
    async with asyncio.timeout(120):
        while (state := await room.client.hold_state(hold)).settled < state.objects:
            assert state.objects == 1101
            seen.add(state.settled)
            await asyncio.sleep(0.02)
    assert len(seen) > 1


async def test_segments_that_are_sealed_under_a_hold_share_one_job(room: Room) -> None:
    sealed = await recorded(room, [b"live"], close=False)
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=1)
    async with room.engine.connect() as db:
        # The hold's own job is done with, not only its flags.
        while await db.scalar(text(_WAITING), {"id": str(sealed.id)}):
            await asyncio.sleep(0.1)
    for number in range(1, 6):
        await seal_at(room, sealed.id, number, [f"live {number}".encode()])
    query = f"SELECT count(*), min(execute_after) - now() {_WAITING.partition('count(*)')[2]}"
    async with room.engine.connect() as db:
        count, wait = (await db.execute(text(query), {"id": str(sealed.id)})).one().tuple()
    assert count == 1
    assert wait > timedelta(seconds=10)


_WAITING = f"SELECT count(*) FROM vault.pgqueuer WHERE dedupe_key = '{SETTLE}/' || :id"


async def test_the_same_hold_again_changes_nothing_and_another_under_its_number_is_refused(room: Room) -> None:
    sealed, hold = await recorded(room, [b"again"]), uuid7()
    message = wire.PlaceHold(case=uuid7(), reason="诉讼", recordings=[sealed.id])
    await room.client.hold(hold, message)
    before = await entries(room, "hold")
    await room.client.hold(hold, message)
    assert await entries(room, "hold") == before
    other = message.model_copy(update={"reason": "复议"})
    assert await refused(room, room.client.hold(hold, other)) == "hold-differs"
    unknown = message.model_copy(update={"recordings": [uuid7()]})
    assert await refused(room, room.client.hold(hold, unknown)) == "no-such-recording"


async def entries(room: Room, kind: str) -> int:
    query = text(
        "SELECT (SELECT count(*) FROM vault.log_entries WHERE convert_from(statement, 'UTF8') LIKE :kind)"
        " + (SELECT count(*) FROM vault.log_pending WHERE convert_from(statement, 'UTF8') LIKE :kind)"
    )
    async with room.engine.connect() as db:
        return int(await db.scalar(query, {"kind": f'%"kind":"{kind}"%'}) or 0)


async def test_a_flag_that_was_cleared_behind_the_vaults_back_is_an_alarm_and_is_set_again(room: Room) -> None:
    sealed = await recorded(room, [b"cleared"])
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=2)
    found = await stored(room, sealed.keys[0])
    await room.store.hold(found.key, found.version, False)
    async with room.engine.begin() as db:
        await jobs.enter(db, RECONCILE, str(sealed.id))
    async with asyncio.timeout(30):
        while not (await stored(room, sealed.keys[0])).held:
            await asyncio.sleep(0.1)
        while not await room.told(HOLD_MISSING, sealed.keys[0]):
            await asyncio.sleep(0.1)
    # It stands until the next look finds the flag again.
    await settled(room, hold, objects=2)
    async with room.engine.begin() as db:
        await jobs.enter(db, RECONCILE, str(sealed.id))
    async with asyncio.timeout(30):
        while await room.told(HOLD_MISSING, sealed.keys[0]):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("short", ["minio"], indirect=True)
async def test_a_lock_that_ends_before_the_date_on_record_is_an_alarm_and_is_extended_again(room: Room) -> None:
    sealed, asked = await recorded(room, [b"shortened", b"left as it was"]), []
    await settled(room, await placed(room, sealed.id), objects=3)
    earlier = {f"{LOCK}retain-until-date": wire.rfc3339(datetime.now(UTC) + timedelta(days=200))}

    def shortened(gate: Gateway, request: Request) -> Answer:
        if request.method == "PUT" and "retention=" in request.query:
            asked.append(urlsplit(request.target).path)
        answer = gate.forward(request)
        told = earlier if request.method == "HEAD" and sealed.keys[0] in request.target else {}
        return Answer(answer.status, answer.headers | told, answer.body)

    assert room.system.stack.minio
    with gateway(room.system.stack.minio, shortened) as gate:
        store = open_store(settings_of(room.system, s3_endpoint=gate.endpoint), b"x" * 32)
        keeping = Retention(room.engine, store, room.alarms)
        await keeping.reconcile(str(sealed.id))
        assert "早于登记" in (await room.told(HOLD_MISSING, sealed.keys[0]) or "")
        assert not await room.told(HOLD_MISSING, sealed.keys[1])
        assert asked == [f"/quancheng-evidence/{sealed.keys[0]}"]
        gate.lie = truthful
        await keeping.reconcile(str(sealed.id))
        await store.stop()
    assert not await room.told(HOLD_MISSING, sealed.keys[0])


async def test_a_killed_vault_goes_on_with_a_hold_of_many(room: Room) -> None:
    sealed = await recorded(room, [f"segment {n}".encode() for n in range(640)])
    hold = await placed(room, sealed.id)
    assert room.system.stack.vault
    room.system.stack.vault.kill()
    async with asyncio.timeout(120):
        while True:
            try:
                state = await room.client.hold_state(hold)
            except Exception:  # it is being started again
                await asyncio.sleep(0.2)
                continue
            if state.objects == state.settled:
                break
            await asyncio.sleep(0.2)
    assert state.objects == 641
    assert all([(await stored(room, key)).held for key in sealed.keys[::40]])
