"""Recorders that are live: how many at once, how soon a receipt, how far behind the camera, and how much memory."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from uuid import uuid4

import asyncpg
from minio.commonconfig import COMPLIANCE
from minio.retention import Retention

from bench.frame import Unavailable, row
from bench.peers.nginx import nginx
from bench.recorders import SEGMENT_BYTES
from bench.rows.direct import LOCKED, bucket
from bench.rows.push import pieces_of_stream
from bench.system import minio_system, require_room
from deploy.local.processes import ROOT
from tests.flows.hand_terminal import HandTerminal
from tests.flows.hand_terminal import put as put_to
from tests.flows.pushing import Source

TRIED_SECONDS, SUSTAINED_SECONDS = 10, 60
MOST = 1024
RECEIPTS = 200
_ROOM = 40 * 1024**3
_runs = count(1)


@cache
def material() -> Path:
    """A folder with one init and one segment of two seconds, 4 Mbit/s of random bytes."""
    folder = Path(tempfile.mkdtemp(dir=minio_system().folder, prefix="live-"))
    head, moof = pieces_of_stream(seconds=2)
    (folder / "init.mp4").write_bytes(head)
    mdat = (SEGMENT_BYTES - len(moof)).to_bytes(4, "big") + b"mdat"
    (folder / "segment.m4s").write_bytes(moof + mdat + os.urandom(SEGMENT_BYTES - len(moof) - 8))
    return folder


def recorders(urls: list[str], seconds: float) -> subprocess.Popen[str]:
    """They run; what became of them is one line of JSON. Each run has names of its own."""
    argv = [sys.executable, "-m", "bench.recorders", str(seconds), str(material()), str(next(_runs)), *urls]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kept_up(urls: list[str], seconds: float) -> bool:
    """Whether no segment was late and none refused."""
    told, _ = recorders(urls, seconds).communicate()
    found = json.loads(told)
    return not found["late"] and not found["refused"]


def sustained(urls: Callable[[int], list[str]]) -> int:
    """The most recorders at once of which no segment was late in a minute, to within a tenth."""
    good, bad = 0, 8
    while bad <= MOST and kept_up(urls(bad), TRIED_SECONDS):
        good, bad = bad, bad * 2
    while bad - good > max(1, good // 10):
        middle = (good + bad) // 2
        if kept_up(urls(middle), TRIED_SECONDS):
            good = middle
        else:
            bad = middle
    while good and not kept_up(urls(good), SUSTAINED_SECONDS):
        good = good * 9 // 10
    return good


_sources: list[Source] = []


def push_addresses(number: int) -> list[str]:
    while len(_sources) < number:
        _sources.append(Source(minio_system(), name=f"bench {uuid4()}"))
    return [source.url for source in _sources[:number]]


@cache
def capacity() -> int:
    require_room(minio_system(), _ROOM)
    return sustained(push_addresses)


def with_nginx() -> float:
    """nginx, the same PUTs onto the bare disk: no hash, no lock, no fsync."""
    with nginx(minio_system().folder) as url:
        return sustained(lambda number: [f"{url}{place:04d}/" for place in range(number)])


@row("live-streams", unit="streams", better="higher", goal=0.7, peer=with_nginx, runs=1)
def live_streams() -> float:
    """Recorders that each PUT a segment of 1 MB each two seconds to the push door, for a minute, none answered later
    than the next is due: what is answered is hashed, locked, checked, receipted and indexed."""
    return capacity()


@contextmanager
def half_load() -> Iterator[None]:
    """Half of the recorders that can be had at once."""
    load = recorders(push_addresses(max(1, capacity() // 2)), 3600)
    try:
        time.sleep(3)
        yield
    finally:
        load.kill()
        load.wait()


def _p99(one: Callable[[], object]) -> float:
    took = []
    for _ in range(RECEIPTS):
        began = time.monotonic()
        one()
        took.append((time.monotonic() - began) * 1000)
        time.sleep(0.1)
    return sorted(took)[RECEIPTS * 99 // 100 - 1]


def least() -> float:
    """A bare locked PUT, a HEAD and two transactions of one row that are on the disk, one after the other."""
    data, lock = os.urandom(SEGMENT_BYTES), Retention(COMPLIANCE, datetime.now(UTC) + timedelta(days=180))
    made = "CREATE TABLE IF NOT EXISTS vault.bench_rows (id uuid PRIMARY KEY);"
    made += "GRANT INSERT ON vault.bench_rows TO quancheng_vault"
    minio_system().stack.postgres.run_sql(made)
    dsn = minio_system().stack.postgres.dsn("quancheng_vault").replace("+asyncpg", "")
    with half_load(), bucket(LOCKED, lock=True) as client, asyncio.Runner() as runner:
        database = runner.run(asyncpg.connect(dsn))

        def one() -> None:
            name = str(uuid4())
            client.put_object(
                bucket_name=LOCKED, object_name=name, data=io.BytesIO(data), length=len(data), retention=lock
            )
            client.stat_object(LOCKED, name)
            for _ in range(2):
                runner.run(database.execute("INSERT INTO vault.bench_rows VALUES ($1)", uuid4()))

        try:
            return _p99(one)
        finally:
            runner.run(database.close())


@row("live-receipt", unit="ms p99", better="lower", goal=2.0, peer=least, runs=1)
def live_receipt() -> float:
    """From a segment's last byte to its receipt, verified by the terminal, by the direct door: hashed, asked for,
    put, committed. Half of the recorders that can be had at once push meanwhile."""
    with half_load(), HandTerminal(minio_system()) as terminal:
        recording, sequence = terminal.begin(), count()
        recording.seal(next(sequence), b"ftyp" * 256)

        def one() -> None:
            data = os.urandom(SEGMENT_BYTES)
            ask = recording.segment(next(sequence), data)
            ticket = recording.ask(ask).tickets[0]
            if put_to(ticket, data) != 200:
                raise Unavailable("存储拒绝了片段")
            recording.receipt(recording.commit(ask), ask)

        return _p99(one)


def segment_size() -> float:
    return SEGMENT_BYTES / 1024**2


@row("stream-memory", unit="MiB", better="lower", goal=2.0, peer=segment_size, runs=1)
def stream_memory() -> float:
    """By how much the api and the vault grow for each live recorder, in a minute of half the load; beside a segment.
    Whether that stays so for an hour is not looked at here."""
    urls = push_addresses(max(1, capacity() // 2))
    kept_up(urls, TRIED_SECONDS)
    before = _resident()
    load = recorders(urls, SUSTAINED_SECONDS)
    most = before
    while load.poll() is None:
        time.sleep(0.5)
        most = max(most, _resident())
    return (most - before) / len(urls) / 1024**2


def _resident() -> int:
    stack, total = minio_system().stack, 0
    for process in (stack.api, stack.vault):
        assert process
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        total += int(next(line.split()[1] for line in status if line.startswith("VmRSS:"))) * 1024
    return total
