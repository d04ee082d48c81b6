"""Sources that end, die or fall silent in the middle: the recording goes on, and its gap is plain to see."""

from __future__ import annotations

import http.server
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from tests.flows.evidence import Bundle, assert_nothing_lost, assert_plays, eventually
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal, asks_of
from tests.system import System

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of MPEG-TS, of which each second begins with a key frame."""
    path = Path(tmp_path_factory.mktemp("movie")) / "three.ts"
    source = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-t", "3"]
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-f", "mpegts"]
    subprocess.run([FFMPEG, "-v", "error", *source, *coded, str(path)], check=True, timeout=60)
    return path


@contextmanager
def fading(movie: Path) -> Iterator[str]:
    """An address from which the movie comes in its own time, and which ends with it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "video/mp2t")
            self.end_headers()
            data, began = movie.read_bytes(), time.monotonic()
            step = len(data) // 30
            for n in range(31):
                self.wfile.write(data[n * step : (n + 1) * step])
                time.sleep(max(0.0, began + (n + 1) / 10 - time.monotonic()))

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live.ts"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def camera_of(terminal: LiveTerminal) -> int:
    """The process id of its ffmpeg."""

    def found() -> int | None:
        children = Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
        return int(children[0]) if children else None

    return eventually(found, "ffmpeg runs")


def gaps(asks: list[dict[str, Any]]) -> list[timedelta]:
    """Between the end of each segment and the next, by the device's clock, where that is more than half a second."""
    media = [ask for ask in asks if ask["media"] == "media"]
    spans = []
    for one, other in itertools.pairwise(media):
        end = datetime.fromisoformat(one["started_at"]) + timedelta(milliseconds=one["duration_ms"])
        spans.append(datetime.fromisoformat(other["started_at"]) - end)
    return [span for span in spans if span > timedelta(seconds=0.5)]


def assert_one_recording(system: System, terminal: LiveTerminal) -> tuple[Bundle, list[dict[str, Any]]]:
    """It went on as one recording, of which nothing is missing, in the order of both clocks."""
    assert len(terminal.of("recording")) == len(terminal.of("closed")) == 1
    recording = terminal.recording
    asks = asks_of(terminal.home / "done" / recording)
    sealed = {int(event["sequence"]) for event in terminal.of("sealed")}
    bundle = assert_nothing_lost(system, terminal.home, recording, sealed)
    assert [ask["media"] for ask in asks] == ["init"] + ["media"] * (len(asks) - 1)
    assert bundle.closing()["missing"] == []
    for told in ("started_at", "monotonic_ms"):
        assert [ask[told] for ask in asks[1:]] == sorted(ask[told] for ask in asks[1:])
    assert_plays(bundle.media)
    return bundle, asks


def length_of(media: Path) -> float:
    """Seconds, by the media's own time line."""
    told = subprocess.run([FFMPEG, "-hide_banner", "-i", str(media)], capture_output=True, text=True, check=False)
    text = told.stderr.partition("Duration: ")[2].partition(",")[0]
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_a_source_that_ends_again_and_again_is_begun_again_in_the_same_recording(
    local_system: System, movie: Path
) -> None:
    home = local_system.new_terminal("fading")
    with (
        fading(movie) as url,
        LiveTerminal(
            local_system, home, "record", "--source", url, "--segment-seconds", "1", "--seconds", "11"
        ) as terminal,
    ):
        assert terminal.finish() == 0, terminal.said[-20:]
    bundle, asks = assert_one_recording(local_system, terminal)
    lost = terminal.of("capture-lost")
    assert len(lost) >= 2 and len(terminal.of("capture-back")) >= 2
    assert all(event["seconds"] <= 15 for event in lost)
    assert len(gaps(asks)) == len(terminal.of("capture-back"))
    assert not bundle.closing()["interrupted"]
    played = sum(ask["duration_ms"] for ask in asks) / 1000
    pauses = 0.9 * len(terminal.of("capture-back"))
    assert length_of(bundle.media) >= played + pauses, "the gaps are in the media's time line too"


