"""Sealed segments in a live system, and eyes of our own on its database and its store."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from services.vault import database
from services.vault.alarms import Alarms
from services.vault.contract import wire
from services.vault.contract.client import VaultClient
from services.vault.contract.verify import key_id
from services.vault.sampling import SEGMENTS, Sampler, Sealed
from services.vault.settings import Settings
from services.vault.stores.local import LocalStore
from services.vault.stores.port import Store
from services.vault.stores.s3 import S3Store
from tests.system import System

_PREFIX = "QUANCHENG_VAULT_"


def settings_of(system: System, **changes: Any) -> Settings:
    told: dict[str, Any] = {
        k.removeprefix(_PREFIX).lower(): json.loads(v) if v.startswith("[") else v
        for k, v in system.stack.vault_environment().items()
    }
    return Settings.model_validate(told | changes)


def ask(sequence: int, data: bytes) -> wire.SegmentAsk:
    return wire.SegmentAsk(
        sequence=sequence,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        media="media",
        started_at=datetime.now(UTC),
        duration_ms=1000,
        monotonic_ms=sequence * 1000,
    )


async def open_recording(client: VaultClient, key: Ed25519PrivateKey | None = None) -> UUID:
    key = key or Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    enrolled = wire.Enrol(recorder=uuid7(), public_key=base64.b64encode(public).decode())
    await client.enrol(enrolled)
    recording = uuid7()
    began = datetime.now(UTC)
    await client.open(
        recording, wire.OpenRecording(source=enrolled.recorder, key_id=key_id(public), started_at=began)
    )
    return recording


async def seal(client: VaultClient, recording: UUID, pieces: list[bytes], *, commit: bool = True) -> list[str]:
    """Ask, put and commit; the keys in the store."""
    asks = [ask(n, data) for n, data in enumerate(pieces)]
    tickets = (await client.exchange(recording, wire.ExchangeRequest(asks=asks))).tickets
    async with httpx.AsyncClient(trust_env=False) as store:
        for ticket in tickets:
            (await store.put(ticket.url, content=pieces[ticket.sequence], headers=ticket.headers)).raise_for_status()
    commits = [wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256) for ask in asks]
    if commit:
        assert len((await client.exchange(recording, wire.ExchangeRequest(commits=commits))).sealed) == len(asks)
    return [f"recordings/{recording}/{ask.sequence:010d}-{ask.sha256}" for ask in asks]


@dataclass
class Room:
    """A live system's database and store, with eyes of our own on both."""

    system: System
    engine: AsyncEngine
    store: Store
    alarms: Alarms
    sampler: Sampler
    client: VaultClient

    async def record(self, key: str) -> Sealed:
        recording, name = key.removeprefix("recordings/").split("/")
        number, _, sha256 = name.partition("-")
        named = {"recording": UUID(recording), "number": int(number), "sha256": sha256}
        async with self.engine.connect() as db:
            row = (await db.execute(SEGMENTS.by_name, named)).one()
        return Sealed(row.key, row.version, row.size, row.sha256, row.retain_until)

    async def told(self, kind: str, subject: str) -> str | None:
        """The detail of the standing alarm."""
        found = [a for a in (await self.alarms.standing(200)).alarms if (a.kind, a.subject) == (kind, subject)]
        assert len(found) < 2
        return found[0].detail if found else None


@asynccontextmanager
async def room_of(system: System, store: Store) -> AsyncIterator[Room]:
    engine = database.connect(settings_of(system))
    alarms = Alarms(engine)
    client = VaultClient(system.stack.vault_url, system.stack._service_key())
    try:
        async with client:
            yield Room(system, engine, store, alarms, Sampler(engine, store, alarms), client)
    finally:
        await store.stop()
        await engine.dispose()


@pytest.fixture
async def s3(minio_system: System) -> AsyncIterator[Room]:
    async with room_of(minio_system, S3Store(settings_of(minio_system))) as room:
        yield room


@pytest.fixture
async def local(local_system: System) -> AsyncIterator[Room]:
    settings = settings_of(local_system)
    assert settings.local_root and settings.local_public_url
    async with room_of(local_system, LocalStore(settings.local_root, settings.local_public_url, b"x" * 32)) as room:
        yield room
