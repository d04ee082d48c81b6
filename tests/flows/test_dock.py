"""A recorder's folder is taken over: every file as it is, marked as not live, once, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from tests.flows.disks import SmallDisk
from tests.flows.docking import (
    FORMATS,
    MADE,
    MIB,
    as_it_was,
    assert_sealed,
    closing_of,
    dock,
    media,
    plain,
    recordings,
    some,
)
from tests.flows.evidence import eventually
from tests.flows.link import Link
from tests.flows.live import LiveTerminal
from tests.system import System

SLOW = 16_000
"""Bytes a second of a link over which an exchange takes seconds."""
SIZE = 40 * 8 * MIB
"""More segments than are asked for at once."""


def port_of(system: System) -> int:
    return int(system.stack.api_url.rpartition(":")[2])


@pytest.fixture
def card(tmp_path: Path) -> Path:
    folder = tmp_path / "DCIM 记录仪"
    folder.mkdir()
    return folder


def test_a_folder_is_sealed_as_it_is_and_verified_by_a_stranger(system: System, card: Path) -> None:
    home = system.new_terminal(f"docking-{system.stack.api_url[-5:]}")
    (card / "100 MEDIA").mkdir()
    made = {kind: media(card / "100 MEDIA", kind) for kind in FORMATS}
    made["bin"] = some(card / "当事人张某\u202e.unknown", 17 * MIB + 5)
    before = as_it_was(card)
    done = dock(home, card, "--note", "山区没有信号")
    assert done.code == 0, done.said
    taken = done.taken()
    assert len(taken) == len(made) == done.of("docked")[0]["taken_over"]
    assert as_it_was(card) == before, "nothing in the folder was touched"
    listed = recordings(system)
    for kind, file in made.items():
        name = file.relative_to(card).as_posix().replace("\u202e", "\\u202e")
        recording = taken[name]["recording"]
        shown = listed[recording]["taken_over"]
        assert (shown["file_name"], shown["reason"], shown["note"]) == (name, "no-link", "山区没有信号")
        assert shown["checked_at"] and not shown["differs"]
        modified = datetime.fromtimestamp(file.stat().st_mtime_ns // 1_000_000 / 1000).astimezone()
        assert datetime.fromisoformat(shown["modified_at"]) == modified
        says = MADE if kind in ("mp4", "mov") else None
        assert (shown["created_at"] or "").rstrip("Z") == (says or "").removesuffix(".000Z")
        if kind in ("mp4", "jpg", "bin"):
            told = assert_sealed(system, home, recording, file, kind)
            assert (told["reason"], told["created_at"]) == ("no-link", says)
        else:
            assert closing_of(home, recording)["taken_over"]["format"] == kind
    assert not list((home / "dock").iterdir())
    log = "".join(path.read_text(errors="replace") for path in (system.stack.data / "logs").glob("*.log"))
    assert "张某" not in log

    again = dock(home, card)
    assert (again.code, again.of("docked")[0]["already"], again.taken()) == (0, len(made), {})
    (card / "copied.bin").write_bytes(made["bin"].read_bytes())
    copied = dock(home, card)
    assert [event["file"] for event in copied.of("already") if event["file"] == "copied.bin"]
    assert copied.taken() == {}
    assert len(recordings(system)) == len(listed)


def test_a_killed_dock_goes_on_where_it_was(system: System, card: Path) -> None:
    big = some(card / "big.mov", 90 * MIB, 2)
    arguments = (str(card), "--reason", "recovered")
    with Link(port_of(system)) as link:
        home = system.new_terminal(f"killed-dock-{system.stack.api_url[-5:]}", link.url)
        link.trickle(SLOW)
        with LiveTerminal(system, home, "dock", *arguments) as docking:
            docking.wait_for("sealed", 1)
            docking.kill()
    before = {event["sequence"] for event in docking.of("sealed")}
    (unfinished,) = (home / "dock").iterdir()
    status = system.terminal("status", home)[0]
    assert status["docked"] == {"unfinished": 1, "closed": 0}
    done = dock(home, card, "--api", system.stack.api_url, reason="no-link")
    assert done.code == 0, done.said
    (taken,) = done.taken().values()
    assert taken["recording"] == unfinished.name
    assert not before & {event["sequence"] for event in done.of("sealed")}, "what has its receipt is not sent again"
    told = assert_sealed(system, home, taken["recording"], big, "bin")
    assert told["reason"] == "recovered", "the reason that was given when it was taken over"


def test_what_cannot_be_taken_over_is_named_and_the_rest_is_taken(local_system: System, card: Path) -> None:
    home = local_system.new_terminal("dock-odd")
    (card / "empty.mp4").touch()
    (card / "link.mp4").symlink_to("/etc/hostname")
    (card / "loop").symlink_to(card)
    os.mkfifo(card / "pipe")
    with (card / "huge.avi").open("wb") as file:
        file.truncate(64 * 1024**3 + 1)
    odd = os.fsdecode(os.fsencode(card) + b"/\xff new\nline.jpg")
    Path(odd).write_bytes(b"\xff\xd8\xff picture")
    Path(os.fspath(card) + "/same twice").write_bytes(b"\xff\xd8\xff picture")
    done = dock(home, card, reason="device-cannot-stream")
    assert done.code == 5, done.said
    assert done.left() == {
        "empty.mp4": "empty",
        "link.mp4": "link",
        "loop": "link",
        "pipe": "special",
        "huge.avi": "too-large",
    }
    came = {event["file"] for kind in ("taken-over", "already") for event in done.of(kind)}
    assert came == {"\\xff new\\u000aline.jpg", "same twice"}
    assert len(done.taken()) == 1

    said = plain(home, card, "--reason", "no-link")
    assert "已在库中" in said.stdout and "空文件" in said.stdout and "Traceback" not in said.stderr
    assert plain(home, home, "--reason", "no-link").returncode == 2, "the terminal's own keys"
    assert plain(home, card / "nowhere", "--reason", "no-link").returncode == 2
    assert "--note" in plain(home, card, "--reason", "other").stderr


def test_a_file_that_changes_on_the_way_is_closed_as_incomplete_and_taken_anew(
    local_system: System, card: Path
) -> None:
    file = card / "growing.ts"
    with file.open("wb") as made:
        made.truncate(SIZE)
    with Link(port_of(local_system)) as link:
        home = local_system.new_terminal("dock-changed", link.url)
        link.trickle(SLOW)
        with LiveTerminal(local_system, home, "dock", str(card), "--reason", "no-link") as docking:
            # The rest needs another exchange, which takes its time.
            docking.wait_for("sealed", 1)
            with file.open("ab") as more:
                more.write(b"more")
            link.mend()
            assert docking.finish() == 1, docking.said
    (left,) = docking.of("docked")[0]["left"]
    assert (left["file"], left["why"]) == ("growing.ts", "changed")
    (closed,) = docking.of("closed")
    told = closing_of(home, closed["recording"])
    assert told["interrupted"] and told["missing"] and told["taken_over"]["size"] == SIZE
    done = dock(home, card, "--api", local_system.stack.api_url)
    assert done.code == 0, done.said
    (taken,) = done.taken().values()
    assert (taken["size"], taken["recording"] != closed["recording"]) == (SIZE + 4, True)
    shown = recordings(local_system)
    assert shown[closed["recording"]]["taken_over"]["checked_at"] is None
    assert shown[taken["recording"]]["taken_over"]["checked_at"]


def test_a_watching_dock_takes_what_is_finished(local_system: System, card: Path) -> None:
    home = local_system.new_terminal("dock-watch")
    arguments = (str(card), "--reason", "no-link", "--watch", "--settled-seconds", "1")
    with LiveTerminal(local_system, home, "dock", *arguments) as docking:
        media(card, "wav", "first")
        docking.wait_for("taken-over", 1)
        media(card, "jpg", "second")
        docking.wait_for("taken-over", 2)
        docking.interrupt()
        assert docking.finish() == 0, docking.said
    assert docking.of("docked")[0] | {"left": []} == {
        "event": "docked",
        "taken_over": 2,
        "already": 0,
        "left": [],
    }


def test_a_full_disk_and_a_cut_link_are_waited_out(local_system: System, card: Path, tmp_path: Path) -> None:
    file = some(card / "long.avi", SIZE // 2, 4)
    with SmallDisk(tmp_path / "home", 64) as disk, Link(port_of(local_system)) as link:
        enrolled = local_system.new_terminal("dock-full", link.url)
        home = Path(shutil.move(enrolled, tmp_path / "home" / "terminal"))
        link.trickle(SLOW)
        with LiveTerminal(local_system, home, "dock", str(card), "--reason", "recovered") as docking:
            eventually(lambda: list((home / "dock").glob("*/file.json")), "it is hashed", 60)
            disk.fill()
            link.mend()
            eventually(
                lambda: any("磁盘" in event["reason"] for event in docking.of("retry")), "the disk is full", 60
            )
            assert not docking.of("closed")
            link.cut()
            disk.make_room()
            eventually(lambda: link.refused > 3, "it keeps trying", 60)
            link.mend()
            assert docking.finish() == 0, docking.said
        (taken,) = docking.of("taken-over")
        assert (taken["size"], docking.of("docked")[0]["left"]) == (file.stat().st_size, [])
