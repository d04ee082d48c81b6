"""The vault lends the api its staging bucket for tails of uploads: these bytes, under a name of their own."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx
import pytest

from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused
from services.vault.stores.staging import open_staging
from services.vault.tails import Tails
from tests.rooms.vaults import vault_settings
from tests.system import System


@pytest.fixture
async def vault(system: System) -> AsyncIterator[VaultClient]:
    async with system.vault() as client:
        yield client


async def put(vault: VaultClient, upload: UUID, data: bytes, body: bytes | None = None) -> tuple[int, str]:
    sha256 = hashlib.sha256(data).hexdigest()
    ticket = await vault.put_tail(upload, wire.PutTail(sha256=sha256, size=len(data)))
    async with httpx.AsyncClient(trust_env=False) as store:
        sent = await store.request(ticket.method, ticket.url, headers=ticket.headers, content=body or data)
    return sent.status_code, ticket.name


async def read(vault: VaultClient, upload: UUID, name: str) -> tuple[int, bytes]:
    ticket = await vault.read_tail(upload, name)
    async with httpx.AsyncClient(trust_env=False) as store:
        got = await store.request(ticket.method, ticket.url, headers=ticket.headers)
    return got.status_code, got.content


async def test_a_tail_is_put_read_and_removed(vault: VaultClient) -> None:
    upload, data = uuid4(), secrets.token_bytes(300_000)
    status, name = await put(vault, upload, data)
    assert (status, await read(vault, upload, name)) == (200, (200, data))
    _, other = await put(vault, upload, b"another")
    assert other != name
    assert (await read(vault, uuid4(), name))[0] == 404
    for _ in range(2):
        await vault.remove_tail(upload, name)
    assert (await read(vault, upload, name))[0] == 404
    assert await read(vault, upload, other) == (200, b"another")


async def test_a_ticket_is_for_these_bytes_alone(vault: VaultClient) -> None:
    upload, data = uuid4(), secrets.token_bytes(5000)
    status, name = await put(vault, upload, data, bytes(len(data)))
    assert status in (400, 403)
    assert (await read(vault, upload, name))[0] == 404
    ticket = await vault.put_tail(upload, wire.PutTail(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    async with httpx.AsyncClient(trust_env=False) as store:
        elsewhere = ticket.url.replace(str(upload), str(uuid4()))
        assert (await store.put(elsewhere, headers=ticket.headers, content=data)).status_code == 403
        assert (await store.request("DELETE", ticket.url, headers=ticket.headers, content=data)).status_code == 403


async def test_the_largest_tail_and_none_larger(vault: VaultClient) -> None:
    upload, data = uuid4(), secrets.token_bytes(wire.MAX_TAIL_BYTES)
    status, name = await put(vault, upload, data)
    assert (status, await read(vault, upload, name)) == (200, (200, data))
    for size in (0, wire.MAX_TAIL_BYTES + 1):
        with pytest.raises(VaultRefused) as refused:
            await vault.put_tail(upload, wire.PutTail.model_construct(sha256="0" * 64, size=size))
        assert refused.value.problem.status == 422


async def test_what_is_past_its_time_lapses(
    system: System, vault: VaultClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uuid4()
    _, fresh = await put(vault, upload, b"fresh")
    staging = open_staging(vault_settings(system.stack))
    tails = Tails(staging)
    try:
        await tails.lapse()
        assert (await read(vault, upload, fresh))[0] == 200
        later = time.time() + wire.TAIL_DAYS * 24 * 3600 + 60
        monkeypatch.setattr("services.vault.tails.time.time", lambda: later)
        assert await tails.lapse() >= 1
        assert (await read(vault, upload, fresh))[0] == 404
    finally:
        await staging.stop()
