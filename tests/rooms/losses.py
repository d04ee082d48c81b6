"""A vault's database lost in several ways, and the command that makes it anew."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT
from services.terminal.closing import root_of, signed_closing
from services.vault import minutes
from services.vault.contract import wire
from services.vault.contract.verify import key_id
from services.vault.stores import open_store
from tests.peers.authority import Authority
from tests.rooms.custody import command_line
from tests.rooms.orders import ORIGIN, keeper, order, signed
from tests.rooms.sealed import Room, ask, room_of, seal, settings_of
from tests.rooms.test_series import seal as seal_version
from tests.rooms.test_series import version
from tests.system import System, next_minute, running

_TABLES = """
    SELECT string_agg(format('vault.%I', relname), ', ') FROM pg_class
    WHERE relnamespace = 'vault'::regnamespace AND relkind = 'r' AND relname NOT LIKE 'alembic%'
"""
_TIME = re.compile(r"(\d\d:\d\d:\d\d)(?:\.(\d{1,3})\d*)?(?=\+00:00\")")
Rows = dict[str, list[str]]
FIRST, SECOND = keeper("档案员甲"), keeper("法制员乙")
# What the bucket cannot tell and nobody misses: when somebody was last heard of, what waits, what was alarmed.
NOT_TOLD = {
    "alarms": {"*"},
    "rebuilds": {"*"},
    "log_pending": {"*"},
    "log_head": {"checkpoint"},
    "checkpoints": {"*"},
    "cosignatures": {"*"},
    "witnesses": {"*"},
    "recordings": {"active_at", "renew_at"},
    "segments": {"ticket_at", "sweep_at"},
    "terms": {"place"},
    "authorities": {"since"},
    "timestamps": {"minute", "requested_at", "tries", "got_at", "sealed_at"},
}
NOT_TOLD |= {name: {"*"} for name in ("pgqueuer", "pgqueuer_log", "pgqueuer_schedules", "pgqueuer_statistics")}
LOCAL_TELLS_NOT = {
    name: NOT_TOLD.get(name, set()) | {"retain_until"} for name in ("segments", "manifests", "kept_files")
}
"""The folder locks nothing, so it tells no date."""


LOCK_SECONDS = 20.0
"""Long enough that what was put is still locked when a rebuild comes to it."""
SETTINGS = {
    "QUANCHENG_VAULT_ORIGIN": ORIGIN,
    "QUANCHENG_VAULT_RETENTION_DAYS": str(LOCK_SECONDS / 86400),
    "QUANCHENG_VAULT_KEEP_DAYS": str(3 / 86400),
    "QUANCHENG_VAULT_RENEW_EVERY_SECONDS": "600",
}


@pytest.fixture(scope="module", params=["local", "minio"])
def losing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with (
        Authority(tmp_path_factory.mktemp("tsa") / "authority") as authority,
        running(minio, settings=SETTINGS | {"QUANCHENG_VAULT_TSAS": json.dumps([authority.listed])}) as made,
    ):
        for each in (FIRST, SECOND):
            done = vault_command(made, "enrol-custodian", each.name, each.public_text, role="quancheng_vault")
            assert done.returncode == 0, done.stderr
        assert made.stack.api
        made.stack.api.stop()
        yield made


@pytest.fixture
async def room(losing: System) -> AsyncIterator[Room]:
    assert losing.stack.vault
    if losing.stack.vault.pid is None:
        start_vault(losing)
    async with room_of(losing, open_store(settings_of(losing), b"x" * 32)) as made:
        yield made


def vault_command(system: System, *arguments: str, role: str = "quancheng_owner") -> subprocess.CompletedProcess[str]:
    """One of the vault's commands, by default as the owner of its database."""
    environment = system.stack.vault_environment() | {"QUANCHENG_VAULT_DSN": system.stack.postgres.dsn(role)}
    argv = [sys.executable, "-m", "services.vault", *arguments]
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


def stop_vault(system: System) -> None:
    assert system.stack.vault
    system.stack.vault.stop()


def start_vault(system: System) -> None:
    assert system.stack.vault
    system.stack.vault.start()


