"""A recording streams in real time through the direct door, and its export verifies with no software of ours."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.demo import prepared, stock_commands
from services.vault.contract import verify
from tests.flows.evidence import Bundle, assert_log_is_whole, assert_plays, export
from tests.flows.hand_terminal import HandTerminal, pem_of, pinned_by, put, some_bytes
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal, asks_of, receipts_of
from tests.system import System

SECONDS = 7


@dataclass(frozen=True)
class Streamed:
    """One recording made live, with what was counted while it ran."""

    system: System
    home: Path
    recording: str
    events: list[dict[str, Any]]
    api_io: int
    download_io: int
    bundle: Bundle


def io_of(pid: int | None) -> int:
    """Bytes a process has read and written so far, sockets among them."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["rchar"]) + int(fields["wchar"])


def rss_of(pid: int | None) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmRSS:"))) * 1024


@pytest.fixture(scope="module")
def streamed(system: System) -> Streamed:
    assert system.stack.api
    home = system.new_terminal("streaming")
    before = io_of(system.stack.api.pid)
    with LiveTerminal(system, home, "record", *SECOND_BY_SECOND, "--seconds", str(SECONDS)) as terminal:
        recording = terminal.recording
        assert terminal.finish() == 0, terminal.said
    live = io_of(system.stack.api.pid)
    bundle = export(system, home, recording)
    download = io_of(system.stack.api.pid)
    return Streamed(system, home, recording, terminal.events, live - before, download - live, bundle)


def test_every_segment_gets_a_verified_receipt_seconds_after_its_last_picture(streamed: Streamed) -> None:
    identity = pinned_by((streamed.home / "terminal.json").read_bytes())
    pinned = {identity.receipt_key_id: verify.load_public_key(pem_of(identity.receipt_key))}
    receipts = receipts_of(streamed.home, streamed.recording)
    asks = asks_of(streamed.home / "done" / streamed.recording)
    assert [ask["sequence"] for ask in asks] == list(receipts) == list(range(SECONDS + 1))
    for ask in asks:
        receipt = verify.verify_receipt(
            receipts[ask["sequence"]],
            pinned,
            recording=streamed.recording,
            sequence=ask["sequence"],
            sha256=ask["sha256"],
            size=ask["size"],
        )
        assert receipt["store"]["lock"] == identity.lock
        last = datetime.fromisoformat(receipt["started_at"]) + timedelta(milliseconds=receipt["duration_ms"])
        lag = datetime.fromisoformat(receipt["sealed_at"]) - last
        # The terminal's clock and the vault's are one here; a generous bound, for this is no timing test.
        assert timedelta(milliseconds=-10) < lag < timedelta(seconds=10), f"segment {ask['sequence']}: {lag}"


def test_segments_are_sealed_in_order_while_the_recording_runs(streamed: Streamed) -> None:
    told = [event["event"] for event in streamed.events]
    assert told.count("sealed") == SECONDS + 1
    assert not {"retry", "error"} & set(told)
    receipts = [json.loads(line) for line in streamed.bundle.receipts.read_text().splitlines()]
    sealed = [verify.parse_json(verify.unbase64(receipt["payload"])) for receipt in receipts]
    assert [one["sequence"] for one in sorted(sealed, key=lambda one: str(one["sealed_at"]))] == list(
        range(len(sealed))
    )
    # The first was in the vault before the last was even recorded.
    assert sealed[1]["sealed_at"] < sealed[-1]["started_at"]


def test_the_media_never_pass_the_api_on_their_way_in(streamed: Streamed) -> None:
    size = streamed.bundle.media.stat().st_size
    # The way out does pass it, which shows that these counters see the media where they pass.
    assert streamed.download_io > 2 * size
    assert streamed.api_io < size / 2


def test_the_export_is_the_spooled_segments_in_order_and_plays(streamed: Streamed) -> None:
    asks = asks_of(streamed.home / "done" / streamed.recording)
    found = [(len(data), hashlib.sha256(data).hexdigest()) for data in streamed.bundle.segments()]
    assert found == [(ask["size"], ask["sha256"]) for ask in asks]
    assert_plays(streamed.bundle.media)
    assert not streamed.bundle.closing()["interrupted"]


def test_the_verifier_in_the_export_trusts_the_keys_the_terminal_pinned(streamed: Streamed) -> None:
    verified = streamed.bundle.verify()
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "验证通过" in verified.stdout
    assert_log_is_whole(streamed.system)


def test_every_stock_command_of_the_exports_readme_holds(streamed: Streamed) -> None:
    commands = stock_commands(streamed.bundle.folder)
    assert any("openssl" in command for command in commands)
    assert any("sha256sum" in command for command in commands)
    for command in commands:
        done = run_stock(command, streamed.bundle.folder)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert "OK" in done.stdout or "Signature Verified Successfully" in done.stdout


