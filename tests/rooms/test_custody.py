"""Terms, holds, release and disposal, on both stores: what two custodians sign happens, and nothing else does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT
from services.terminal.closing import root_of, signed_closing
from services.vault import jobs
from services.vault.contract import custody, verify, wire
from services.vault.contract.client import VaultRefused
from services.vault.custodians import Custodians
from services.vault.disposal import TOMBSTONE_TYPE, Disposer
from services.vault.holds import Holds
from services.vault.retention import HOLD_MISSING, RECONCILE, RENEWAL_FAILED, SETTLE, Retention, keep
from services.vault.sampling import DIFFERS, KEPT
from services.vault.sealing import lock
from services.vault.service import Vault
from services.vault.stores import open_store
from services.vault.stores.local import LocalStore
from services.vault.stores.port import Shredder, StoredObject
from services.vault.stores.s3 import S3Shredder
from services.vault.tallies import COUNTED
from tests.rooms.orders import ORIGIN, Keeper, keeper, order, signed
from tests.rooms.sealed import Room, ask, open_recording, room_of, settings_of
from tests.system import System, running

LOCK_SECONDS = 9.0
SHORT = {
    "QUANCHENG_VAULT_ORIGIN": ORIGIN,
    "QUANCHENG_VAULT_RETENTION_DAYS": str(LOCK_SECONDS / 86400),
    "QUANCHENG_VAULT_KEEP_DAYS": str(4 / 86400),
    "QUANCHENG_VAULT_RENEW_EVERY_SECONDS": "1",
}
MISCOUNTED = f"""
    SELECT r.id FROM vault.recordings AS r CROSS JOIN LATERAL ({COUNTED}) AS counted
    WHERE (r.objects, r.flagged, r.doubted) IS DISTINCT FROM (counted.objects, counted.flagged, counted.doubted)