def lose(system: System) -> None:
    """The database is gone; the migrations have made an empty one."""
    sql = system.stack.postgres.run_sql
    sql(f"TRUNCATE {sql(_TABLES).strip()} CASCADE")


def dump(system: System) -> None:
    sql = system.stack.postgres.run_sql
    sql("DROP SCHEMA IF EXISTS dump CASCADE; CREATE SCHEMA dump")
    for table in sql(_TABLES).strip().split(", "):
        sql(f"CREATE TABLE {table.replace('vault.', 'dump.')} AS TABLE {table}")


def restore_dump(system: System) -> None:
    sql = system.stack.postgres.run_sql
    tables = sql(_TABLES).strip()
    copies = [
        f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table.replace('vault.', 'dump.')}"
        for table in tables.split(", ")
    ]
    sql("; ".join(["SET session_replication_role = replica", f"TRUNCATE {tables} CASCADE", *copies]))


async def rows(room: Room, *, without: dict[str, set[str]]) -> Rows:
    """Every row of every table, as text; times as exact as the wire knows them."""
    found: Rows = {}
    async with room.engine.connect() as db:
        tables = str(await db.scalar(text(_TABLES))).split(", ")
        for table in tables:
            name = table.removeprefix("vault.")
            told = [row[0] for row in await db.execute(text(f"SELECT to_jsonb(t) FROM {table} AS t"))]
            dropped = without.get(name, set())
            if "*" in dropped:
                continue
            found[name] = sorted(
                _TIME.sub(_cut, json.dumps({k: v for k, v in row.items() if k not in dropped}, sort_keys=True))
                for row in told
            )
    return found


def _cut(found: re.Match[str]) -> str:
    return f"{found[1]}.{found[2] or '':0<3}"


async def told_and_published(room: Room) -> None:
    """Everything sealed so far stands in the log, and the log in the store, stamped where there is an authority."""
    await minutes.state_minutes(room.engine, older_than=timedelta(minutes=-2))
    async with asyncio.timeout(60):
        while True:
            async with room.engine.connect() as db:
                waiting = await db.scalar(text("SELECT count(*) FROM vault.log_pending"))
                head = (await db.execute(text("SELECT size, published_size FROM vault.log_head"))).one()
            if not waiting and head.size == head.published_size:
                break
            await asyncio.sleep(0.1)
        if (await room.client.log_state()).stamps.authorities:
            await _stamped(room, head.size)


async def _stamped(room: Room, size: int) -> None:
    """Until that checkpoint lies in the store with its token: the vault asks for none after it."""
    sealed = text("SELECT EXISTS (SELECT FROM vault.timestamps WHERE size >= :size AND sealed_at IS NOT NULL)")
    while True:
        next_minute(room.system)
        async with room.engine.connect() as db:
            if await db.scalar(sealed, {"size": size}):
                return
        await asyncio.sleep(0.5)


@dataclass
class Source:
    """A recorder with its key."""

    room: Room
    id: UUID = field(default_factory=uuid7)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def key_id(self) -> str:
        return key_id(self._public)

    @property
    def _public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    async def recording(self, *pieces: bytes, close: bool = True) -> UUID:
        await self.room.client.enrol(wire.Enrol(recorder=self.id, public_key=base64.b64encode(self._public).decode()))
        recording = uuid7()
        opening = wire.OpenRecording(source=self.id, key_id=self.key_id, started_at=datetime.now(UTC))
        await self.room.client.open(recording, opening)
        await seal(self.room.client, recording, list(pieces))
        if close:
            await self.close(recording, *pieces)
        return recording

    async def close(self, recording: UUID, *pieces: bytes) -> wire.ClosedRecording:
        now = wire.rfc3339(datetime.now(UTC))
        leaves = [(n, hashlib.sha256(data).hexdigest(), len(data)) for n, data in enumerate(pieces)]
        closing = {"recording": str(recording), "count": len(pieces), "root": root_of(leaves), "missing": []}
        closing |= {"started_at": now, "ended_at": now, "interrupted": False}
        told = wire.CloseRecording(closing=signed_closing(closing, self.key))
        return await self.room.client.close(recording, told)


