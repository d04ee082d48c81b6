"""A system whose locks and terms last seconds, and what its two custodians ask of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr
from sqlalchemy import text
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT
from services.terminal.closing import root_of, signed_closing
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused
from services.vault.retention import SETTLE
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


def payload_sha256(envelope: dict[str, Any]) -> str:
    return hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()


async def change(room: Room, query: str, recording: UUID) -> None:
    async with room.engine.begin() as db:
        await db.execute(text(query), {"id": recording})


async def value(room: Room, query: str, recording: UUID) -> Any:
    async with room.engine.connect() as db:
        return await db.scalar(text(query), {"id": recording})


def shredder_of(room: Room) -> Shredder:
    """The identity that deletes."""
    if isinstance(room.store, LocalStore):
        return room.store
    told = json.loads((room.system.stack.data / "secrets" / "store-dispose.json").read_text())
    return S3Shredder(settings_of(room.system), told["access"], SecretStr(told["secret"]))
