"""The public log, read over HTTP by the Go project's own log client, and what caches are told of it."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from tests.peers.build import build
from tests.system import System


@pytest.fixture(scope="module")
def logreader(go: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(go, "logreader", tmp_path_factory.mktemp("peers"))


async def append(vault: VaultClient, count: int) -> int:
    """Append so many viewings, many at a time; the size of the tree that holds them all."""
    slots = asyncio.Semaphore(64)

    async def one() -> int:
        act, someone = uuid4(), str(uuid4())
        fields = {"recording": someone, "person": someone, "purpose": "training", "until": "2026-11-23T18:00:00.000Z"}
        async with slots:
            return (await vault.append(wire.Append(act=act, kind="viewing", fields=fields))).tree_size

    return max(await asyncio.gather(*(one() for _ in range(count))))


async def published(url: str, size: int, seconds: float = 20) -> verify.Checkpoint:
    """The published checkpoint once it has come to `size`."""
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(int(seconds * 20)):
            answer = await http.get(f"{url}/log/checkpoint")
            if answer.status_code == 200:
                found = verify.parse_checkpoint(verify.parse_note(answer.text).text)
                if found.size >= size:
                    return found
            await asyncio.sleep(0.05)
    raise AssertionError(f"no checkpoint of {size} within {seconds} s")


def read(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60, check=False)


async def test_another_client_proves_every_entry_and_that_the_log_only_grew(system: System, logreader: Path) -> None:
    url = system.stack.vault_url
    async with system.vault() as vault:
        vkey = (await vault.identity()).log_vkey
        old = await published(url, await append(vault, 40))
        new = await published(url, await append(vault, 560))
    assert old.size < 256 < 512 < new.size
    said = await asyncio.to_thread(
        read, logreader, f"{url}/log", vkey, str(old.size), base64.b64encode(old.root).decode()
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == [str(new.size), base64.b64encode(new.root).decode()]
    forged = base64.b64encode(bytes(32)).decode()
    said = await asyncio.to_thread(read, logreader, f"{url}/log", vkey, str(old.size), forged)
    assert said.returncode == 1
    assert "no prefix" in said.stderr


async def test_what_caches_and_browsers_are_told(system: System) -> None:
    url = f"{system.stack.vault_url}/log"
    async with system.vault() as vault:
        size = (await published(system.stack.vault_url, await append(vault, 300))).size
    async with httpx.AsyncClient(trust_env=False) as http:
        checkpoint = await http.get(f"{url}/checkpoint")
        assert checkpoint.headers["content-type"] == "text/plain; charset=utf-8"
        assert checkpoint.headers["cache-control"] == "public, max-age=2"
        assert checkpoint.headers["access-control-allow-origin"] == "*"
        partial = f"{size // 256:03d}.p/{size % 256}"
        for path, length in (
            ("tile/0/000", 256 * 32),
            ("tile/entries/000", 256 * 34),
            (f"tile/1/000.p/{size // 256}", size // 256 * 32),
            (f"tile/0/{partial}", size % 256 * 32),
            (f"tile/entries/{partial}", size % 256 * 34),
        ):
            answer = await http.get(f"{url}/{path}")
            assert (answer.status_code, len(answer.content)) == (200, length), path
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/999",
        "tile/00/000",
        "tile/64/000",
        "tile/0/000/",
        "tile/0/000/000",
        "tile/0/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p",
        "tile/data/000",
        "tile/entries",
        "tile/entries/x999/999",
        "tile/%2e%2e/checkpoint",
        "tile/0/%2e%2e/%2e%2e/%2e%2e/evidence",
        "tile/0/000%00",
        "tile/0/" + "x000/" * 200 + "000",
        "checkpoint/",
        "nothing",
    ],
)
async def test_what_is_no_part_of_the_log_is_a_problem_and_nothing_else(system: System, path: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(httpx.URL(f"{system.stack.vault_url}/log/{path}"))
    assert answer.status_code in {404, 307}
    if answer.status_code == 404:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["slug"] in {"not-published", "not-found"}
        if answer.json()["slug"] == "not-published":
            assert answer.headers["cache-control"] == "no-store"


async def test_the_public_log_cannot_be_written(system: System) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for path in ("checkpoint", "tile/0/000"):
            for method in ("PUT", "POST", "DELETE", "PATCH"):
                answer = await http.request(method, f"{system.stack.vault_url}/log/{path}", content=b"x")
                assert answer.status_code == 405
