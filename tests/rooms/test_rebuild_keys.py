"""Rebuilds across changes of keys, and beside what else goes on: each on both stores."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT, LocalError
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused
from services.vault.log import statement
from services.vault.log.sequencer import enter
from tests.rooms import key_changes
from tests.rooms.losses import (
    Source,
    all_rows,
    dump,
    lose,
    losing,
    rebuilt,
    receipt,
    restore_dump,
    room,
    start_vault,
    stop_vault,
    told_and_published,
)
from tests.rooms.sealed import Room

__all__ = ["losing", "room"]


async def test_keys_that_were_rotated_retired_and_revoked_come_back_as_a_history(room: Room) -> None:
    source = Source(room)
    first = await source.recording(b"by the first key", close=False)
    retiring = key_changes.current(room.system, "log")
    for purpose in ("receipt", "log"):
        await asyncio.to_thread(key_changes.rotated, room.system, purpose)
    await asyncio.to_thread(key_changes.done, room.system, "retire-key", retiring)
    closed = await Source(room).recording(b"by the second key")
    second = key_changes.current(room.system, "receipt")
    await asyncio.to_thread(key_changes.done, room.system, "revoke-key", second, "--reason", "可能泄露")
    lost = Source(room)
    left = await lost.recording(b"of a recorder that was lost", close=False)
    message = wire.RevokeEnrolment(recorder=lost.id, code="lost", reason="遗失")
    await room.client.revoke_enrolment(lost.key_id, message)
    await told_and_published(room)
    # One that names a key of the vault as a recorder's revokes none of the vault's.
    async with room.engine.begin() as db:
        now, act = datetime.now(UTC), uuid7()
        fields = {"purpose": "recorder", "key_id": key_changes.current(room.system, "receipt"), "code": "lost"}
        fields |= {"reason": "遗失", "recorder": str(uuid7())}
        await enter(db, act, statement.build("revocation", act, now, fields))
    await told_and_published(room)
    stop_vault(room.system)
    before_all = await all_rows(room)
    lose(room.system)
    assert "全部对象核对无误" in await rebuilt(room)
    after = await all_rows(room)
    for table, were in before_all.items():
        assert after[table] == were, table
    start_vault(room.system)
    assert (await room.client.manifest(closed, 0)).segments == 1
    with pytest.raises(VaultRefused, match="key-revoked"):
        await lost.close(left, b"of a recorder that was lost")
    assert (await source.close(first, b"by the first key")).segments == 1


@pytest.mark.one_store
async def test_a_dump_of_before_a_rotation_destroys_no_key(room: Room) -> None:
    """The newer key is on the disk alone: whoever starts on the older database, or changes a key by it, spares it."""
    folder = key_changes.folder_of(room.system)
    await told_and_published(room)
    stop_vault(room.system)
    dump(room.system)
    start_vault(room.system)
    retiring = key_changes.current(room.system, "log")
    fresh = await asyncio.to_thread(key_changes.rotated, room.system, "log")
    await told_and_published(room)
    stop_vault(room.system)
    whole, held = await all_rows(room), {path.name: path.read_bytes() for path in folder.iterdir()}
    restore_dump(room.system)
    with pytest.raises(LocalError, match="旧备份"):
        start_vault(room.system)
    for command in (
        ("rotate-key", "log", "--reason", "每年更换"),
        ("rotate-key", "receipt", "--reason", "每年更换"),
        ("revoke-key", retiring, "--reason", "可能泄露"),
    ):
        refused = await asyncio.to_thread(key_changes.command, room.system, *command)
        assert (refused.returncode, "旧备份" in refused.stderr) == (3, True), refused.stdout + refused.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held
    await rebuilt(room)
    healed = await all_rows(room)
    for table, were in whole.items():
        assert healed[table] == were, table
    start_vault(room.system)
    assert key_changes.current(room.system, "log") == fresh
    await asyncio.to_thread(key_changes.done, room.system, "retire-key", retiring)


@pytest.mark.one_store
async def test_what_was_closed_while_publishing_stood_still_comes_back_without_its_enrolment(room: Room) -> None:
    await told_and_published(room)
    publishing = text("SELECT pg_advisory_lock(hashtext('quancheng-log-publish'))")
    async with room.engine.connect() as plain:
        await plain.execute(publishing)
        closed = await Source(room).recording(b"one", b"two")
        stop_vault(room.system)
    lose(room.system)
    await rebuilt(room)
    start_vault(room.system)
    assert (await room.client.manifest(closed, 0)).segments == 2
    assert (await receipt(room, closed, 1, b"two")).sha256 == hashlib.sha256(b"two").hexdigest()


@pytest.mark.one_store
async def test_a_vault_that_started_during_a_rebuild_is_noticed(room: Room) -> None:
    await Source(room).recording(*(f"piece {n}".encode() for n in range(40)))
    await told_and_published(room)
    stop_vault(room.system)
    await room.engine.dispose()
    owner = room.system.stack.postgres.dsn("quancheng_owner")
    environment = room.system.stack.vault_environment() | {"QUANCHENG_VAULT_DSN": owner}
    argv = [sys.executable, "-m", "services.vault", "rebuild", "--anyway"]
    rebuilding = await asyncio.create_subprocess_exec(
        *argv, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert rebuilding.stdout
    await asyncio.wait_for(rebuilding.stdout.readline(), 60)
    rebuilding.send_signal(signal.SIGSTOP)
    try:
        start_vault(room.system)
        await Source(room).recording(b"meanwhile")
        await told_and_published(room)
        stop_vault(room.system)
    finally:
        rebuilding.send_signal(signal.SIGCONT)
    _, said = await asyncio.wait_for(rebuilding.communicate(), 60)
    assert (rebuilding.returncode, "重建期间" in said.decode()) == (3, True), said.decode()
    start_vault(room.system)
    await told_and_published(room)
