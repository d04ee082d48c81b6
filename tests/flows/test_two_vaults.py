"""Two vaults on one database and one store, both sequencing, publishing and sealing, while everything they stand on
is killed: one log, one index an act, every receipt kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from uuid_utils.compat import uuid7

from deploy.local.processes import Supervised
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable
from tests.flows.evidence import assert_log_is_whole
from tests.rooms.sealed import ask, open_recording
from tests.system import System, free_ports, running

FINISHED = 120.0


@dataclass
class Rig:
    system: System
    vaults: list[Supervised]
    clients: list[VaultClient]
    indexes: dict[UUID, int] = field(default_factory=dict)
    """What each answered act was answered."""
    receipts: dict[tuple[UUID, int], wire.SealedSegment] = field(default_factory=dict)


@pytest.fixture(scope="module", params=["local", "minio"])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[System, list[Supervised]]]:
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio) as system:
        stack, port = system.stack, free_ports(1)
        environment = stack.vault_environment() | {"QUANCHENG_VAULT_PORT": str(port)}
        second = stack._service("另一证据库", "vault", environment, f"http://127.0.0.1:{port}")
        second.start()
        try:
            assert stack.vault
            yield system, [stack.vault, second]
        finally:
            second.stop()


@pytest.fixture
async def rig(two: tuple[System, list[Supervised]]) -> AsyncIterator[Rig]:
    system, vaults = two
    urls = [system.stack.vault_url, vaults[1]._ready_url.removesuffix("/healthz")]
    async with AsyncExitStack() as stack:
        key = system.stack._service_key()
        clients = [await stack.enter_async_context(VaultClient(url, key)) for url in urls]
        yield Rig(system, vaults, clients)


async def again(do: Callable[[], Any], seconds: float = FINISHED) -> Any:
    """The answer, however often it takes to be asked: what a caller does whose call failed."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await do()
            except (VaultUnreachable, httpx.HTTPError):
                await asyncio.sleep(0.2)
            except VaultRefused as refused:
                if refused.problem.status < 500:
                    raise
                await asyncio.sleep(0.2)


async def append_on(rig: Rig, which: int, until: asyncio.Event) -> None:
    while not until.is_set():
        act, someone = uuid7(), str(uuid4())
        fields = {"recording": someone, "person": someone, "purpose": "training", "until": "2026-11-23T18:00:00.000Z"}
        append = wire.Append(act=act, kind="viewing", fields=fields)
        one = await again(lambda a=append: rig.clients[which].append(a))  # type: ignore[misc]
        # The other vault answers the same.
        other = await again(lambda a=append: rig.clients[1 - which].append(a))  # type: ignore[misc]
        assert one.index == other.index
        rig.indexes[act] = one.index


async def seal_on(rig: Rig, which: int, until: asyncio.Event) -> None:
    client = rig.clients[which]
    recording = await again(lambda: open_recording(client))
    sequence = 0
    async with httpx.AsyncClient(trust_env=False, timeout=20) as store:
        while not until.is_set():
            data = f"{recording} {sequence}".encode()
            asked = ask(sequence, data)
            name = wire.SegmentName(sequence=sequence, sha256=asked.sha256)

            async def cycle(a: wire.SegmentAsk = asked, n: wire.SegmentName = name, d: bytes = data) -> Any:
                told = await client.exchange(recording, wire.ExchangeRequest(asks=[a]))
                if told.sealed:
                    return told.sealed[0]
                if told.tickets:
                    ticket = told.tickets[0]
                    put = await store.put(ticket.url, content=d, headers=ticket.headers)
                    if put.status_code not in (200, 412):
                        raise VaultUnreachable(f"put answered {put.status_code}")
                # The commit goes to the other vault.
                told = await rig.clients[1 - which].exchange(recording, wire.ExchangeRequest(commits=[n]))
                if not told.sealed:
                    raise VaultUnreachable(str(told.problems))
                return told.sealed[0]

            rig.receipts[recording, sequence] = await again(cycle)
            sequence += 1


def kill_all(rig: Rig) -> None:
    for vault in rig.vaults:
        vault.kill()


def power_cut(rig: Rig) -> None:
    """The database, and it comes back."""
    rig.system.stack.postgres.kill()
    rig.system.stack.postgres.start()


def store_cut(rig: Rig) -> None:
    minio = rig.system.stack.minio
    if minio:
        minio.kill()
        minio.wait_ready(60)


async def test_whatever_is_killed_under_two_vaults_there_is_one_log_and_every_receipt_is_kept(rig: Rig) -> None:
    until = asyncio.Event()
    faults: list[Callable[[], None]] = [
        rig.vaults[0].kill,
        lambda: power_cut(rig),
        rig.vaults[1].kill,
        lambda: store_cut(rig),
        lambda: kill_all(rig),
        lambda: power_cut(rig),
    ]
    async with asyncio.TaskGroup() as group:
        for which in (0, 1):
            for _ in range(3):
                group.create_task(append_on(rig, which, until))
            group.create_task(seal_on(rig, which, until))
        for fault in faults:
            before = len(rig.indexes), len(rig.receipts)
            async with asyncio.timeout(FINISHED):
                # In the midst of work, which has gone on since the last fault.
                while len(rig.indexes) < before[0] + 20 or len(rig.receipts) < before[1] + 4:
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(fault)
        until.set()
    for vault in rig.vaults:
        await asyncio.to_thread(vault.wait_ready, 60)

    # 1. One index an act, the one that was answered, from either vault.
    assert len(set(rig.indexes.values())) == len(rig.indexes)
    for act, index in rig.indexes.items():
        client = rig.clients[index % 2]
        assert (await again(lambda a=act, c=client: c.proof(a))).index == index  # type: ignore[misc]
    # 2. Every receipt as it was.
    for (recording, sequence), sealed in rig.receipts.items():
        name = wire.SegmentName(sequence=sequence, sha256=sealed.sha256)
        client = rig.clients[sequence % 2]
        kept = await again(lambda c=client, r=recording, n=name: c.receipt(r, n))  # type: ignore[misc]
        assert kept.receipt == sealed.receipt
    # 3. One tree, and the published one is the same.
    await asyncio.to_thread(assert_log_is_whole, rig.system)
