"""What is known of a recording beside its pictures becomes facts: found after closing, or told by who recorded it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.vault.contract import wire
from tests.flows.evidence import eventually
from tests.flows.hand_terminal import HandTerminal, some_bytes
from tests.flows.pushing import FMP4, Source
from tests.flows.uploading import created, ended
from tests.media import PLAIN, Scene, made
from tests.system import System


def facts(system: System, recording: Any) -> dict[str, Any]:
    """Once the detectors have looked."""

    def told() -> dict[str, Any] | None:
        with system.sign_in("li") as client:
            answer = client.get(f"/v1/recordings/{recording}/facts")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found if found["looked_at"] else None

    return eventually(told, "the detectors have looked", 60)


def of(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [each for each in told["items"] if each["kind"] == kind]


def test_a_black_and_silent_stretch_is_found_by_the_recorder_s_clock(local_system: System, tmp_path: Path) -> None:
    file = made(tmp_path / "night.mp4", Scene(PLAIN, 6), Scene("black", 15), Scene(PLAIN, 6), silent=(8, 22))
    source = Source(local_system, "encoder")
    pushing = source.copy("live.mp4", file, *FMP4)
    assert pushing.returncode == 0, pushing.stderr
    (recording,) = source.closed()
    told = facts(local_system, recording["id"])
    assert {each["kind"] for each in told["items"]} == {"black", "silent"}
    assert (told["not_looked"], told["detector"].partition(" ")[0]) == (None, "ffmpeg")
    (black,) = of(told, "black")
    # Pushed faster than it was recorded: its clock is when it came, and how far in it is stays what it is.
    assert (black["from_ms"], black["to_ms"]) == (pytest.approx(6000, abs=1100), pytest.approx(20000, abs=1100))
    began = datetime.fromisoformat(recording["started_at"])
    assert abs(datetime.fromisoformat(black["from_at"]) - began) < timedelta(seconds=30)
    with local_system.sign_in("li") as client:
        page = client.get(f"/recordings/{recording['id']}").text
    assert "画面全黑" in page and "没有声音" in page and f'data-seek="{began:%Y-%m-%d}' in page


def test_of_an_uploaded_file_it_is_said_how_far_in(local_system: System, tmp_path: Path) -> None:
    file = made(tmp_path / "dock.avi", Scene(PLAIN, 5), Scene("covered", 15), silent=(0, 20))
    data = file.read_bytes()
    url = created(Source(local_system, "dock"), len(data), data)
    told = facts(local_system, ended(local_system, url)["id"])
    (covered,) = of(told, "covered")
    assert (covered["from_at"], round(covered["from_ms"] / 1000)) == (None, 5)
    assert [each["kind"] for each in told["items"]] == ["silent", "covered"]


@pytest.mark.parametrize(("head", "why"), [(b"%PDF-1.7\n", "not-media"), (b"\x1aE\xdf\xa3 no film", "unreadable")])
def test_what_cannot_be_looked_at_is_not_taken_for_a_finding(local_system: System, head: bytes, why: str) -> None:
    url = created(Source(local_system, "dock"), len(head), head)
    told = facts(local_system, ended(local_system, url)["id"])
    assert (told["items"], told["not_looked"]) == ([], why)


def test_a_hole_is_open_until_the_closing_declares_it_and_a_clock_that_was_off_is_told(local_system: System) -> None:
    with HandTerminal(local_system) as terminal:
        recording = terminal.begin()
        beat(terminal, 1, timedelta(minutes=-5))
        sealed = [recording.seal(sequence, some_bytes()) for sequence in (0, 1, 4)]
        with local_system.sign_in("li") as client:
            told = client.get(f"/v1/recordings/{recording.id}/facts").json()
        holes = [(each["first_missing"], each["last_missing"]) for each in of(told, "gap-open")]
        assert (told["looked_at"], holes) == (None, [(2, 3)])
        recording.close(recording.closing(sealed, missing=[2, 3])).raise_for_status()
        told = facts(local_system, recording.id)
        assert [(each["first_missing"], each["last_missing"]) for each in of(told, "missing")] == [(2, 3)]
        (off,) = of(told, "clock-off")
        assert -301_000 < off["offset_ms"] < -299_000
        assert told["not_looked"] == "unreadable"


def test_a_recording_that_nobody_closed_is_told_so(local_system: System) -> None:
    with HandTerminal(local_system) as terminal:
        recording = terminal.begin()
        for sequence in (0, 1):
            recording.seal(sequence, some_bytes())
        terminal.revoke()
    told = facts(local_system, recording.id)
    (stopped,) = of(told, "not-closed")
    assert stopped["reason"] == "revoked"
    with local_system.sign_in("li") as client:
        assert "停止时没有关闭" in client.get(f"/recordings/{recording.id}").text


def test_facts_are_seen_by_whoever_sees_the_recording(local_system: System) -> None:
    with HandTerminal(local_system) as terminal:
        recording = terminal.begin()
    with local_system.sign_in("admin") as client:
        assert client.get(f"/v1/recordings/{recording.id}/facts").status_code == 404


def beat(terminal: HandTerminal, number: int, off: timedelta) -> None:
    told = {
        "run": "01890a5d-ac96-774b-bcce-b302099a8057",
        "monotonic_ms": number,
        "device_time": wire.rfc3339(datetime.now(UTC) + off),
        "state": "recording",
        "capturing": True,
        "spool_used": 0,
        "spool_limit": 1,
        "spool_full": False,
        "recordings": [],
    }
    terminal.http.put("/v1/recorders/self/heartbeat", json=told).raise_for_status()