@pytest.mark.parametrize("listed_anew", [False, True], ids=["as-found", "with-the-bags-lists-rewritten"])
@pytest.mark.parametrize("what", ["media", "receipt", "proof"])
def test_one_flipped_byte_is_found(streamed: Streamed, tmp_path: Path, what: str, listed_anew: bool) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(streamed.bundle.folder, folder)
    bundle = Bundle(folder, streamed.recording, streamed.bundle.trusted)
    if what == "media":
        flip(bundle.media, bundle.media.stat().st_size // 2)
    elif what == "receipt":
        # In the middle of the first payload, base64 of what was signed.
        flip(bundle.receipts, bundle.receipts.read_bytes().index(b'"payload":"') + 60)
    else:
        proof = sorted((folder / "proofs").iterdir())[0]
        # In the first hash of the path, after the line that gives the index.
        flip(proof, proof.read_bytes().index(b"\n", proof.read_bytes().index(b"\nindex ") + 1) + 10)
    if listed_anew:
        list_anew(folder)
    else:
        sums = next(command for command in stock_commands(folder) if "sha256sum --quiet -c" in command)
        assert run_stock(sums, folder).returncode != 0, "sha256sum alone finds it"
    verified = bundle.verify()
    assert verified.returncode == 1, verified.stdout  # 1: altered
    assert "Traceback" not in verified.stderr


def test_memory_stays_flat_while_much_is_streamed_and_exported(system: System) -> None:
    """160 MB through every step: had either process kept a fifth of it, the bound would be broken."""
    bound, segment = 24 * 1024 * 1024, 2 * 1024 * 1024
    data = bytearray(some_bytes(segment))
    early, late = 16, 80
    with HandTerminal(system) as terminal:
        recording, asks = terminal.begin(), []
        before = memory_of(system)
        for sequence in range(late):
            data[:8] = sequence.to_bytes(8)
            ask = recording.segment(sequence, bytes(data))
            assert put(recording.ask(ask).tickets[0], bytes(data)) == 200
            recording.receipt(recording.commit(ask), ask)
            asks.append(ask)
            if sequence == early:
                before = memory_of(system)
        streamed = memory_of(system)
        assert recording.close(recording.closing(asks)).status_code == 200
    for name, size in streamed.items():
        assert size - before[name] < bound, f"{name} grew from {before[name]} to {size} while streaming"
    most = dict(streamed)
    got = 0
    for chunk in downloaded(system, str(recording.id)):
        got += len(chunk)
        if got % (16 * 1024 * 1024) < len(chunk):
            most = {name: max(most[name], size) for name, size in memory_of(system).items()}
    assert got > late * segment
    for name, size in most.items():
        assert size - streamed[name] < bound, f"{name} grew from {streamed[name]} to {size} while exporting"


def memory_of(system: System) -> dict[str, int]:
    assert system.stack.api and system.stack.vault
    return {"api": rss_of(system.stack.api.pid), "vault": rss_of(system.stack.vault.pid)}


def downloaded(system: System, recording: str) -> Iterator[bytes]:
    with system.sign_in("li") as client:
        asked = client.post("/v1/exports", json={"recordings": [recording], "purpose": "spot-check"})
        asked.raise_for_status()
        with client.stream("GET", prepared(client, asked.json())["download"]) as answer:
            answer.raise_for_status()
            yield from answer.iter_raw(256 * 1024)


def test_the_terminals_door_is_shut_to_whoever_has_no_enrolled_key(streamed: Streamed) -> None:
    body: dict[str, list[str]] = {"asks": [], "commits": []}
    url = f"{streamed.system.stack.api_url}/v1/recordings/{streamed.recording}/exchange"
    refused = httpx.post(url, json=body, trust_env=False)
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert refused.json()["slug"] == "not-a-terminal"


def run_stock(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def flip(path: Path, offset: int) -> None:
    """Change one byte: a letter or digit to another, so that base64 stays base64."""
    data = bytearray(path.read_bytes())
    data[offset] = ord("B") if data[offset] == ord("A") else ord("A")
    path.write_bytes(data)


def list_anew(folder: Path) -> None:
    """Make the bag's own lists agree with what is there, as somebody who alters it would."""
    for listing, inside in (("manifest-sha256.txt", True), ("tagmanifest-sha256.txt", False)):
        files = (
            path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "tagmanifest-sha256.txt"
        )
        chosen = [path for path in files if (path.relative_to(folder).parts[0] == "data") == inside]
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in chosen]
        (folder / listing).write_text("".join(lines))
