"""Full tiles are locked among the evidence; the partial ones they supersede go, and the log is read all the same."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from minio import Minio as Client

from services.vault.stores import open_store
from tests.flows.evidence import assert_log_is_whole
from tests.flows.test_public_log import append, published, read
from tests.peers.build import build
from tests.rooms.sealed import Room, room_of, settings_of
from tests.system import System, running

AFTER = 6.0


@pytest.fixture(scope="module", params=["local", "minio"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio, settings={"QUANCHENG_VAULT_PARTIAL_TILE_SECONDS": str(AFTER)}) as made:
        yield made


def public_files(system: System) -> set[str]:
    """Everything that lies in the log's plain bucket or folder."""
    minio = system.stack.minio
    if minio is None:
        folder = system.stack.data / "evidence" / "log"
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    client = Client(endpoint=minio.endpoint, access_key=minio.access_key, secret_key=minio.secret_key, secure=False)
    listed = client.list_objects("quancheng-log", recursive=True)
    return {str(each.object_name) for each in listed}


def superseded(files: set[str], size: int) -> set[str]:
    """Partial tiles and bundles below the full ones of a tree of this size."""
    full = [f"tile/{kind}/{n:03d}.p/" for kind in ("0", "entries") for n in range(size // 256)]
    return {path for path in files if path.startswith(tuple(full))}


async def until(look: Any, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(look):
            await asyncio.sleep(0.2)


async def test_full_tiles_are_sealed_and_superseded_ones_go_after_a_while(
    system: System, go: Path, tmp_path: Path
) -> None:
    url = system.stack.vault_url
    async with system.vault() as vault:
        vkey = (await vault.identity()).log_vkey
        old = await published(url, await append(vault, 30))
        for _ in range(5):
            await published(url, await append(vault, 50))
        before = public_files(system)
        assert superseded(before, 256), "there are partial tiles to supersede"
        assert "tile/0/000" in before
        new = await published(url, await append(vault, 300))
    # 1. They go, and nothing else does: full tiles, bundles, and the newest checkpoint's partial ones stay.
    await until(lambda: not superseded(public_files(system), new.size))
    after = public_files(system)
    assert before - after <= superseded(before, new.size)
    newest = f"{new.size // 256:03d}.p/{new.size % 256}"
    assert {"checkpoint", "tile/0/000", "tile/0/001", "tile/entries/001", f"tile/0/{newest}"} <= after
    assert f"tile/1/000.p/{new.size // 256}" in after
    # 2. Another's client reads the whole log with what is left, from a checkpoint of before.
    logreader = build(go, "logreader", tmp_path)
    root = base64.b64encode(old.root).decode()
    said = await asyncio.to_thread(read, logreader, f"{url}/log", vkey, str(old.size), root)
    assert said.returncode == 0, said.stderr
    # 3. Full ones are locked, with the bytes that are public, and are renewed and sampled with the rest.
    async with room_of(system, open_store(settings_of(system), b"x" * 32)) as room:
        for path in ("tile/0/000", "tile/0/001", "tile/entries/000", "tile/entries/001"):
            await assert_sealed(room, url, path)
        assert await room.store.head(f"log/tile/0/{newest}") is None
    assert_log_is_whole(system)
    # 4. It comes by rows, so that a run finds nothing left to do.
    pruned = "SELECT pruned_size FROM vault.log_head"
    await until(lambda: int(system.stack.postgres.run_sql(pruned)) == new.size // 256 * 256)


async def assert_sealed(room: Room, url: str, path: str) -> None:
    found = await room.store.head(f"log/{path}")
    assert found is not None and found.lock == room.store.lock
    async with httpx.AsyncClient(trust_env=False) as http:
        data = (await http.get(f"{url}/log/{path}")).content
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    kept = room.system.stack.postgres.run_sql(
        f"SELECT version, sha256 FROM vault.kept_files WHERE key = 'log/{path}'"
    )
    assert kept.strip() == f"{found.version}|{found.sha256}"
