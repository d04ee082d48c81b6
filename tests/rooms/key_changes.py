"""The operator's commands on keys against a live vault, and what the database and the log tell of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.processes import ROOT
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from tests.rooms.sealed import ask
from tests.system import System


def folder_of(system: System) -> Path:
    return Path(system.stack.vault_environment()["QUANCHENG_VAULT_KEYS"])


def command(system: System, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = system.stack.vault_environment() | changes
    argv = [sys.executable, "-m", "services.vault", *arguments]
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


def done(system: System, *arguments: str, **changes: str) -> str:
    told = command(system, *arguments, **changes)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def rotated(system: System, purpose: str) -> str:
    done(system, "rotate-key", purpose, "--reason", "每年更换")
    return current(system, purpose)


def current(system: System, purpose: str) -> str:
    query = f"SELECT key_id FROM vault.keys WHERE purpose = '{purpose}' AND superseded_at IS NULL"
    return system.stack.postgres.run_sql(query).strip()


async def told_by(vault: VaultClient, key_id: str, seconds: float = 15) -> wire.VaultIdentity:
    """The identity of a vault once it tells of this key."""
    until = time.monotonic() + seconds
    while True:
        identity = await vault.identity()
        if key_id in (identity.receipt_key_id, log_key_id(identity)):
            return identity
        assert time.monotonic() < until, identity
        await asyncio.sleep(0.1)


def log_key_id(identity: wire.VaultIdentity) -> str:
    return verify.key_id(verify.raw_key(verify.parse_vkey(identity.log_vkey).key))


async def sealed(vault: VaultClient, recording: UUID, sequence: int, *, by: VaultClient | None = None) -> str:
    """Seal one segment; the id of the key that signed its receipt."""
    data = os.urandom(64)
    (ticket,) = (await vault.exchange(recording, wire.ExchangeRequest(asks=[ask(sequence, data)]))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()
    return await committed(by or vault, recording, ticket)


async def committed(vault: VaultClient, recording: UUID, ticket: wire.Ticket) -> str:
    name = wire.SegmentName(sequence=ticket.sequence, sha256=ticket.sha256)
    (one,) = (await vault.exchange(recording, wire.ExchangeRequest(commits=[name]))).sealed
    return one.receipt.signatures[0].keyid


def statements(system: System, kind: str) -> list[dict[str, Any]]:
    rows = system.stack.postgres.run_sql(
        "SELECT convert_from(statement, 'UTF8') FROM vault.log_entries"
        f" WHERE convert_from(statement, 'UTF8') LIKE '%\"kind\":\"{kind}\"%' ORDER BY position"
    )
    return [json.loads(row) for row in rows.splitlines() if row.startswith("{")]


def restarted(system: System) -> None:
    assert system.stack.vault
    system.stack.vault.stop()
    system.stack.vault.start()
    system.stack.vault.wait_ready()


@contextlib.contextmanager
def nobody_may_change_keys(system: System) -> Iterator[None]:
    """As a long closing does: the right to sign is shared until the block ends."""
    dsn = system.stack.postgres.dsn("quancheng_vault")

    async def hold(ready: asyncio.Event, end: asyncio.Event) -> None:
        engine = create_async_engine(dsn)
        async with engine.begin() as db:
            await db.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(hashtext('quancheng-vault-signing'))")
            ready.set()
            await end.wait()
        await engine.dispose()

    loop, ready, end = asyncio.new_event_loop(), asyncio.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(hold(ready, end)))
    thread.start()
    asyncio.run_coroutine_threadsafe(ready.wait(), loop).result(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
