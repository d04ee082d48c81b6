"""Things to export, sealed through the vault's own door, and exports of them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from uuid_utils.compat import uuid7

from deploy.local.demo import unpack
from services.terminal.closing import root_of, signed_closing
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from tests.rooms.sealed import open_recording

SOURCE = uuid7()


@dataclass
class Made:
    """A recording of a test's own; what is added after its closing is a supplement."""

    client: VaultClient
    id: UUID
    key: Ed25519PrivateKey
    asks: list[wire.SegmentAsk] = field(default_factory=list)

    async def add(self, pieces: Sequence[bytes], *, at: int | None = None, media: bool = True) -> None:
        first = len(self.asks) if at is None else at
        asks = [_ask(first + n, data, "media" if first + n else "init") for n, data in enumerate(pieces)]
        for some in range(0, len(asks), wire.MAX_ITEMS):
            await _seal(self.client, self.id, asks[some : some + wire.MAX_ITEMS], pieces[some:])
        self.asks += asks

    async def close(self, *, number: int = 0, asks: Sequence[wire.SegmentAsk] | None = None) -> None:
        listed = self.asks if asks is None else asks
        leaves = [(one.sequence, one.sha256, one.size) for one in listed]
        now = wire.rfc3339(datetime.now(UTC))
        closing: dict[str, Any] = {"recording": str(self.id), "count": len(listed), "root": root_of(leaves)}
        closing |= {"missing": [], "started_at": now, "ended_at": now, "interrupted": False}
        if number:
            closing |= {"number": number, "sequences": [one.sequence for one in listed]}
        await self.client.close(self.id, wire.CloseRecording(closing=signed_closing(closing, self.key)))

    def keys_in_store(self) -> list[str]:
        return [f"recordings/{self.id}/{one.sequence:010d}-{one.sha256}" for one in self.asks]


async def recorded(client: VaultClient, pieces: Sequence[bytes], *, close: bool = True) -> Made:
    key = Ed25519PrivateKey.generate()
    made = Made(client, await open_recording(client, key), key)
    await made.add(pieces)
    if close:
        await made.close()
    return made


async def series_of(client: VaultClient, versions: Sequence[tuple[int, bytes]]) -> UUID:
    series = uuid7()
    await client.open_series(series, wire.OpenSeries(source=SOURCE))
    for number, data in versions:
        await _seal(client, series, [_ask(number, data, "file")], [data])
    return series


def _ask(sequence: int, data: bytes, media: wire.Media) -> wire.SegmentAsk:
    return wire.SegmentAsk(
        sequence=sequence,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        media=media,
        started_at=datetime.now(UTC),
        duration_ms=1000 if media == "media" else 0,
        monotonic_ms=sequence * 1000,
    )


async def _seal(client: VaultClient, into: UUID, asks: list[wire.SegmentAsk], pieces: Sequence[bytes]) -> None:
    data = {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}
    tickets = (await client.exchange(into, wire.ExchangeRequest(asks=asks))).tickets
    async with httpx.AsyncClient(trust_env=False, timeout=60) as store:
        for ticket in tickets:
            (await store.put(ticket.url, content=data[ticket.sha256], headers=ticket.headers)).raise_for_status()
    commits = [wire.SegmentName(sequence=one.sequence, sha256=one.sha256) for one in asks]
    done = await client.exchange(into, wire.ExchangeRequest(commits=commits))
    assert len(done.sealed) == len(asks), done.problems


async def asked(
    client: VaultClient,
    recordings: Sequence[UUID] = (),
    series: Sequence[UUID] = (),
    *,
    person: UUID | None = None,
    copies: bool = False,
    case: UUID | None = None,
) -> wire.ExportRequest:
    """A request whose act stands in the log."""
    request = wire.ExportRequest(
        act=uuid7(),
        recordings=list(recordings),
        series=list(series),
        person=person or uuid7(),
        copies=copies,
        case=case,
    )
    await client.append(
        wire.Append(act=request.act, kind="export", fields=request.told() | {"purpose": "spot-check"})
    )
    return request


async def begun(client: VaultClient, *recordings: UUID, **more: Any) -> UUID:
    request = await asked(client, recordings, **more)
    await client.begin_export(request)
    return request.act


async def settled(client: VaultClient, act: UUID, seconds: float = 120) -> wire.ExportState:
    """The export once it is neither waiting nor being prepared."""
    async with asyncio.timeout(seconds):
        while (state := await client.export_state(act)).state in ("waiting", "preparing"):
            await asyncio.sleep(0.1)
    return state


async def ready(client: VaultClient, act: UUID, seconds: float = 120) -> wire.ExportState:
    state = await settled(client, act, seconds)
    assert state.state == "ready", state
    return state


async def fetched(client: VaultClient, act: UUID, headers: dict[str, str] | None = None) -> httpx.Response:
    """The whole answer, its body read."""
    async with client.bag(act, headers) as answer:
        await answer.aread()
    return answer


def unpacked(tar: bytes, folder: Path, act: UUID) -> Path:
    archive = folder / f"{act}.tar"
    archive.write_bytes(tar)
    unpack(archive, folder)
    return folder / f"quancheng-{act}"


async def verified(client: VaultClient, bag: Path, code: int = 0) -> verify.Report:
    """By the vault's own keys, had from elsewhere."""
    identity = await client.identity()
    log = verify.parse_vkey(identity.log_vkey).key
    receipt = Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.receipt_key))
    trusted = {verify.key_id(verify.raw_key(key)): key for key in (receipt, log)}
    report = verify.verify_bundle(bag, trusted, twice=True)
    assert report.code == code, report
    return report
