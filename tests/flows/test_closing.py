"""What a closing settles, and what it cannot make vanish."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.vault.contract import wire
from tests.flows.hand_terminal import HandRecording, HandTerminal, some_bytes
from tests.system import System


@pytest.fixture(scope="module")
def terminal(system: System) -> Iterator[HandTerminal]:
    with HandTerminal(system) as terminal:
        yield terminal


def manifest_of(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return wire.ClosedRecording.model_validate_json(answer.content).manifest.decoded()


def verified(bundle: Path) -> str:
    argv = [sys.executable, "-I", str(bundle / "verify.py"), str(bundle)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_sealed_segments_that_a_closing_leaves_out_are_listed_beside_and_exported(
    system: System, terminal: HandTerminal
) -> None:
    recording = terminal.begin()
    pieces = [some_bytes() for _ in range(6)]
    asks = [recording.seal(sequence, data) for sequence, data in enumerate(pieces)]
    other = some_bytes()
    conflicting = recording.seal(1, other)
    manifest = manifest_of(recording.close(recording.closing([asks[0], asks[1], asks[4]], missing=[2, 3])))
    assert [s["sequence"] for s in manifest["segments"]] == [0, 1, 4]
    assert manifest["segments"][1]["sha256"] == asks[1].sha256
    left_out = {(s["of_sequence"], s["sha256"]) for s in manifest["beside"]}
    assert left_out == {(a.sequence, a.sha256) for a in (conflicting, asks[2], asks[3], asks[5])}

    bundle = system.export(str(recording.id))
    assert "另有 4 个已封存片段" in verified(bundle)
    kept = {path.name: path.read_bytes() for path in (bundle / "data" / f"{recording.id}.beside").iterdir()}
    assert kept[f"{5:010d}-{asks[5].sha256}"] == pieces[5]
    assert kept[f"{1:010d}-{conflicting.sha256}"] == other


def test_playback_of_a_closed_recording_is_what_its_manifest_names(system: System, terminal: HandTerminal) -> None:
    recording = terminal.begin()
    init = recording.seal(0, some_bytes())
    first_sealed, chosen = (recording.seal(1, some_bytes()) for _ in range(2))
    assert recording.close(recording.closing([init, chosen])).status_code == 200
    with system.sign_in("li") as client:
        viewing = client.post(f"/v1/recordings/{recording.id}/viewings", json={"purpose": "spot-check"})
        playlist = client.get(viewing.json()["playlist"]).text
    assert f"segments/1-{chosen.sha256}.m4s" in playlist
    assert first_sealed.sha256 not in playlist


def test_a_day_long_recording_is_closed_while_the_vault_goes_on_answering(
    local_system: System,
) -> None:
    with HandTerminal(local_system) as terminal:
        recording = terminal.begin()
        asks = sealed_rows(local_system, recording, 20_000)
        closing = recording.closing(asks)
        with ThreadPoolExecutor(1) as thread:
            closed = thread.submit(recording.close, closing)
            while not closed.done():
                assert httpx.get(f"{local_system.stack.vault_url}/healthz", timeout=5).status_code == 200
        manifest = manifest_of(closed.result())
        assert len(manifest["segments"]) == 20_000
        assert manifest_of(recording.close(closing)) == manifest


def sealed_rows(system: System, recording: HandRecording, count: int) -> list[wire.SegmentAsk]:
    """Rows as `count` sealed segments leave them, without the bytes: closing does not read those."""
    began = datetime.now(UTC)
    asks = [
        wire.SegmentAsk(
            sequence=sequence,
            sha256=hashlib.sha256(f"{recording.id} {sequence}".encode()).hexdigest(),
            size=1000,
            media="media" if sequence else "init",
            started_at=began,
            duration_ms=1000,
            monotonic_ms=sequence * 1000,
        )
        for sequence in range(count)
    ]
    rows = ",\n".join(
        f"('{recording.id}', {a.sequence}, '{a.sha256}', 1000, '{a.media}', now(), 1000, {a.monotonic_ms}, 'none',"
        f" now() + interval '1 day', now(), 'sealed', '1', now(), '{{}}')"
        for a in asks
    )
    system.stack.postgres.run_sql(
        "INSERT INTO vault.segments (recording_id, sequence, sha256, size, media, started_at, duration_ms,"
        f" monotonic_ms, key, retain_until, asked_at, state, version, sealed_at, receipt) VALUES {rows}"
    )
    return asks