"""
FIRST, SECOND = keeper("档案员甲"), keeper("法制员乙")


@pytest.fixture(scope="module", params=["local", "minio"])
def short(request: pytest.FixtureRequest) -> Iterator[System]:
    """A system whose locks and terms last seconds, with two custodians."""
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio, settings=SHORT) as made:
        for each in (FIRST, SECOND):
            done = command(made, "enrol-custodian", each.name, each.public_text)
            assert done.returncode == 0, done.stderr
        yield made
        # Whatever was held, released, killed and disposed of.
        assert made.stack.postgres.run_sql(MISCOUNTED).strip() == ""


@pytest.fixture
async def room(short: System) -> AsyncIterator[Room]:
    async with room_of(short, open_store(settings_of(short), b"x" * 32)) as made:
        yield made


def command_line(system: System, *arguments: str) -> tuple[list[str], dict[str, str]]:
    environment = system.stack.vault_environment()
    kept = system.stack.data / "secrets" / "store-dispose.json"
    if kept.exists():
        told = json.loads(kept.read_text())
        environment |= {f"QUANCHENG_STORE_DISPOSE_{part.upper()}_KEY": told[part] for part in ("access", "secret")}
    return [sys.executable, "-m", "services.vault", *arguments], environment


def command(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv, environment = command_line(system, *arguments)
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


@dataclass
class Sealed:
    id: UUID
    keys: list[str]


async def recorded(room: Room, pieces: list[bytes], *, close: bool = True) -> Sealed:
    key = Ed25519PrivateKey.generate()
    recording = await open_recording(room.client, key)
    keys: list[str] = []
    for first in range(0, len(pieces), 64):
        part = pieces[first : first + 64]
        keys += await seal_at(room, recording, first, part)
    if close:
        leaves = [(n, hashlib.sha256(data).hexdigest(), len(data)) for n, data in enumerate(pieces)]
        now = wire.rfc3339(datetime.now(UTC))
        closing = {"recording": str(recording), "count": len(pieces), "root": root_of(leaves), "missing": []}
        closing |= {"started_at": now, "ended_at": now, "interrupted": False}
        await room.client.close(recording, wire.CloseRecording(closing=signed_closing(closing, key)))
    return Sealed(recording, keys)


async def seal_at(room: Room, recording: UUID, first: int, pieces: list[bytes]) -> list[str]:
    asks = [ask(first + n, data) for n, data in enumerate(pieces)]
    tickets = (await room.client.exchange(recording, wire.ExchangeRequest(asks=asks))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        for ticket in tickets:
            data = pieces[ticket.sequence - first]
            (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()
    commits = [wire.SegmentName(sequence=each.sequence, sha256=each.sha256) for each in asks]
    sealed = await room.client.exchange(recording, wire.ExchangeRequest(commits=commits))
    assert len(sealed.sealed) == len(asks)
    return [f"recordings/{recording}/{each.sequence:010d}-{each.sha256}" for each in asks]


async def placed(room: Room, *recordings: UUID, hold: UUID | None = None) -> UUID:
    hold = hold or uuid7()
    await room.client.hold(hold, wire.PlaceHold(case=uuid7(), reason="行政复议", recordings=list(recordings)))
    return hold


async def settled(room: Room, hold: UUID, *, objects: int, seconds: float = 60) -> wire.Hold:
    async with asyncio.timeout(seconds):
        while True:
            state = await room.client.hold_state(hold)
            if state.objects == state.settled >= objects:
                return state
            await asyncio.sleep(0.1)


async def stored(room: Room, key: str) -> StoredObject:
    found = await room.store.head(key)
    assert found is not None
    return found


async def refused(room: Room, awaited: Any) -> str:
    with pytest.raises(VaultRefused) as told:
        await awaited
    return told.value.problem.slug


def release(hold: UUID, *keepers: Keeper, **fields: Any) -> wire.Envelope:
    return signed(order("release", hold=hold, **fields), *keepers)


async def lapsed(room: Room, recording: UUID) -> None:
    """Until every lock of its segments has lapsed."""
    query = text("SELECT max(retain_until) FROM vault.segments WHERE recording_id = :id")
    async with room.engine.connect() as db:
        last = await db.scalar(query, {"id": recording})
    await asyncio.sleep(max(0.0, (last - datetime.now(UTC)).total_seconds() + 1.5))


def disposal(folder: Path, *recordings: UUID, by: tuple[Keeper, ...] = (FIRST, SECOND)) -> Path:
    what = order("dispose", basis="期限届满，已鉴定", recordings=list(recordings))
    path = folder / "order.json"
    path.write_text(signed(what, *by).model_dump_json())
    return path


# --- terms and renewal ---


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


@asynccontextmanager
async def without_jobs(room: Room, recording: UUID) -> AsyncIterator[None]:
    """No worker settles this recording meanwhile."""
    async with room.engine.connect() as db:
        name = {"name": f"vault/{SETTLE}/{recording}"}
        await db.execute(text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), name)
        try:
            yield
        finally:
            await db.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), name)
            await db.commit()


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


# --- holds ---


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


async def test_a_release_clears_the_flags_of_a_hold_that_was_never_wholly_placed(room: Room) -> None:
    sealed, flagging = await recorded(room, [b"flagged", b"not flagged"]), asyncio.Event()

    class Hanging:
        async def hold(self, key: str, version: str, on: bool) -> None:
            if key == sealed.keys[1]:
                flagging.set()
                await asyncio.Event().wait()
            await room.store.hold(key, version, on)

    hanging: Any = Hanging()
    async with without_jobs(room, sealed.id):
        hold = await placed(room, sealed.id)
        settling = asyncio.create_task(Retention(room.engine, hanging, room.alarms).settle(str(sealed.id)))
        await flagging.wait()
        while not (await stored(room, sealed.keys[0])).held:
            await asyncio.sleep(0.05)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        await room.client.release(hold, release(hold, FIRST, SECOND))
    await settled(room, hold, objects=3)
    assert not (await stored(room, sealed.keys[0])).held


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


async def test_a_flag_that_a_release_clears_meanwhile_is_not_set_again(room: Room) -> None:
    sealed = await recorded(room, [b"released meanwhile"])
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=2)
    looks, released = asyncio.Event(), asyncio.Event()

    class Slow:
        async def head(self, key: str, version: str | None = None) -> StoredObject | None:
            looks.set()
            await released.wait()
            return await room.store.head(key, version)

        async def hold(self, key: str, version: str, on: bool) -> None:
            await room.store.hold(key, version, on)

    slow: Any = Slow()
    looking = asyncio.create_task(Retention(room.engine, slow, room.alarms).reconcile(str(sealed.id)))
    await looks.wait()
    await room.client.release(hold, release(hold, FIRST, SECOND))
    await settled(room, hold, objects=2)
    released.set()
    await looking
    assert not (await stored(room, sealed.keys[0])).held
    assert not await room.told(HOLD_MISSING, sealed.keys[0])


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


async def test_a_release_leaves_what_another_hold_covers(room: Room) -> None:
    shared, alone = await recorded(room, [b"shared"]), await recorded(room, [b"alone"])
    first, second = await placed(room, shared.id, alone.id), await placed(room, shared.id)
    await settled(room, first, objects=4)
    await room.client.release(first, release(first, FIRST, SECOND))
    async with asyncio.timeout(60):
        while (await stored(room, alone.keys[0])).held:
            await asyncio.sleep(0.1)
    await settled(room, first, objects=4)
    assert (await stored(room, shared.keys[0])).held
    assert [each.id for each in (await room.client.holds(active=True, limit=200)).holds if each.id == first] == []
    assert (await room.client.retention(shared.id)).holds == [second]


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


async def test_a_release_that_two_custodians_did_not_sign_changes_nothing(room: Room) -> None:
    sealed = await recorded(room, [b"kept"])
    hold = await placed(room, sealed.id)
    stranger, now = keeper("路人"), datetime.now(UTC)
    good = release(hold, FIRST, SECOND)
    payload = custody.order_bytes(order("release", hold=hold))
    tries = {
        "one alone": (release(hold, FIRST), "order-not-authorized"),
        "one twice": (
            good.model_copy(update={"signatures": [good.signatures[0], good.signatures[0]]}),
            "order-not-authorized",
        ),
        "a stranger": (release(hold, FIRST, stranger), "order-not-authorized"),
        "a signature of another order": (
            good.model_copy(update={"payload": base64.b64encode(payload).decode()}),
            "order-not-authorized",
        ),
        "too old": (
            release(hold, FIRST, SECOND, issued_at=now - timedelta(days=3), expires_at=now - timedelta(days=1)),
            "order-unfit",
        ),
        "not yet": (
            release(hold, FIRST, SECOND, issued_at=now + timedelta(days=1), expires_at=now + timedelta(days=2)),
            "order-unfit",
        ),
        "another hold": (release(uuid7(), FIRST, SECOND), "order-unfit"),
        "of a clone": (release(hold, FIRST, SECOND, vault=f"{ORIGIN}-clone"), "order-unfit"),
        "another act": (
            signed(order("dispose", basis="无依据", recordings=[sealed.id]), FIRST, SECOND),
            "order-unfit",
        ),
        "another type": (good.model_copy(update={"payloadType": "text/plain"}), "order-unfit"),
        "no order": (
            good.model_copy(update={"payload": base64.b64encode(b'{"act":"release"}').decode()}),
            "order-unfit",
        ),
    }
    for name, (envelope, slug) in tries.items():
        assert (name, await refused(room, room.client.release(hold, envelope))) == (name, slug)
    assert (await room.client.hold_state(hold)).state == "active"
    # The same order again is the same release; its number cannot mean another.
    assert (await room.client.release(hold, good)).state == "released"
    assert (await room.client.release(hold, good)).state == "released"
    reused = order("release", hold=hold, id=custody.ORDERS.validate_json(base64.b64decode(good.payload)).id)
    assert await refused(room, room.client.release(hold, signed(reused, FIRST, SECOND))) == "order-differs"


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


async def test_the_alarm_of_a_missing_flag_goes_with_the_hold(room: Room) -> None:
    sealed = await recorded(room, [b"cleared, and let go"])
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=2)
    await room.alarms.sound(HOLD_MISSING, sealed.keys[0], "存储中的留存标志已被清除，已重新设置")
    other = f"recordings/{uuid7()}/{0:010d}-{'0' * 64}"
    await room.alarms.sound(HOLD_MISSING, other, "另一份记录的")
    await room.client.release(hold, release(hold, FIRST, SECOND))
    async with asyncio.timeout(30):
        while await room.told(HOLD_MISSING, sealed.keys[0]):
            await asyncio.sleep(0.1)
    assert await room.told(HOLD_MISSING, other)
    await room.alarms.clear(HOLD_MISSING, other)


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


def payload_sha256(envelope: dict[str, Any]) -> str:
    return hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()


async def test_the_log_commits_to_the_order_that_was_signed(room: Room) -> None:
    sealed = await recorded(room, [b"held by order"])
    hold = await placed(room, sealed.id)
    envelope = release(hold, FIRST, SECOND)
    await room.client.release(hold, envelope)
    query = text(
        "SELECT statement FROM (SELECT statement FROM vault.log_entries UNION"
        " SELECT statement FROM vault.log_pending) AS told WHERE convert_from(statement, 'UTF8') LIKE :release"
    )
    async with room.engine.connect() as db:
        said = json.loads(await db.scalar(query, {"release": f'%"hold":"{hold}"%"kind":"release"%'}) or b"")
    assert said["order_sha256"] == payload_sha256(envelope.model_dump())


# --- custodians ---


def test_a_third_custodian_needs_the_order_of_two(short: System, tmp_path: Path) -> None:
    third, again = keeper("丙"), keeper(FIRST.name)
    assert "签名" in command(short, "enrol-custodian", third.name, third.public_text).stderr
    path = tmp_path / "enrol.json"
    what = order("enrol-custodian", name=third.name, public_key=third.public_text)
    path.write_text(signed(what, FIRST, SECOND).model_dump_json())
    other = command(short, "enrol-custodian", "丁", third.public_text, str(path))
    assert other.returncode == 1
    assert command(short, "enrol-custodian", third.name, third.public_text, str(path)).returncode == 0
    what = order("enrol-custodian", name=again.name, public_key=again.public_text)
    path.write_text(signed(what, SECOND, third).model_dump_json())
    assert command(short, "enrol-custodian", again.name, again.public_text, str(path)).returncode == 1
    path.write_text(signed(order("remove-custodian", key_id=third.key_id), FIRST, SECOND).model_dump_json())
    assert command(short, "remove-custodian", str(path)).returncode == 0
    assert f"{third.key_id} 丙" in command(short, "custodians").stdout
    path.write_text(signed(order("remove-custodian", key_id=SECOND.key_id), FIRST, SECOND).model_dump_json())
    assert command(short, "remove-custodian", str(path)).returncode == 1


# --- disposal ---


async def test_what_may_not_be_disposed_of_yet_is_named_and_stays(room: Room, tmp_path: Path) -> None:
    held, open_, kept = (
        await recorded(room, [b"held"]),
        await recorded(room, [b"open"], close=False),
        await recorded(room, [b"kept for good"]),
    )
    await placed(room, held.id)
    await room.client.set_term(kept.id, wire.SetTerm(keep_until=None, basis="永久"))
    path = disposal(tmp_path, held.id, open_.id, kept.id, uuid7())
    for arguments in (["dispose", "--check"], ["dispose"]):
        done = await asyncio.to_thread(command, room.system, *arguments, str(path))
        assert done.returncode == 1
        for why in ("处于复议诉讼留存中", "尚未关闭", "永久保管", "证据库中没有这一记录"):
            assert why in done.stdout, done.stdout + done.stderr
    for sealed in (held, open_, kept):
        assert await room.store.head(sealed.keys[0]) is not None
    path = disposal(tmp_path, kept.id, by=(FIRST,))
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "签名" in done.stderr) == (1, True)


async def half_done(room: Room, path: Path, lives: timedelta, *keepers: Keeper) -> Sealed:
    """An order in `path` that has begun and cannot go on with the recording that is returned: its term ends only
    in 25 seconds."""
    gone, kept = await recorded(room, [b"in time"]), await recorded(room, [b"too late"])
    await lapsed(room, gone.id)
    ends = (datetime.now(UTC) + timedelta(seconds=25)).replace(microsecond=0)
    await room.client.set_term(kept.id, wire.SetTerm(keep_until=ends, basis="延期"))
    listed = {"recordings": [gone.id, kept.id], "expires_at": datetime.now(UTC) + lives}
    path.write_text(signed(order("dispose", basis="期限届满", **listed), *keepers).model_dump_json())
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert "已销毁 1 项" in done.stdout, done.stdout + done.stderr
    return kept


async def test_an_order_that_was_tried_in_its_time_begins_nothing_after_it(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    kept = await half_done(room, path, timedelta(seconds=22), FIRST, SECOND)
    await lapsed(room, kept.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "已过有效期" in done.stdout) == (1, True), done.stdout + done.stderr
    assert await room.store.head(kept.keys[0]) is not None


async def test_an_order_begins_nothing_once_who_signed_it_is_no_longer_a_custodian(
    room: Room, tmp_path: Path
) -> None:
    third, change, path = keeper("丁"), tmp_path / "change.json", tmp_path / "order.json"
    what = order("enrol-custodian", name=third.name, public_key=third.public_text)
    change.write_text(signed(what, FIRST, SECOND).model_dump_json())
    enrol = ("enrol-custodian", third.name, third.public_text, str(change))
    assert (await asyncio.to_thread(command, room.system, *enrol)).returncode == 0
    kept = await half_done(room, path, timedelta(days=1), FIRST, third)
    change.write_text(signed(order("remove-custodian", key_id=third.key_id), FIRST, SECOND).model_dump_json())
    assert (await asyncio.to_thread(command, room.system, "remove-custodian", str(change))).returncode == 0
    await lapsed(room, kept.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "在册保管人" in done.stdout) == (1, True), done.stdout + done.stderr
    assert await room.store.head(kept.keys[0]) is not None


async def test_nothing_is_disposed_of_while_bytes_that_were_asked_for_may_lie_in_the_store(
    room: Room, tmp_path: Path
) -> None:
    sealed, late = await recorded(room, [b"in time"]), ask(1, b"late")
    (ticket,) = (await room.client.exchange(sealed.id, wire.ExchangeRequest(asks=[late]))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        (await store.put(ticket.url, content=b"late", headers=ticket.headers)).raise_for_status()
    # The ticket has lapsed, and nobody has looked yet.
    lapse = "ticket_at = now() - interval '16 minutes', sweep_at = now() + interval '1 hour'"
    await change(room, f"UPDATE vault.segments SET {lapse} WHERE recording_id = :id AND state = 'asked'", sealed.id)
    await lapsed(room, sealed.id)
    path = disposal(tmp_path, sealed.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "尚未封存" in done.stdout) == (1, True), done.stdout + done.stderr
    # A ticket of nine seconds is no ticket: what it locked has lapsed by now.
    found = await stored(room, f"recordings/{sealed.id}/{1:010d}-{late.sha256}")
    await room.store.extend(found.key, found.version, datetime.now(UTC) + timedelta(days=1))
    await change(
        room, "UPDATE vault.segments SET sweep_at = now() WHERE recording_id = :id AND state = 'asked'", sealed.id
    )
    name = wire.SegmentName(sequence=1, sha256=late.sha256)
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(VaultRefused):
                await room.client.receipt(sealed.id, name)
                break
            await asyncio.sleep(0.2)


async def change(room: Room, query: str, recording: UUID) -> None:
    async with room.engine.begin() as db:
        await db.execute(text(query), {"id": recording})


async def value(room: Room, query: str, recording: UUID) -> Any:
    async with room.engine.connect() as db:
        return await db.scalar(text(query), {"id": recording})


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


async def test_two_disposals_at_once_leave_one_tombstone(room: Room, tmp_path: Path) -> None:
    sealed = await recorded(room, [b"by two at once"])
    await lapsed(room, sealed.id)
    path = disposal(tmp_path, sealed.id)
    vault = await Vault.start(settings_of(room.system))

    class Overtaken:
        """Between signing and storing, another process does it all."""

        def __getattr__(self, name: str) -> Any:
            return getattr(vault.keyring, name)

        def envelope(self, *told: Any) -> Any:
            made = vault.keyring.envelope(*told)
            assert command(room.system, "dispose", str(path)).returncode == 0
            return made

    overtaken: Any = Overtaken()
    disposer = Disposer(
        vault.engine,
        vault.store,
        overtaken,
        vault.sequencer,
        vault.custodians,
        vault.retention,
    )
    shredder = shredder_of(room)
    try:
        (one,) = await disposer.dispose(wire.Envelope.model_validate_json(path.read_bytes()), shredder, print)
    finally:
        await shredder.stop()
        await vault.stop()
    assert one.disposed
    left = await room.client.tombstone(sealed.id)
    assert left.sha256 == (await stored(room, f"recordings/{sealed.id}/tombstone")).sha256


async def test_a_clock_that_is_stepped_in_the_midst_of_a_disposal_stops_the_rest(room: Room, tmp_path: Path) -> None:
    first, second = await recorded(room, [b"in time"]), await recorded(room, [b"after the step"])
    await lapsed(room, second.id)
    path, looks = disposal(tmp_path, first.id, second.id), 0
    vault = await Vault.start(settings_of(room.system))

    class Stepped:
        """The store's clock, which is stepped after the first item."""

        def __getattr__(self, name: str) -> Any:
            return getattr(vault.store, name)

        async def drift(self) -> timedelta:
            nonlocal looks
            looks += 1
            return timedelta(hours=1) if looks > 1 else await vault.store.drift()

    stepped: Any = Stepped()
    parts = (vault.keyring, vault.sequencer, vault.custodians, vault.retention)
    disposer, shredder = Disposer(vault.engine, stepped, *parts), shredder_of(room)
    try:
        one, other = await disposer.dispose(wire.Envelope.model_validate_json(path.read_bytes()), shredder, print)
    finally:
        await shredder.stop()
        await vault.stop()
    assert (one.disposed, other.disposed) == (True, False)
    assert "时钟" in other.why
    assert await room.store.head(second.keys[0]) is not None


