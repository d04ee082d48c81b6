"""Exports on processes that are killed in the midst of it: what was begun goes on, byte for byte. Memory is flat."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from deploy.local.demo import prepared
from deploy.local.processes import ROOT, Supervised
from services.vault.contract.client import VaultClient, VaultRefused
from services.vault.export.desk import PREPARE
from services.vault.service import Vault
from services.vault.stores import open_store
from tests.flows.hand_terminal import HandTerminal, put, some_bytes
from tests.flows.test_streaming import rss_of
from tests.rooms.exported import begun, fetched, ready, recorded, unpacked, verified
from tests.rooms.sealed import Room, room_of, settings_of
from tests.system import System, running

ITEMS = 60


@pytest.fixture(scope="module", params=["local", "minio"])
def idle(request: pytest.FixtureRequest) -> Iterator[System]:
    """A system whose vault serves and does no jobs: a test starts and kills workers of its own."""
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio, settings={"QUANCHENG_VAULT_WORK": "false"}) as made:
        yield made


@pytest.fixture
async def room(idle: System) -> AsyncIterator[Room]:
    async with room_of(idle, open_store(settings_of(idle), b"x" * 32)) as made:
        yield made


@contextmanager
def worker(system: System) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "services.vault", "work"]
    process = subprocess.Popen(argv, cwd=ROOT, env=system.stack.vault_environment(), stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def done(system: System, act: UUID) -> int:
    query = f"SELECT count(*) FROM vault.export_items WHERE act = '{act}' AND done"
    return int(system.stack.postgres.run_sql(query))


async def test_a_worker_killed_in_the_midst_of_preparing_is_followed_by_one_that_goes_on(
    room: Room, tmp_path: Path
) -> None:
    made = [await recorded(room.client, [secrets.token_bytes(size) for size in (300, 200_000)]) for _ in range(ITEMS)]
    act = await begun(room.client, *(one.id for one in made))
    with worker(room.system) as process:
        async with asyncio.timeout(120):
            while done(room.system, act) < 5:
                assert process.poll() is None
                await asyncio.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    at = done(room.system, act)
    assert 5 <= at < ITEMS
    assert (await room.client.export_state(act)).state == "preparing"
    laid = "SELECT string_agg(ordinal || path || start || sha256, ' ' ORDER BY ordinal)"
    kept = f"{laid} FROM vault.export_files WHERE act = '{act}' AND ordinal < {at}"
    before = room.system.stack.postgres.run_sql(kept)
    with worker(room.system):
        state = await ready(room.client, act, 180)
    assert room.system.stack.postgres.run_sql(kept) == before
    assert state.bytes_done == state.bytes_total == ITEMS * 200_300
    bag = unpacked((await fetched(room.client, act)).content, tmp_path, act)
    assert len((await verified(room.client, bag)).recordings) == ITEMS


async def test_an_export_whose_job_gave_up_says_so_and_goes_on_once_the_job_is_retried(room: Room) -> None:
    """What the queue does with a job that failed eight times is its own; here it is told so at once."""
    made = await recorded(room.client, [b"init", b"media"])
    act = await begun(room.client, made.id)
    vault = await Vault.start(settings_of(room.system))
    try:
        await vault.jobs._told.died(PREPARE, str(act), "StoreUnavailable")
    finally:
        await vault.stop()
    state = await room.client.export_state(act)
    assert (state.state, state.reason) == ("failed", "gave-up")
    assert await room.told("job-dead", f"{PREPARE}/{act}")
    with pytest.raises(VaultRefused, match="export-failed"):
        await fetched(room.client, act)
    with worker(room.system):
        async with asyncio.timeout(60):
            while (await room.client.export_state(act)).state == "failed":
                await asyncio.sleep(0.05)
        await ready(room.client, act)
        async with asyncio.timeout(20):
            while await room.told("job-dead", f"{PREPARE}/{act}"):
                await asyncio.sleep(0.05)
    assert (await fetched(room.client, act)).status_code == 200


@pytest.mark.parametrize("who", ["vault", "api"])
async def test_a_download_broken_off_by_a_kill_goes_on_where_it_was_and_is_the_same(
    room: Room, tmp_path: Path, who: str
) -> None:
    with HandTerminal(room.system) as terminal:
        recording = terminal.begin()
        asks = []
        for sequence in range(12):
            data = some_bytes(4_000_000)
            ask = recording.segment(sequence, data)
            assert put(recording.ask(ask).tickets[0], data) == 200
            recording.receipt(recording.commit(ask), ask)
            asks.append(ask)
        assert recording.close(recording.closing(asks)).status_code == 200
    killed = getattr(room.system.stack, who)
    with worker(room.system), room.system.sign_in("li") as http:
        asked = http.post("/v1/exports", json={"recordings": [str(recording.id)], "purpose": "spot-check"})
        assert asked.status_code == 202, asked.text
        export = await asyncio.to_thread(prepared, http, asked.json())
        address = export["download"]
        whole = http.get(address)
        assert whole.headers["etag"].startswith('"') and whole.headers["accept-ranges"] == "bytes"
        with pytest.raises(httpx.HTTPError):
            broken_off(http, address, tmp_path / "tar", killed)
        got = (tmp_path / "tar").stat().st_size
        assert 5_000_000 < got < len(whole.content)
        await asyncio.to_thread(killed.wait_ready, 60)
        # As people do it: curl goes on where the file ends.
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in http.cookies.jar)
        argv = ["curl", "-sS", "-f", "-C", "-", "-b", cookies, "-o", str(tmp_path / "tar")]
        await asyncio.to_thread(subprocess.run, [*argv, f"{room.system.stack.api_url}{address}"], check=True)
    assert (tmp_path / "tar").read_bytes() == whole.content
    bag = unpacked(whole.content, tmp_path, UUID(export["id"]))
    assert (await verified(room.client, bag)).recordings == [str(recording.id)]


def broken_off(http: httpx.Client, address: str, into: Path, killed: Supervised) -> None:
    with http.stream("GET", address) as answer, into.open("wb") as file:
        for chunk in answer.iter_raw():
            file.write(chunk)
            file.flush()
            if file.tell() > 5_000_000 and killed.ready:
                killed.kill()


@pytest.mark.parametrize("idle", ["local"], indirect=True)
async def test_memory_stays_flat_while_a_gibibyte_is_prepared_and_fetched(room: Room) -> None:
    """16 segments of 64 MiB: had any process kept one of them, the bound would be broken."""
    bound, large = 56 * 1024 * 1024, 64 * 1024 * 1024
    made = await recorded(room.client, [b"init"], close=False)
    data = bytearray(secrets.token_bytes(large))
    for sequence in range(16):
        data[:8] = sequence.to_bytes(8)
        await made.add([bytes(data)])
    await made.close()
    stack = room.system.stack
    assert stack.vault
    with worker(room.system) as process:
        small = await recorded(room.client, [b"init", b"small"])
        first = await begun(room.client, small.id)
        await ready(room.client, first)
        await fetched(room.client, first)
        before = rss_of(process.pid), rss_of(stack.vault.pid)
        act = await begun(room.client, made.id)
        most = 0
        while (await room.client.export_state(act)).state in ("waiting", "preparing"):
            most = max(most, rss_of(process.pid))
            await asyncio.sleep(0.02)
        state = await ready(room.client, act)
        assert state.size > 16 * large
        assert most - before[0] < bound, f"the worker grew from {before[0]} to {most}"
        most = got = 0
        async with _slowly(room.client, act) as chunks:
            async for size in chunks:
                got += size
                most = max(most, rss_of(stack.vault.pid))
        assert got == state.size
        assert most - before[1] < bound, f"the vault grew from {before[1]} to {most}"


class _slowly:
    """The sizes of what arrives, none of it kept."""

    def __init__(self, client: VaultClient, act: UUID):
        self._bag = client.bag(act)

    async def __aenter__(self) -> AsyncIterator[int]:
        answer = await self._bag.__aenter__()

        async def sizes() -> AsyncIterator[int]:
            async for chunk in answer.aiter_raw(1024 * 1024):
                yield len(chunk)

        return sizes()

    async def __aexit__(self, *_: object) -> None:
        await self._bag.__aexit__(None, None, None)
