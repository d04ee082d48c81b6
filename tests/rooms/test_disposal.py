"""Disposal, on both stores: what two custodians sign is deleted, and nothing else is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultRefused
from services.vault.disposal import TOMBSTONE_TYPE, Disposer
from services.vault.sampling import DIFFERS, KEPT
from services.vault.service import Vault
from tests.rooms.custody import (
    FIRST,
    SECOND,
    Sealed,
    change,
    command,
    command_line,
    disposal,
    lapsed,
    payload_sha256,
    placed,
    recorded,
    refused,
    room,
    short,
    shredder_of,
    stored,
    value,
)
from tests.rooms.losses import told_and_published
from tests.rooms.orders import Keeper, keeper, order, signed
from tests.rooms.sealed import Room, ask, settings_of

__all__ = ["room", "short"]


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


@pytest.mark.one_store
async def test_an_order_that_was_tried_in_its_time_begins_nothing_after_it(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    kept = await half_done(room, path, timedelta(seconds=22), FIRST, SECOND)
    await lapsed(room, kept.id)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "已过有效期" in done.stdout) == (1, True), done.stdout + done.stderr
    assert await room.store.head(kept.keys[0]) is not None


@pytest.mark.one_store
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


async def test_media_is_deleted_once_the_store_tells_why(room: Room, tmp_path: Path) -> None:
    told = await recorded(room, [b"told of in the store"])
    await told_and_published(room)
    state = "SELECT state FROM vault.recordings WHERE id = :id"
    async with room.engine.connect() as plain:
        db = await plain.execution_options(isolation_level="AUTOCOMMIT")
        lock = "hashtext('quancheng-log-publish')"
        await db.execute(text(f"SELECT pg_advisory_lock({lock})"))
        untold = await recorded(room, [b"told of in the database alone"])
        await lapsed(room, untold.id)
        path = disposal(tmp_path, told.id, untold.id)
        for _ in ("begun", "gone on with"):
            done = await asyncio.to_thread(command, room.system, "dispose", str(path))
            assert done.returncode == 1, done.stdout + done.stderr
            assert "未删除任何内容" in done.stdout
            assert "日志记录尚未公布" in done.stdout
            assert [await value(room, state, each.id) for each in (told, untold)] == ["disposing", "closed"]
            for each in (told, untold):
                await stored(room, each.keys[0])
        await db.execute(text(f"SELECT pg_advisory_unlock({lock})"))
    await told_and_published(room)
    done = await asyncio.to_thread(command, room.system, "dispose", str(path))
    assert (done.returncode, "已销毁 2 项" in done.stdout) == (0, True), done.stdout + done.stderr


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
