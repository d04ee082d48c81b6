"""The direct door in bulk: what sealing costs beside plain PUTs of the same bytes to the same MinIO."""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from minio import Minio
from minio.commonconfig import COMPLIANCE
from minio.credentials.credentials import Credentials
from minio.retention import Retention
from minio.signer import sign_v4_s3
from minio.time import to_amz_date

from bench.frame import Line, Unavailable, row
from bench.peers import mc
from bench.system import MIB, bulk_bytes, minio_system, require_room
from services.terminal import loop
from services.terminal.api import Api
from services.terminal.home import Home
from services.terminal.pins import Pinned
from services.terminal.progress import Progress
from services.terminal.spool import RecordingSpool, Spool
from services.terminal.uplink import PUTS, Uplink
from tests.system import System

SEGMENT_MIB = (8, 10, 12, 14, 16)
BARE, LOCKED = "bench-bare", "bench-locked"


class _Receipted(Progress):
    """Notes when receipts were taken; anything that went wrong ends the measurement."""

    def __init__(self) -> None:
        super().__init__("json")
        self.last = 0.0
        self.trouble = ""

    def tell(self, event: str, **fields: Any) -> None:
        if event == "sealed":
            self.last = time.monotonic()
        elif event in ("error", "retry"):
            self.trouble = str(fields.get("reason"))


@cache
def material() -> list[Path]:
    """Files of 8 to 16 MiB, of random bytes, that make up one bulk measurement."""
    system, left = minio_system(), bulk_bytes()
    # Locked objects cannot be removed again: ours and the locked peer's lie there until the system is discarded.
    require_room(system, 14 * left)
    folder = Path(tempfile.mkdtemp(dir=system.folder, prefix="material-"))
    files: list[Path] = []
    while left:
        size = min(left, SEGMENT_MIB[len(files) % len(SEGMENT_MIB)] * MIB)
        files.append(folder / f"{len(files):04d}")
        files[-1].write_bytes(os.urandom(size))
        left -= size
    return files


@cache
def home() -> Home:
    system = minio_system()
    return Home(system.new_terminal(f"bench-{uuid4().hex[:8]}"))


def spooled(home: Home, files: list[Path]) -> RecordingSpool:
    """A recording that waits in the spool, as after hours without a network: an opening and all segments."""
    started_at = datetime.now(UTC)
    recording = Spool(home.path, limit_bytes=2 * sum(file.stat().st_size for file in files)).begin(started_at)
    recording.append(b"ftyp" * 256, media="init", started_at=started_at, duration_ms=0, monotonic_ms=0)
    for number, file in enumerate(files):
        at = started_at + timedelta(seconds=10 * number)
        data = file.read_bytes()
        recording.append(data, media="media", started_at=at, duration_ms=10_000, monotonic_ms=10_000 * number)
    return recording


def push(system: System, home: Home, recording: RecordingSpool) -> float:
    """Send a spooled recording and close it; seconds from the first ask to the last verified receipt."""
    progress = _Receipted()
    enrolled = home.enrolled()

    async def send() -> float:
        async with Api(system.stack.api_url, home.key()) as api:
            pinned = Pinned(enrolled.receipt_keys(), enrolled.vault.lock)
            uplink = Uplink(recording, api, home.key(), pinned, progress, forget=True)
            uplink.end(interrupted=False)
            began = time.monotonic()
            await uplink.run()
            return progress.last - began

    seconds = loop.run(send())
    if progress.trouble:
        raise Unavailable(f"发送途中出错：{progress.trouble}")
    return seconds


@contextmanager
def bucket(name: str, *, lock: bool) -> Any:
    """A client with full rights and its bucket; what is not locked is removed afterwards."""
    store = minio_system().stack.minio
    assert store
    client = Minio(endpoint=store.endpoint, access_key=store.access_key, secret_key=store.secret_key, secure=False)
    if not client.bucket_exists(name):
        client.make_bucket(name, object_lock=lock)
    try:
        yield client
    finally:
        if not lock:
            for found in client.list_objects(name, recursive=True):
                client.remove_object(name, str(found.object_name))


