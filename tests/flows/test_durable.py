"""On the local folder a segment's bytes and its name are on the disk before anyone is told that they are kept."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from services.vault.contract import wire
from tests.flows.hand_terminal import HandTerminal, put, some_bytes
from tests.rooms.sealed import ask, open_recording
from tests.system import System, running

CALLS = "write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync,link,linkat"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running(None) as made:
        yield made


@contextmanager
def watched(strace: Path, pid: int, told: Path) -> Iterator[None]:
    """Every such call of the process, in the order in which each began and, where another came between, ended."""
    argv = [str(strace), "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(told), "-p", str(pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as eyes:
        assert eyes.stderr
        said = eyes.stderr.readline()
        assert "attached" in said, said
        try:
            yield
            time.sleep(0.5)
        finally:
            eyes.terminate()


def done(lines: list[str], call: str, file: str) -> list[int]:
    """Where calls on this file had ended well."""
    found, pending = [], set()
    for at, line in enumerate(lines):
        thread, _, what = line.partition(" ")
        what = what.strip()
        if re.match(rf"{call}\(.*<{re.escape(file)}>", what):
            if "<unfinished" in what:
                pending.add(thread)
            elif what.endswith("= 0") or call != "fsync":
                found.append(at)
        elif thread in pending and what.startswith(f"<... {call} resumed>"):
            pending.discard(thread)
            if what.endswith("= 0") or call != "fsync":
                found.append(at)
    return found


def first(lines: list[str], pattern: str, after: int = 0) -> int:
    found = [at for at, line in enumerate(lines) if at >= after and re.search(pattern, line)]
    assert found, f"no line is like {pattern}"
    return found[0]


async def test_bytes_and_name_are_on_the_disk_before_the_answer_and_the_receipt(
    system: System, strace: Path, tmp_path: Path
) -> None:
    vault = system.stack.vault
    assert vault and vault.pid
    data = b"a second of video" * 1000
    async with system.vault() as client, httpx.AsyncClient(trust_env=False) as store:
        recording = await open_recording(client)
        asked = ask(0, data)
        ticket = (await client.exchange(recording, wire.ExchangeRequest(asks=[asked]))).tickets[0]
        name = wire.SegmentName(sequence=0, sha256=asked.sha256)
        with watched(strace, vault.pid, tmp_path / "calls"):
            (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()
            assert (await client.exchange(recording, wire.ExchangeRequest(commits=[name]))).sealed
    lines = (tmp_path / "calls").read_text().splitlines()
    evidence = (system.stack.data / "evidence").resolve()
    folder = evidence / "evidence" / "recordings" / str(recording)
    named = first(lines, rf'link(at)?\(.*"{folder}/')
    temporary = re.findall(r'"([^"]+)"', lines[named])[0]
    answer = first(lines, r"<socket:.*HTTP/1\.1 200", named)
    receipt = first(lines, r'<socket:.*\\"sealed\\":\[\{')

    written = done(lines, "write", temporary)
    synced = done(lines, "fsync", temporary)
    assert written and synced, "the file itself was written and synced"
    assert max(written) < min(synced) < named, "first the bytes, then their name"
    # Its folder, and every new one above it, before the answer to the upload and so before the receipt.
    for parent in (folder, *folder.parents):
        assert [at for at in done(lines, "fsync", str(parent)) if named < at < answer], f"{parent} is synced"
        if parent == evidence:
            break
    assert answer < receipt
    # What the receipt stands on beside the bytes is PostgreSQL's, which answers a commit once it is on the disk.
    for setting in ("fsync", "synchronous_commit"):
        assert system.stack.postgres.run_sql(f"SHOW {setting}").strip() == "on"


def test_who_sends_again_what_is_there_hears_so_once_all_was_taken(system: System) -> None:
    data = some_bytes(8 * 1024 * 1024)
    with HandTerminal(system) as terminal:
        recording = terminal.begin()
        ticket = recording.ask(recording.segment(0, data)).tickets[0]
        assert put(ticket, data) == 200
        url = httpx.URL(ticket.url)
        head = "".join(f"{name}: {value}\r\n" for name, value in ticket.headers.items())
        with socket.create_connection((url.host, url.port or 80), 10) as connection:
            first = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nhost: {url.netloc.decode()}\r\n"
            connection.sendall(f"{first}{head}\r\n".encode())
            for start in range(0, len(data), 1024 * 1024):
                connection.sendall(data[start : start + 1024 * 1024])
                time.sleep(0.1)
            assert connection.recv(100).startswith(b"HTTP/1.1 412 ")