async def receipt(room: Room, recording: UUID, sequence: int, data: bytes) -> wire.SealedSegment:
    name = wire.SegmentName(sequence=sequence, sha256=ask(sequence, data).sha256)
    return await room.client.receipt(recording, name)


async def all_rows(room: Room) -> Rows:
    return await rows(room, without=NOT_TOLD | (LOCAL_TELLS_NOT if room.store.lock == "none" else {}))


async def rebuilt(room: Room, *arguments: str, code: int = 0) -> str:
    await room.engine.dispose()
    done = await asyncio.to_thread(vault_command, room.system, "rebuild", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


async def something_of_everything(room: Room) -> dict[str, UUID]:
    made: dict[str, UUID] = {}
    source, client = Source(room), room.client
    made["closed"] = await source.recording(b"one", b"two", b"three")
    made["open"] = await source.recording(b"open one", b"open two", close=False)
    made["conflict"] = await source.recording(b"first", b"second", close=False)
    await seal(client, made["conflict"], [b"another first"])
    await source.close(made["conflict"], b"first", b"second")
    made["supplement"] = await source.recording(b"before", close=True)
    await seal(client, made["supplement"], [b"before", b"late"])
    made["by server"] = uuid7()
    began: dict[str, Any] = {"source": uuid7(), "key_id": None, "started_at": datetime.now(UTC)}
    opening = wire.OpenRecording(**began, format="ts", remuxed_by="MediaMTX 1.15.3")
    await client.open(made["by server"], opening)
    await seal(client, made["by server"], [b"pushed"])
    await client.close_by_server(made["by server"], wire.CloseByServer(reason="idle"))
    made["series"] = uuid7()
    await client.open_series(made["series"], wire.OpenSeries(source=uuid7()))
    for number, data in enumerate((b"version one", b"version two"), 1):
        await seal_version(client, made["series"], version(number, data, b"what it is"), data)
    made["kept"] = await source.recording(b"kept for good")
    await client.set_term(made["kept"], wire.SetTerm(keep_until=datetime.now(UTC) + timedelta(days=9), basis="三年"))
    await client.set_term(made["kept"], wire.SetTerm(keep_until=None, basis="保管期限表", schedule="2026版"))
    made["held"], made["was held"] = await source.recording(b"held"), await source.recording(b"was held")
    for name in ("held", "was held"):
        made[f"hold {name}"] = uuid7()
        message = wire.PlaceHold(case=uuid7(), reason="行政复议", recordings=[made[name]])
        await client.hold(made[f"hold {name}"], message)
    released = made["hold was held"]
    await client.release(released, signed(order("release", hold=released), FIRST, SECOND))
    for name in ("held", "was held"):
        async with asyncio.timeout(60):
            while (await client.hold_state(made[f"hold {name}"])).settled < 2:
                await asyncio.sleep(0.1)
    made["disposed"] = await source.recording(b"to be forgotten")
    return made


async def dispose(room: Room, recording: UUID) -> None:
    what = order("dispose", basis="期限届满", recordings=[recording])
    path = room.system.folder / f"{what.id}.json"
    path.write_text(signed(what, FIRST, SECOND).model_dump_json())
    await asyncio.sleep(LOCK_SECONDS + 1)
    argv, environment = [sys.executable, "-m", "services.vault", "dispose", str(path)], _disposing(room.system)
    done = await asyncio.to_thread(
        subprocess.run, argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _disposing(system: System) -> dict[str, str]:
    return command_line(system)[1]


async def destroy(room: Room, key: str) -> None:
    """As somebody with every right over the store would, once the lock has lapsed."""
    found = await room.store.head(key)
    assert found is not None
    if room.system.stack.minio:
        from tests.rooms.stores import client

        minio = room.system.stack.minio
        await asyncio.sleep(LOCK_SECONDS + 1)
        admin = client(minio.endpoint, minio.access_key, minio.secret_key)
        admin.remove_object("quancheng-evidence", key, version_id=found.version)
    else:
        await open_store(settings_of(room.system), b"x" * 32).delete(key, found.version)  # type: ignore[attr-defined]