def shredder_of(room: Room) -> Shredder:
    """The identity that deletes."""
    if isinstance(room.store, LocalStore):
        return room.store
    told = json.loads((room.system.stack.data / "secrets" / "store-dispose.json").read_text())
    return S3Shredder(settings_of(room.system), told["access"], SecretStr(told["secret"]))


async def test_a_disposal_deletes_the_media_and_leaves_a_tombstone(room: Room, tmp_path: Path) -> None:
    sealed = await recorded(room, [b"to be", b"forgotten"])
    path = disposal(tmp_path, sealed.id)
    early = await asyncio.to_thread(command, room.system, "dispose", "--check", str(path))
    assert "保管期限未满" in early.stdout or "存储锁定至" in early.stdout or room.store.lock == "none"
    await lapsed(room, sealed.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "已销毁 1 项" in done.stdout

    for key in sealed.keys:
        assert await room.store.head(key) is None
    assert await room.store.head(f"recordings/{sealed.id}/manifest-0000") is not None
    left = await room.client.tombstone(sealed.id)
    async with room.engine.connect() as db:
        kept = (await db.execute(KEPT.by_name, {"key": f"recordings/{sealed.id}/tombstone"})).one()
    assert kept.sha256 == left.sha256  # it is sampled as any kept file
    identity = await room.client.identity()
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.receipt_key))
    told = verify.verify_envelope(left.tombstone.model_dump(), {identity.receipt_key_id: public}, TOMBSTONE_TYPE)
    assert (told["recording"], told["segments"], told["media_bytes"]) == (str(sealed.id), 2, 14)
    statement = (await room.client.proof(left.act)).statement
    assert (statement["kind"], statement["recording"]) == ("disposal", str(sealed.id))
    assert sorted(statement["custodians"]) == sorted([FIRST.key_id, SECOND.key_id])
    assert statement["order_sha256"] == payload_sha256(json.loads(path.read_text()))

    name = wire.SegmentName(sequence=0, sha256=hashlib.sha256(b"to be").hexdigest())
    message = wire.ReadTicketsRequest(items=[name])
    assert await refused(room, room.client.read_tickets(sealed.id, message)) == "recording-disposed"
    again = wire.ExchangeRequest(asks=[ask(0, b"to be")])
    assert await refused(room, room.client.exchange(sealed.id, again)) == "recording-disposed"
    held = wire.PlaceHold(case=uuid7(), reason="太迟", recordings=[sealed.id])
    assert await refused(room, room.client.hold(uuid7(), held)) == "recording-disposed"
    assert (await room.client.receipt(sealed.id, name)).sha256 == name.sha256
    repeated = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (repeated.returncode, "先前已销毁" in repeated.stdout) == (0, True)


