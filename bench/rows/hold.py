"""Legal holds: flagging every segment of a case, beside as many bare calls to the same store."""

import asyncio
import base64
import hashlib
import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from minio import Minio
from uuid_utils.compat import uuid7

from bench.frame import row
from bench.system import minio_system, require_room
from deploy.local.processes import ROOT
from services.vault.contract import wire
from services.vault.contract.client import VaultClient
from services.vault.contract.verify import key_id
from services.vault.many import AT_ONCE
from tests.rooms.orders import keeper, order, signed

_PUTS = 16
_CUSTODIANS = (keeper("档案员甲"), keeper("法制员乙"))


def segments() -> int:
    """How many a case has: 10,000, or `$QUANCHENG_BENCH_HELD` for a quick look."""
    return int(os.environ.get("QUANCHENG_BENCH_HELD", "10000"))


def _ask(sequence: int, data: bytes) -> wire.SegmentAsk:
    digest = hashlib.sha256(data).hexdigest()
    times: dict[str, Any] = {"started_at": datetime.now(UTC), "duration_ms": 1000, "monotonic_ms": sequence * 1000}
    return wire.SegmentAsk(sequence=sequence, sha256=digest, size=len(data), media="media", **times)


async def _sealed() -> UUID:
    """A recording of that many small segments, sealed the ordinary way."""
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    recorder, recording = uuid7(), uuid7()
    async with minio_system().vault() as vault, httpx.AsyncClient(trust_env=False, timeout=60) as store:
        await vault.enrol(wire.Enrol(recorder=recorder, public_key=base64.b64encode(public).decode()))
        opening = wire.OpenRecording(source=recorder, key_id=key_id(public), started_at=datetime.now(UTC))
        await vault.open(recording, opening)
        gate = asyncio.Semaphore(_PUTS)

        async def put(ticket: wire.Ticket, data: bytes) -> None:
            async with gate:
                (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()

        for first in range(0, segments(), wire.MAX_ITEMS):
            pieces = {n: secrets.token_bytes(256) for n in range(first, min(first + wire.MAX_ITEMS, segments()))}
            asks = [_ask(n, data) for n, data in pieces.items()]
            told = await vault.exchange(recording, wire.ExchangeRequest(asks=asks))
            await asyncio.gather(*(put(ticket, pieces[ticket.sequence]) for ticket in told.tickets))
            commits = [wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256) for ask in asks]
            await vault.exchange(recording, wire.ExchangeRequest(commits=commits))
    return recording


def _objects(recording: UUID) -> list[tuple[str, str]]:
    sql = f"SELECT key, version FROM vault.segments WHERE recording_id = '{recording}' ORDER BY key"  # noqa: S608
    told = minio_system().stack.postgres.run_sql(sql)
    return [(key, version) for key, _, version in (line.partition("|") for line in told.split())]


@cache
def _case() -> UUID:
    """One recording for all rounds. Before each measurement every object of it is locked for a year ahead and bears
    no flag, as who measured last leaves it: so ours and the peer find the same objects in the same state."""
    require_room(minio_system(), segments() * 8192)
    for each in _CUSTODIANS:
        _command("enrol-custodian", each.name, each.public_text)
    recording = asyncio.run(_sealed())
    asyncio.run(_placed_and_released(recording))
    return recording


def _command(*arguments: str) -> None:
    argv = [sys.executable, "-m", "services.vault", *arguments]
    environment = minio_system().stack.vault_environment()
    subprocess.run(argv, env=environment, cwd=ROOT, check=True, capture_output=True)


def bare() -> float:
    """Calls a second of `PutObjectLegalHold` from as many threads as we have calls under way, by minio-py."""
    system = minio_system()
    minio = system.stack.minio
    assert minio
    objects = _objects(_case())
    client = Minio(
        endpoint=minio.endpoint,
        access_key=minio.access_key,
        secret_key=minio.secret_key,
        secure=False,
        region="us-east-1",
    )
    bucket = system.stack.vault_environment().get("QUANCHENG_VAULT_S3_EVIDENCE_BUCKET", "quancheng-evidence")

    def flag(one: tuple[str, str]) -> None:
        client.enable_object_legal_hold(bucket, one[0], version_id=one[1])

    def clear(one: tuple[str, str]) -> None:
        client.disable_object_legal_hold(bucket, one[0], version_id=one[1])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.monotonic()
        list(pool.map(flag, objects))
        took = time.monotonic() - began
        list(pool.map(clear, objects))
    return len(objects) / took


async def _placed_and_released(recording: UUID) -> float:
    """Objects flagged a second; then the hold is let go of, and everything about it done."""
    async with minio_system().vault() as vault:
        hold = uuid7()
        began = time.monotonic()
        await vault.hold(hold, wire.PlaceHold(case=uuid7(), reason="bench", recordings=[recording]))
        objects = await _settled(vault, hold)
        took = time.monotonic() - began
        vault_name = (await vault.identity()).origin
        await vault.release(hold, signed(order("release", vault=vault_name, hold=hold), *_CUSTODIANS))
        await _settled(vault, hold)
        while any(kind.waiting or kind.running for kind in (await vault.job_summary()).kinds):  # noqa: ASYNC110
            await asyncio.sleep(0.25)
    return objects / took


async def _settled(vault: VaultClient, hold: UUID) -> int:
    while (state := await vault.hold_state(hold)).settled < state.objects:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.25)
    return state.objects


@row("hold", unit="holds/s", better="higher", goal=0.9, peer=bare, runs=3)
def hold() -> float:
    """From asking the vault for a hold on a recording until every segment of it bears the flag in the store and the
    vault has recorded that; the year's lock was there before."""
    return asyncio.run(_placed_and_released(_case()))