def test_a_killed_ffmpeg_is_begun_again_and_a_hung_one_too(local_system: System) -> None:
    home = local_system.new_terminal("killed-camera")
    with LiveTerminal(local_system, home, "record", *SECOND_BY_SECOND) as terminal:
        terminal.wait_for("sealed", 3)
        os.kill(camera_of(terminal), signal.SIGKILL)
        terminal.wait_for("capture-back")
        os.kill(camera_of(terminal), signal.SIGSTOP)
        terminal.wait_for("capture-back", 2)
        told = terminal.of("capture-lost")
        assert len(told) == 2 and "没有收到画面" in told[1]["reason"]
        count = len(terminal.of("sealed"))
        terminal.wait_for("sealed", count + 2)
        terminal.interrupt()
        assert terminal.finish() == 0, terminal.said[-20:]
    bundle, asks = assert_one_recording(local_system, terminal)
    short, long = gaps(asks)
    assert timedelta(seconds=1) < short < long
    assert timedelta(seconds=10) < long < timedelta(seconds=30)
    assert not bundle.closing()["interrupted"]


def test_an_ffmpeg_that_cannot_be_started_for_a_while_is_started_once_it_can(
    local_system: System, tmp_path: Path
) -> None:
    home = local_system.new_terminal("no-ffmpeg")
    program = tmp_path / "ffmpeg"
    program.symlink_to(FFMPEG)
    with LiveTerminal(local_system, home, "record", *SECOND_BY_SECOND, "--ffmpeg", str(program)) as terminal:
        terminal.wait_for("sealed", 3)
        program.unlink()
        os.kill(camera_of(terminal), signal.SIGKILL)
        terminal.wait_for("capture-lost", 2)
        assert "ffmpeg 无法启动" in terminal.of("capture-lost")[1]["reason"]
        program.symlink_to(FFMPEG)
        terminal.wait_for("capture-back")
        terminal.interrupt()
        assert terminal.finish() == 0, terminal.said[-20:]
    _, asks = assert_one_recording(local_system, terminal)
    assert len(gaps(asks)) == 1


def test_without_restarting_a_killed_ffmpeg_is_the_end(local_system: System) -> None:
    home = local_system.new_terminal("ended-camera")
    with LiveTerminal(local_system, home, "record", *SECOND_BY_SECOND, "--no-restart") as terminal:
        terminal.wait_for("sealed", 3)
        os.kill(camera_of(terminal), signal.SIGKILL)
        assert terminal.finish() == 3
    bundle, _ = assert_one_recording(local_system, terminal)
    assert bundle.closing()["interrupted"] and not terminal.of("capture-lost")


def test_a_file_ends_its_recording_unless_told_to_begin_again(local_system: System, movie: Path) -> None:
    home = local_system.new_terminal("file")
    given = ("--source", str(movie), "--segment-seconds", "1")
    with LiveTerminal(local_system, home, "record", *given) as terminal:
        assert terminal.finish() == 0, terminal.said[-20:]
    bundle, asks = assert_one_recording(local_system, terminal)
    assert not gaps(asks) and not bundle.closing()["interrupted"]
    with LiveTerminal(local_system, home, "record", *given, "--restart", "--seconds", "8") as terminal:
        assert terminal.finish() == 0, terminal.said[-20:]
    _, asks = assert_one_recording(local_system, terminal)
    assert gaps(asks)


def test_a_signal_in_the_pause_ends_it_at_once(local_system: System, movie: Path) -> None:
    home = local_system.new_terminal("pause")
    with (
        fading(movie) as url,
        LiveTerminal(local_system, home, "record", "--source", url, "--segment-seconds", "1") as terminal,
    ):
        terminal.wait_for("capture-lost")
        terminal.interrupt()
        assert terminal.finish(timeout=20) == 0, terminal.said[-20:]
    assert_one_recording(local_system, terminal)


def test_a_source_that_never_gives_a_picture_is_told_at_once(local_system: System) -> None:
    home = local_system.new_terminal("nothing")
    with LiveTerminal(local_system, home, "record", "--source", "http://127.0.0.1:9/none.ts") as terminal:
        assert terminal.finish() == 3
    assert any("没有录到任何画面" in event["reason"] for event in terminal.of("error"))
