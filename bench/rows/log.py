"""The log: from an append to an index and a proof in a signed checkpoint."""

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bench.frame import Figures, Line, Unavailable, row
from bench.peers import tessera
from bench.system import minio_system
from services.vault.contract import wire
from services.vault.contract.client import VaultClient

APPENDS, CONCURRENCY = 5120, 256
"""Of one measurement, alike for ours and for the peer: callers that each append one after the other."""


def driver() -> Figures:
    """Tessera's POSIX driver on the same disk, until its awaiter and its proof builder have answered."""
    program = tessera()
    folder = tempfile.mkdtemp(prefix="tessera-", dir=minio_system().folder)
    try:
        argv = [str(program), folder, str(APPENDS), str(CONCURRENCY)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"tessera-peer 失败：{done.stderr.strip()[-200:]}")
        said = json.loads(done.stdout)
        return {"p50": said["p50_ms"], "rate": said["rate"]}
    finally:
        shutil.rmtree(folder)


@row(
    "log-append",
    unit="ms",
    better="lower",
    goal=2.0,
    peer=driver,
    figure="p50",
    more=(Line("/s", "higher", 2000, "ours", peer=driver, figure="rate", label="rate"),),
)
def log_append() -> Figures:
    """From a caller's append to its index and proof in a signed checkpoint, over the vault's signed HTTP
    contract as the api speaks it: the median of a caller's wait, and appends a second of all callers."""
    stack = minio_system().stack
    key = load_pem_private_key((stack.data / "secrets" / "api-service.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return asyncio.run(_append(stack.vault_url, key))


async def _append(url: str, key: Ed25519PrivateKey) -> Figures:
    took: list[float] = []
    left = iter(range(APPENDS))

    async with VaultClient(url, key, timeout=60) as vault:

        async def caller() -> None:
            for _ in left:
                append, began = _viewing(), time.monotonic()
                appended = await vault.append(append)
                assert appended.proof
                took.append(time.monotonic() - began)

        began = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
        seconds = time.monotonic() - began
    return {"p50": 1000 * statistics.median(took), "rate": APPENDS / seconds}


def _viewing() -> wire.Append:
    fields = {"recording": str(uuid4()), "person": str(uuid4()), "purpose": "spot-check", "until": str(uuid4())}
    return wire.Append(act=uuid4(), kind="viewing", fields=fields, proof=True)