async def test_after_a_disposal_manifests_are_renewed_and_nothing_else_is_looked_at(
    room: Room, tmp_path: Path
) -> None:
    sealed = await recorded(room, [b"gone, and not forgotten"])
    await lapsed(room, sealed.id)
    await room.alarms.sound(DIFFERS, sealed.keys[0], "校验值与登记的不符")
    done = await asyncio.to_thread(command, room.system, "dispose", str(disposal(tmp_path, sealed.id)))
    assert done.returncode == 0, done.stdout + done.stderr
    # As a job that was under way when the disposal began may leave it.
    await change(room, "UPDATE vault.recordings SET renew_at = now() WHERE id = :id", sealed.id)
    named = "key = 'recordings/' || CAST(:id AS uuid) || '/manifest-0000'"
    kept = f"SELECT retain_until FROM vault.kept_files WHERE {named}"
    async with asyncio.timeout(30):
        while (await value(room, kept, sealed.id) or datetime.now(UTC)) < datetime.now(UTC) + timedelta(days=300):
            await asyncio.sleep(0.1)
        while await value(room, "SELECT renew_at FROM vault.recordings WHERE id = :id", sealed.id):
            await asyncio.sleep(0.1)
        while await room.told(DIFFERS, sealed.keys[0]):
            await room.sampler.look()


