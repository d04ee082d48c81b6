"""What the server says of a recording whose terminal runs and whose links fail, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.flows.evidence import assert_nothing_lost, eventually
from tests.flows.heard import Rig, linked, look
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal

WITHIN = 10.0


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with linked() as made:
        yield made


@pytest.fixture(scope="module")
def li(rig: Rig) -> Iterator[httpx.Client]:
    with rig.system.sign_in("li") as client:
        yield client


def seen(li: httpx.Client, recording: str, presence: str, within: float) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        row = look(li, recording)
        return row if row["presence"] == presence else None

    return eventually(found, f"it is {presence}", timeout=within)


def test_a_recording_of_which_nothing_arrives_is_told_within_ten_seconds(rig: Rig, li: httpx.Client) -> None:
    home = rig.system.new_terminal("heard", rig.api.url)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 3)
        assert look(li, recording)["presence"] == "live"

        # 1. The store is away, the api is not.
        rig.store.cut()
        began = time.monotonic()
        row = seen(li, recording, "silent", WITHIN)
        assert row["held"]["segments"] >= 1 and row["held"]["bytes"] > 0 and row["held"]["seconds"] >= 1
        assert not row["live"]
        held = row["held"]["segments"]
        page = li.get("/recordings", headers={"hx-request": "true"}).text
        assert "录制中，无数据到达" in page and "未到" in page
        eventually(lambda: look(li, recording)["held"]["segments"] > held, "the newer one is kept", timeout=WITHIN)
        assert look(li, recording)["presence"] == "silent", time.monotonic() - began

        # 2. Back: it is live again at once.
        rig.store.mend()
        seen(li, recording, "live", WITHIN)

        # 3. Nothing is heard of it at all.
        rig.api.cut()
        rig.store.cut()
        seen(li, recording, "lost", WITHIN + 2)
        rig.api.mend()
        seen(li, recording, "silent", WITHIN)
        rig.store.mend()
        seen(li, recording, "live", WITHIN)
        before = {int(event["sequence"]) for event in terminal.of("sealed")}
        terminal.interrupt()
        assert terminal.finish() == 0, terminal.said[-20:]
    row = look(li, recording)
    assert (row["presence"], row["held"]) == ("closed", None)
    assert_nothing_lost(rig.system, home, recording, before)


def test_a_terminal_that_stops_with_a_rest_says_so_and_its_next_run_catches_up(rig: Rig, li: httpx.Client) -> None:
    home = rig.system.new_terminal("stopped", rig.api.url)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, "--drain-seconds", "1") as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 2)
        rig.store.cut()
        seen(li, recording, "silent", WITHIN)
        terminal.interrupt()
        assert terminal.finish() == 1
    row = look(li, recording)
    assert row["presence"] == "stopped" and row["held"]["segments"] >= 1
    with LiveTerminal(rig.system, home, "resume") as resumed:
        seen(li, recording, "waiting", WITHIN)
        rig.store.mend()
        assert resumed.finish() == 0
    assert look(li, recording)["presence"] == "closed"


def test_a_killed_terminal_is_lost_within_ten_seconds_of_its_last_word(rig: Rig, li: httpx.Client) -> None:
    home = rig.system.new_terminal("gone", rig.api.url)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 2)
        terminal.kill()
        seen(li, recording, "lost", WITHIN + 2)
    with LiveTerminal(rig.system, home, "resume") as resumed:
        assert resumed.finish() == 0
    assert look(li, recording)["presence"] == "closed"
