"""The vault's database lost or old, and made anew from the bucket alone, on both stores."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT, LocalError
from services.vault import keys
from services.vault.contract import custody, wire
from services.vault.contract.client import VaultRefused
from services.vault.errors import HistoryLost
from services.vault.keyring import Keyring, on_record
from services.vault.log import statement
from services.vault.log.sequencer import Sequencer, enter
from services.vault.rebuild.acts import Acts
from services.vault.stores import disk
from tests.rooms.custody import settled
from tests.rooms.losses import (
    FIRST,
    SECOND,
    Source,
    all_rows,
    destroy,
    dispose,
    dump,
    lose,
    losing,
    rebuilt,
    receipt,
    restore_dump,
    room,
    something_of_everything,
    start_vault,
    stop_vault,
    told_and_published,
    vault_command,
)
from tests.rooms.orders import order, signed
from tests.rooms.sealed import Room, ask, seal, settings_of

__all__ = ["losing", "room"]


async def test_the_rows_made_again_from_the_bucket_are_those_that_were_lost(room: Room) -> None:
    made = await something_of_everything(room)
    await told_and_published(room)
    await dispose(room, made["disposed"])
    await told_and_published(room)
    receipts = {n: await receipt(room, made["closed"], n, data) for n, data in enumerate((b"one", b"two", b"three"))}
    stop_vault(room.system)
    before = await all_rows(room)
    assert before["authorities"] and before["timestamps"]
    assert all('"token": null' not in each for each in before["timestamps"])
    lose(room.system)

    # Nobody begins a new log beside the old one.
    with pytest.raises(LocalError, match="rebuild"):
        start_vault(room.system)
    told = await rebuilt(room)
    assert "全部对象核对无误" in told
    after = await all_rows(room)
    assert after.keys() == before.keys()
    for table, were in before.items():
        assert after[table] == were, table
    assert sum(map(len, before.values())) > 60

    start_vault(room.system)
    for number, data in enumerate((b"one", b"two", b"three")):
        assert await receipt(room, made["closed"], number, data) == receipts[number]
    with pytest.raises(VaultRefused, match="recording-disposed"):
        await room.client.exchange(made["disposed"], wire.ExchangeRequest(asks=[ask(0, b"again")]))
    assert (await room.client.hold_state(made["hold held"])).state == "active"
    assert (await room.client.retention(made["kept"])).ends_at is None
    # The log goes on from where it was published, and says that this happened.
    await told_and_published(room)
    async with room.engine.connect() as db:
        last = await db.scalar(text("SELECT statement FROM vault.log_entries ORDER BY position DESC LIMIT 1"))
    assert b'"kind":"rebuild"' in last


async def test_what_no_statement_told_of_is_sealed_again_by_the_intent_it_carries(room: Room) -> None:
    source = Source(room)
    told = await source.recording(b"told", close=False)
    await told_and_published(room)
    await seal(room.client, told, [b"told", b"not told"])
    put = await source.recording(b"committed never", close=False)
    await seal(room.client, put, [b"committed never", b"put and not committed"], commit=False)
    fresh = await Source(room).recording(b"of a recording that nobody told of", close=False)
    stop_vault(room.system)
    lose(room.system)
    output = await rebuilt(room)
    assert "重新封存" in output
    start_vault(room.system)
    for recording, number, data in (
        (told, 1, b"not told"),
        (put, 1, b"put and not committed"),
        (fresh, 0, b"of a recording that nobody told of"),
    ):
        again = await receipt(room, recording, number, data)
        assert again.receipt.decoded()["sha256"] == hashlib.sha256(data).hexdigest()
    # The source goes on and closes as if nothing had been.
    closed = await source.close(told, b"told", b"not told")
    assert (closed.segments, closed.closed_by) == (2, "terminal")


async def test_a_manifest_that_the_log_did_not_come_to_tell_of_brings_its_receipts_back(room: Room) -> None:
    source = Source(room)
    recording = await source.recording(b"a", b"b", close=False)
    await told_and_published(room)
    closed = await source.close(recording, b"a", b"b")
    receipts = [await receipt(room, recording, n, data) for n, data in enumerate((b"a", b"b"))]
    stop_vault(room.system)
    lose(room.system)
    await rebuilt(room)
    start_vault(room.system)
    assert await room.client.manifest(recording, 0) == closed.model_copy(
        update={"closed_at": (await room.client.manifest(recording, 0)).closed_at}
    )
    assert [await receipt(room, recording, n, data) for n, data in enumerate((b"a", b"b"))] == receipts
    await told_and_published(room)
    assert (await room.client.proof(closed.log_act)).statement["sha256"] == closed.manifest_sha256


async def test_an_old_dump_is_refused_and_brought_up_to_the_bucket(room: Room) -> None:
    source = Source(room)
    before = await source.recording(b"before the dump", close=False)
    await told_and_published(room)
    stop_vault(room.system)
    dump(room.system)
    start_vault(room.system)
    await seal(room.client, before, [b"before the dump", b"after the dump"])
    await source.close(before, b"before the dump", b"after the dump")
    after = await source.recording(b"all of it after")
    hold = uuid7()
    await room.client.hold(hold, wire.PlaceHold(case=uuid7(), reason="行政诉讼", recordings=[before, after]))
    await settled(room, hold, objects=5)
    await told_and_published(room)
    stop_vault(room.system)
    whole = await all_rows(room)
    restore_dump(room.system)

    with pytest.raises(LocalError, match="旧备份"):
        start_vault(room.system)
    await rebuilt(room)
    healed = await all_rows(room)
    for table, were in whole.items():
        assert healed[table] == were, table
    start_vault(room.system)
    assert (await settled(room, hold, objects=5)).objects == 5


async def test_a_killed_rebuild_is_run_again_and_no_vault_starts_meanwhile(room: Room) -> None:
    await Source(room).recording(*(f"piece {n}".encode() for n in range(40)))
    await told_and_published(room)
    stop_vault(room.system)
    whole = await all_rows(room)
    lose(room.system)
    await room.engine.dispose()
    owner = room.system.stack.postgres.dsn("quancheng_owner")
    environment = room.system.stack.vault_environment() | {"QUANCHENG_VAULT_DSN": owner}
    watching = create_async_engine(owner, isolation_level="AUTOCOMMIT")
    for table in ("log_entries", "segments", "manifests"):
        process = subprocess.Popen(
            [sys.executable, "-m", "services.vault", "rebuild"], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(60), watching.connect() as db:
                while not await db.scalar(text(f"SELECT EXISTS (SELECT FROM vault.{table})")):
                    await asyncio.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        with pytest.raises(LocalError):
            start_vault(room.system)
    await watching.dispose()
    await rebuilt(room)
    again = await all_rows(room)
    for table, were in whole.items():
        assert again[table] == were, table
    start_vault(room.system)


@pytest.mark.one_store
async def test_a_running_vault_or_another_role_is_refused_and_nothing_changes(room: Room) -> None:
    await told_and_published(room)
    before = await all_rows(room)
    assert "证据库仍在运行" in await rebuilt(room, "--anyway", code=3)
    stop_vault(room.system)
    refused = await asyncio.to_thread(vault_command, room.system, "rebuild", role="quancheng_vault")
    assert (refused.returncode, "所有者" in refused.stderr) == (3, True)
    assert "无需重建" in await rebuilt(room)
    assert await all_rows(room) == before
    await rebuilt(room, "--anyway")
    after = await all_rows(room)
    for table, were in before.items():
        assert after[table] == were, table
    start_vault(room.system)


@pytest.mark.one_store
async def test_statements_of_a_forked_history_are_told_again_under_other_indexes(room: Room) -> None:
    await told_and_published(room)
    stop_vault(room.system)
    dump(room.system)
    start_vault(room.system)
    await Source(room).recording(b"of the history that was published")
    await told_and_published(room)
    stop_vault(room.system)
    restore_dump(room.system)
    # A vault that did not look at what was published, and ran on the old dump.
    settings = settings_of(room.system)
    passphrase = keys.read_passphrase(settings.keys_passphrase_file)
    own = keys.read(settings.keys, settings.origin, await on_record(room.engine), passphrase)
    keyring = Keyring(room.engine, settings, passphrase, own)
    act = uuid7()
    fields = {"recording": str(uuid7()), "person": str(uuid7()), "purpose": "调查", "until": "x"}
    async with room.engine.begin() as db:
        await enter(db, act, statement.build("viewing", act, datetime.now(UTC), fields))
    assert await Sequencer(room.engine, keyring).sequence() == 1
    told = await rebuilt(room)
    assert "1 条陈述不在已公布的日志中（分叉）" in told
    start_vault(room.system)
    await told_and_published(room)
    assert (await room.client.proof(act)).statement["purpose"] == "调查"


@pytest.mark.parametrize("losing", ["local"], indirect=True)
async def test_an_order_that_is_not_the_one_the_log_names_is_not_taken(room: Room) -> None:
    """As whoever holds the receipt key, and not the past, could seal it."""
    hold = uuid7()
    meant = order("release", hold=hold)
    other = order("release", id=meant.id, hold=hold, reason="别的理由")
    now, act = datetime.now(UTC), uuid7()
    names = {"order": str(meant.id), "order_sha256": custody.order_sha256(signed(meant, FIRST, SECOND))}
    fields = {"hold": str(hold), "case": str(uuid7()), "custodians": [FIRST.key_id, SECOND.key_id]} | names
    said = statement.build("release", act, now, fields).decode()
    carried = {"custodians": [FIRST.key_id, SECOND.key_id], "at": wire.rfc3339(now)}
    acts = Acts(room.engine, {})
    for what in (other, order("release", hold=hold)):
        line = {"statement": said, "carries": {"order": carried | {"envelope": sealed_order(what)}}}
        with pytest.raises(HistoryLost, match="不是日志所记载的"):
            await acts.retell([line])


def sealed_order(what: custody.AnyOrder) -> dict[str, Any]:
    return signed(what, FIRST, SECOND).model_dump()


@pytest.mark.one_store
@pytest.mark.parametrize("losing", ["local"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data.replace(b'"salt":"', b'"salt":"0', 1)[:-1], "损坏"),
        (lambda data: re.sub(rb'"salt":"..', b'"salt":"00', data, count=1), "不一致"),
        (lambda data: data.replace(b'"carries":{', b'"carries":{"x":1,', 1), "签名不成立"),
        (lambda data: data[data.index(b"\n") + 1 :], "与其名称不符"),
        (lambda data: b"", "损坏"),
        (None, "缺少日志陈述"),
    ],
)
async def test_a_statement_file_that_is_not_as_it_was_sealed_is_named_and_nothing_starts(
    room: Room, damage: Callable[[bytes], bytes] | None, why: str
) -> None:
    await Source(room).recording(b"told of in a file")
    await told_and_published(room)
    await Source(room).recording(b"and another")
    await told_and_published(room)
    stop_vault(room.system)
    lose(room.system)
    folder = room.system.stack.data / "evidence" / "evidence" / "statements"
    path = next(file for file in sorted(folder.iterdir())[1:] if b'"receipts"' in file.read_bytes())
    was = path.read_bytes()
    with path.open("rb") as file:
        disk.set_immutable(file.fileno(), False)
    path.unlink()
    if damage is not None:
        assert damage(was) != was
        path.write_bytes(damage(was))
    try:
        assert why in await rebuilt(room, code=3)
        with pytest.raises(LocalError):
            start_vault(room.system)
    finally:
        path.write_bytes(was)
    await rebuilt(room)
    start_vault(room.system)


async def test_what_is_missing_from_the_bucket_is_named_and_alarmed(room: Room) -> None:
    recording = await Source(room).recording(b"will be gone", b"will stay")
    await told_and_published(room)
    stop_vault(room.system)
    lose(room.system)
    key = f"recordings/{recording}/{0:010d}-{hashlib.sha256(b'will be gone').hexdigest()}"
    await destroy(room, key)
    told = await rebuilt(room, code=1)
    assert f"✗ {key}：存储中已不存在这一版本" in told
    assert await room.told("object-differs", key)
    start_vault(room.system)
    assert (await receipt(room, recording, 1, b"will stay")).size == 9