async def test_a_killed_disposal_goes_on_where_it_was(room: Room, tmp_path: Path) -> None:
    sealed = await recorded(room, [f"piece {n}".encode() for n in range(320)])
    await lapsed(room, sealed.id)
    path = disposal(tmp_path, sealed.id)
    argv, environment = command_line(room.system, "dispose", str(path))
    process = subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while not (gone := await disposed(room, sealed.id)) > 0:
                await asyncio.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert gone < 320
    with pytest.raises(VaultRefused):
        await room.client.tombstone(sealed.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert await disposed(room, sealed.id) == 320
    assert (await room.client.tombstone(sealed.id)).tombstone.decoded()["segments"] == 320
    assert [each.key async for each in room.store.list(f"recordings/{sealed.id}/00")] == []


async def disposed(room: Room, recording: UUID) -> int:
    query = text("SELECT count(*) FROM vault.segments WHERE recording_id = :id AND state = 'disposed'")
    async with room.engine.connect() as db:
        return int(await db.scalar(query, {"id": recording}) or 0)


@pytest.mark.parametrize("short", ["minio"], indirect=True)
async def test_the_store_keeps_what_it_has_locked_whatever_the_rows_say(room: Room, tmp_path: Path) -> None:
    sealed = await recorded(room, [b"locked in the store"])
    found = await stored(room, sealed.keys[0])
    await room.store.extend(found.key, found.version, datetime.now(UTC) + timedelta(days=30))
    await lapsed(room, sealed.id)
    path = disposal(tmp_path, sealed.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "尚未删完" in done.stdout) == (1, True)
    assert await room.store.head(sealed.keys[0]) is not None
    assert await disposed(room, sealed.id) == 0
