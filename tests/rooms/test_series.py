"""Versions of a document or another single file: sealed by the same cycle, told in the log one by one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from uuid_utils.compat import uuid7

from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient, VaultRefused
from tests.rooms import raw
from tests.rooms.people import service_key
from tests.system import System

SOURCE = uuid7()


@pytest.fixture
async def vault(system: System) -> AsyncIterator[VaultClient]:
    async with VaultClient(system.stack.vault_url, service_key(system.stack)) as client:
        yield client


@pytest.fixture
async def series(vault: VaultClient) -> UUID:
    series = uuid7()
    await vault.open_series(series, wire.OpenSeries(source=SOURCE))
    return series


def version(number: int, data: bytes, metadata: bytes = b"", media: wire.Media = "file") -> wire.SegmentAsk:
    return wire.SegmentAsk(
        sequence=number,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        media=media,
        started_at=datetime.now(UTC),
        duration_ms=0,
        monotonic_ms=0,
        metadata_sha256=hashlib.sha256(metadata).hexdigest() if metadata else None,
    )


async def seal(vault: VaultClient, series: UUID, ask: wire.SegmentAsk, data: bytes) -> wire.SealedSegment:
    (ticket,) = (await vault.exchange(series, wire.ExchangeRequest(asks=[ask]))).tickets
    assert (await raw.send("PUT", ticket.url, ticket.headers, data)).status == 200
    name = wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256)
    (sealed,) = (await vault.exchange(series, wire.ExchangeRequest(commits=[name]))).sealed
    return sealed


async def refused(vault: VaultClient, series: UUID, ask: wire.SegmentAsk) -> str:
    (problem,) = (await vault.exchange(series, wire.ExchangeRequest(asks=[ask]))).problems
    return problem.slug


async def trusted(system: System, receipt: dict[str, Any]) -> dict[str, Any]:
    """What a receipt says, by the vault's own key."""
    async with VaultClient(system.stack.vault_url, service_key(system.stack)) as client:
        identity = await client.identity()
    keys = {identity.receipt_key_id: Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.receipt_key))}
    return verify.verify_envelope(receipt, keys, wire.RECEIPT_TYPE)


async def test_each_version_has_its_receipt_and_its_statement(vault: VaultClient, series: UUID) -> None:
    identity = await vault.identity()
    keys = {
        identity.receipt_key_id: Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.receipt_key)),
    }
    for number in (1, 2):
        data, metadata = secrets.token_bytes(3000), secrets.token_bytes(40)
        ask = version(number, data, metadata)
        sealed = await seal(vault, series, ask, data)
        told = verify.verify_envelope(sealed.receipt.model_dump(), keys, wire.RECEIPT_TYPE)
        assert (told["sequence"], told["media"], told["metadata_sha256"]) == (number, "file", ask.metadata_sha256)
        act = wire.series_act(series, number, ask.sha256)
        proof = await _proof(vault, act)
        assert proof.statement == {
            "kind": "series",
            "act": str(act),
            "at": proof.statement["at"],
            "series": str(series),
            "version": number,
            "sha256": ask.sha256,
            "metadata_sha256": ask.metadata_sha256,
        }
        parsed = verify.parse_proof(proof.proof)
        salt, text = parsed.extra[:32], parsed.extra[32:]
        verify.verify_proof(parsed, verify.statement_leaf(salt, text), identity.log_vkey)
        (ticket,) = (await vault.read_tickets(series, wire.ReadTicketsRequest(items=[_name(ask)]))).tickets
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(ticket.url, headers=ticket.headers)).content == data
        # The same again is the same, and is told once.
        again = await vault.exchange(series, wire.ExchangeRequest(asks=[ask], commits=[_name(ask)]))
        assert [one.receipt for one in again.sealed] == [sealed.receipt] * 2


async def test_a_series_holds_files_and_a_recording_holds_media(vault: VaultClient, series: UUID) -> None:
    assert await refused(vault, series, version(1, b"media", media="media")) == "other-kind"
    assert await refused(vault, series, version(0, b"no version")) == "other-kind"
    recording = uuid7()
    await vault.open(recording, wire.OpenRecording(source=SOURCE, key_id=None, started_at=datetime.now(UTC)))
    assert await refused(vault, recording, version(1, b"file")) == "other-kind"


async def test_a_series_is_never_closed_and_never_becomes_a_recording(vault: VaultClient, series: UUID) -> None:
    await seal(vault, series, version(1, b"one"), b"one")
    with pytest.raises(VaultRefused, match="never-closed"):
        await vault.close_by_server(series, wire.CloseByServer(reason="idle"))
    with pytest.raises(VaultRefused, match="recording-differs"):
        await vault.open(series, wire.OpenRecording(source=SOURCE, key_id=None, started_at=datetime.now(UTC)))
    with pytest.raises(VaultRefused, match="recording-differs"):
        await vault.open_series(series, wire.OpenSeries(source=uuid7()))
    await vault.open_series(series, wire.OpenSeries(source=SOURCE))


async def test_what_its_keeper_records_of_it_is_fixed_with_the_ask(vault: VaultClient, series: UUID) -> None:
    await vault.exchange(series, wire.ExchangeRequest(asks=[version(1, b"one", b"title")]))
    assert await refused(vault, series, version(1, b"one", b"another title")) == "ask-differs"
    with pytest.raises(ValueError, match="only a file"):
        version(1, b"one", b"title", media="media")


async def test_two_contents_of_one_version_are_a_conflict(vault: VaultClient, series: UUID, system: System) -> None:
    for data in (b"one", b"other"):
        await seal(vault, series, version(1, data), data)
    query = f"SELECT conflict_act FROM vault.segments WHERE recording_id = '{series}' AND conflict_act IS NOT NULL"
    (act,) = system.stack.postgres.run_sql(query).split()
    assert re.fullmatch(r"[0-9a-f-]{36}", act)
    assert (await _proof(vault, UUID(act))).statement["kind"] == "conflict"


def _name(ask: wire.SegmentAsk) -> wire.SegmentName:
    return wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256)


async def _proof(vault: VaultClient, act: UUID) -> wire.LogProof:
    """Once it stands in a checkpoint, which takes a moment."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await vault.proof(act)
            except VaultRefused:
                await asyncio.sleep(0.2)
