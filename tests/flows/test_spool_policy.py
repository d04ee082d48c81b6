"""A spool that fills while the store is away: recording stops, or goes on without what finds no room, as told; what
waits for its receipt is never given up, and officer and server hear of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.evidence import Bundle, assert_nothing_lost, assert_plays, eventually
from tests.flows.heard import Rig, linked, look
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal, asks_of

WITHIN = 10.0
SMALL = ("--spool-mb", "1.5")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with linked() as made:
        yield made


@pytest.fixture(scope="module")
def li(rig: Rig) -> Iterator[httpx.Client]:
    with rig.system.sign_in("li") as client:
        yield client


def waiting(spool: Path) -> set[int]:
    """Sequences whose bytes are in the spool."""
    return {int(path.name[:8]) for path in spool.glob("*.seg")}


def sealed_in(terminal: LiveTerminal) -> set[int]:
    return {int(event["sequence"]) for event in terminal.of("sealed")}


def full(li: httpx.Client, recording: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        row = look(li, recording)
        return row if row["spool_full"] else None

    return eventually(found, "the server knows of it", timeout=WITHIN)


def assert_missing(bundle: Bundle, asks: list[dict[str, Any]]) -> None:
    """All that was kept is there; the rest is declared missing, and nothing else is."""
    kept = [ask["sequence"] for ask in asks]
    missing = bundle.closing()["missing"]
    assert sorted([*kept, *missing]) == list(range(len(kept) + len(missing)))
    assert [s["sequence"] for s in bundle.manifest()["segments"]] == kept
    assert bundle.manifest()["missing"] == missing
    assert_plays(bundle.media)


def test_skipping_goes_on_by_itself_and_declares_missing_what_found_no_room(rig: Rig, li: httpx.Client) -> None:
    home = rig.system.new_terminal("skip", rig.api.url)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, *SMALL, "--when-full", "skip") as terminal:
        recording = terminal.recording
        spool = home / "spool" / recording
        terminal.wait_for("sealed", 3)
        rig.store.cut()
        terminal.wait_for("spool-full")
        held = waiting(spool)
        row = full(li, recording)
        assert row["held"]["segments"] >= 1
        page = li.get(f"/recordings/{recording}").text
        assert "终端存储已满" in page
        eventually(
            lambda: (look(li, recording)["held"]["skipped"] or 0) >= 2, "skipped ones are told", timeout=WITHIN
        )
        assert len(terminal.of("spool-full")) == 1, "once a stretch"
        assert held <= waiting(spool) | sealed_in(terminal), "nothing that waits was given up"
        rig.store.mend()
        terminal.wait_for("spool-room")
        before = len(terminal.of("sealed"))
        terminal.wait_for("sealed", before + 3)
        eventually(lambda: not look(li, recording)["spool_full"], "the server knows of the room", timeout=WITHIN)
        sealed = sealed_in(terminal)
        terminal.interrupt()
        assert terminal.finish() == 4, terminal.said[-20:]
    asks = asks_of(home / "done" / recording)
    bundle = assert_nothing_lost(rig.system, home, recording, sealed)
    skipped = sum(event["skipped"] for event in terminal.of("spool-room"))
    assert len(bundle.closing()["missing"]) >= skipped >= 2
    assert_missing(bundle, asks)
    assert not bundle.closing()["interrupted"]
    assert held <= {ask["sequence"] for ask in asks}


def test_a_terminal_killed_while_it_skips_declares_missing_that_it_did(rig: Rig) -> None:
    home = rig.system.new_terminal("skip-killed", rig.api.url)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, *SMALL, "--when-full", "skip") as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 2)
        rig.store.cut()
        terminal.wait_for("spool-full")
        told = home / "spool" / recording / "skipped.json"
        eventually(told.exists, "it is on disk")
        terminal.kill()
    rig.store.mend()
    asks = asks_of(home / "spool" / recording)
    assert json.loads(told.read_bytes())["next_sequence"] == asks[-1]["sequence"] + 2
    with LiveTerminal(rig.system, home, "resume") as resumed:
        assert resumed.finish() == 0, resumed.said
    bundle = assert_nothing_lost(rig.system, home, recording, sealed_in(terminal))
    assert_missing(bundle, asks)
    assert bundle.closing()["missing"] == [asks[-1]["sequence"] + 1]
    assert bundle.closing()["interrupted"]


def test_a_spool_that_is_full_from_the_start_keeps_the_init_and_what_comes_once_there_is_room(rig: Rig) -> None:
    home = rig.system.new_terminal("skip-first", rig.api.url)
    rig.store.cut()
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, *SMALL) as terminal:
        left = terminal.recording
        terminal.wait_for("error")
        terminal.kill()
    assert waiting(home / "spool" / left)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, *SMALL, "--when-full", "skip") as terminal:
        recording = terminal.recording
        terminal.wait_for("spool-full")
        assert waiting(home / "spool" / recording) == {0}
        rig.store.mend()
        terminal.wait_for("spool-room")
        eventually(lambda: len(asks_of(home / "spool" / recording)) >= 3, "it goes on")
        terminal.interrupt()
        assert terminal.finish() == 4, terminal.said[-20:]
    assert {event["recording"] for event in terminal.of("closed")} == {left, recording}
    bundle = assert_nothing_lost(rig.system, home, recording, set())
    assert bundle.closing()["missing"][0] == 1
    assert_missing(bundle, asks_of(home / "done" / recording))


def test_stopping_is_what_happens_unless_told_otherwise(rig: Rig, li: httpx.Client) -> None:
    home = rig.system.new_terminal("stop", rig.api.url)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, *SMALL) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 2)
        rig.store.cut()
        terminal.wait_for("error")
        assert "录制已停止" in terminal.of("error")[0]["reason"] and "暂存区已满" in terminal.of("error")[0]["reason"]
        assert full(li, recording)["presence"] in ("waiting", "catching-up")
        rig.store.mend()
        assert terminal.finish() == 4
    bundle = assert_nothing_lost(rig.system, home, recording, sealed_in(terminal))
    assert bundle.closing()["missing"] == [] and bundle.closing()["interrupted"]