def _rate(put: Callable[[Path], None], files: list[Path]) -> float:
    """MiB/s of putting all files, `PUTS` at a time."""
    with ThreadPoolExecutor(PUTS) as pool:
        began = time.monotonic()
        for done in pool.map(put, files):
            assert done is None
        return bulk_bytes() / MIB / (time.monotonic() - began)


def bare() -> float:
    """No lock, no checksum, unsigned payload, kept-alive connections, as many at once as the terminal's."""
    store, files = minio_system().stack.minio, material()
    assert store
    who = Credentials(store.access_key, store.secret_key)
    with bucket(BARE, lock=False), httpx.Client(trust_env=False, timeout=60) as http:

        def put(file: Path) -> None:
            url, now = httpx.URL(f"http://{store.endpoint}/{BARE}/{uuid4()}"), datetime.now(UTC)
            headers: dict[str, str | list[str] | tuple[str]] = {
                "host": store.endpoint,
                "x-amz-date": to_amz_date(now),
                "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            }
            signed = sign_v4_s3(
                method="PUT",
                url=urlsplit(str(url)),
                region="us-east-1",
                headers=headers,
                credentials=who,
                content_sha256="UNSIGNED-PAYLOAD",
                date=now,
            )
            http.put(
                url, content=file.read_bytes(), headers={k: str(v) for k, v in signed.items()}
            ).raise_for_status()

        return _rate(put, files)


def with_minio_py() -> float:
    """minio-py with the same lock and checksum, from threads that share its pool of connections."""
    files = material()
    lock = Retention(COMPLIANCE, datetime.now(UTC) + timedelta(days=180))
    with bucket(LOCKED, lock=True) as client:

        def put(file: Path) -> None:
            data = file.read_bytes()
            checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
            client.put_object(
                bucket_name=LOCKED,
                object_name=str(uuid4()),
                data=io.BytesIO(data),
                length=len(data),
                metadata={"x-amz-checksum-sha256": checksum},
                part_size=64 * MIB,
                retention=lock,
            )

        return _rate(put, files)


def with_mc() -> float:
    """`mc cp` of the folder to a plain bucket, from its start to its end."""
    program, store, files = mc(), minio_system().stack.minio, material()
    assert store
    config = Path(tempfile.mkdtemp(prefix="mc-", dir=minio_system().folder))
    host = f"http://{store.access_key}:{store.secret_key}@{store.endpoint}"
    env = {"PATH": os.defpath, "HOME": str(config), "MC_HOST_bench": host}
    argv = [str(program), "--config-dir", str(config), "--quiet", "cp", "--recursive", f"{files[0].parent}/"]
    try:
        with bucket(BARE, lock=False):
            began = time.monotonic()
            done = subprocess.run([*argv, f"bench/{BARE}/"], env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"mc cp 失败：{(done.stderr or done.stdout).strip()[-200:]}")
            return bulk_bytes() / MIB / (time.monotonic() - began)
    finally:
        shutil.rmtree(config)


def _hashed() -> float:
    """Seconds that hashing all files takes, beside whatever else goes on."""
    began = time.monotonic()
    for file in material():
        with file.open("rb", buffering=0) as opened:
            hashlib.file_digest(opened, "sha256")
    return time.monotonic() - began


@row(
    "direct-bulk",
    unit="MiB/s",
    better="higher",
    goal=0.80,
    peer=bare,
    more=(
        Line("MiB/s", "higher", 1.2, peer=with_minio_py, label="minio-py"),
        Line("MiB/s", "higher", 1.1, peer=with_mc, label="mc-cp"),
    ),
)
def direct_bulk() -> float:
    """From the first ask to the last receipt verified and on the terminal's disk: segments of 8 to 16 MiB from
    the spool, each read, put with checksum and lock, checked, receipted, and freed. A terminal hashes a segment once,
    when it spools it; that is done again within the time measured, since the peers hash within theirs."""
    recording = spooled(home(), material())
    with ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(_hashed)
        seconds = push(minio_system(), home(), recording)
        return bulk_bytes() / MIB / max(seconds, hashing.result())
