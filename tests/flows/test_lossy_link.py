"""A terminal in a network namespace that loses a third of all packets delivers every segment by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.evidence import assert_log_is_whole, assert_plays, export
from tests.flows.live import LiveTerminal
from tests.flows.lossy import Lossy
from tests.system import System, running

LOSS, CUT_SECONDS = 30, 60
SECONDS = 30


@pytest.fixture(scope="module")
def system(minio_binary: Path) -> Iterator[System]:
    with running(minio_binary) as made:
        yield made
        assert_log_is_whole(made)


def test_loss_a_cut_of_a_minute_and_a_kill(system: System, nft: Path) -> None:
    home = system.new_terminal("lossy")
    assert system.stack.minio
    ports = [int(system.stack.api_url.rpartition(":")[2]), int(system.stack.minio.endpoint.rpartition(":")[2])]
    recorded = ("record", "--source", "demo", "--segment-seconds", "2", "--seconds", str(SECONDS))
    with Lossy(nft, ports, LOSS) as link:
        with LiveTerminal(system, home, *recorded, within=link.within) as terminal:
            recording = terminal.recording
            terminal.wait_for("sealed", 2, timeout=120)
            assert link.lost
            link.lose(100)
            time.sleep(CUT_SECONDS)
            before = len(terminal.of("sealed"))
            link.lose(LOSS)
            terminal.wait_for("sealed", before + 1, timeout=180)
            terminal.kill()
        with LiveTerminal(system, home, "resume", within=link.within) as terminal:
            assert terminal.finish(300) == 0, terminal.said
            assert terminal.of("sealed")
    bundle = export(system, home, recording)
    assert_plays(bundle.media)
    manifest = bundle.manifest()
    assert manifest["missing"] == []
    assert sum(segment["duration_ms"] for segment in manifest["segments"]) >= (SECONDS - 2) * 1000
