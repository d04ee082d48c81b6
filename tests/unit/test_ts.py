"""The MPEG-TS cutter on real ffmpeg output, cut into pieces of any size, and on streams that break the rules."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.media.cut import Cut, CutError
from services.media.ts import PACKET, TsCutter
from services.terminal.capture import find_ffmpeg


def encode(seconds: int, *options: str, sound: bool = True, video: bool = True) -> bytes:
    command = [find_ffmpeg(None), "-v", "error"]
    if video:
        command += ["-f", "lavfi", "-i", f"testsrc=size=160x90:rate=10:duration={seconds}"]
    if sound:
        command += ["-f", "lavfi", "-i", f"sine=sample_rate=48000:duration={seconds}"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", *options, "-f", "mpegts", "pipe:1"]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def stream() -> bytes:
    return encode(4)


def cut_all(data: bytes, *, target: float = 1, chunk: int = 1 << 16, **limits: float) -> list[Cut]:
    cutter = TsCutter(target_seconds=target, **limits)  # type: ignore[arg-type]
    cuts = [cut for at in range(0, len(data), chunk) for cut in cutter.feed(data[at : at + chunk])]
    return [*cuts, *cutter.finish()]


def frames(data: bytes, path: Path) -> int:
    path.write_bytes(data)
    command = [find_ffmpeg(None), "-v", "error", "-i", str(path), "-map", "0:v", "-f", "framecrc", "-"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sum(not line.startswith("#") for line in told.splitlines())


def test_the_cuts_in_order_are_the_stream_and_each_plays_alone(stream: bytes, tmp_path: Path) -> None:
    cuts = cut_all(stream)
    assert b"".join(cut.data for cut in cuts) == stream
    assert [cut.duration_ms for cut in cuts] == [1000] * 4
    assert [cut.media_ms for cut in cuts] == [0, 1000, 2000, 3000]
    assert [frames(cut.data, tmp_path / "alone.ts") for cut in cuts] == [10] * 4


@pytest.mark.parametrize(
    "codec",
    [("-c:v", "libx265", "-x265-params", "log-level=none:open-gop=0:bframes=0"), ("-bf", "2", "-c:a", "libopus")],
)
def test_other_codecs_and_reordered_pictures(codec: tuple[str, ...], tmp_path: Path) -> None:
    cuts = cut_all(data := encode(4, *codec))
    assert b"".join(cut.data for cut in cuts) == data
    assert len(cuts) == 4
    assert all(950 <= cut.duration_ms <= 1050 for cut in cuts)
    assert sum(frames(cut.data, tmp_path / "alone.ts") for cut in cuts) == 40


def test_without_sound_and_without_pictures() -> None:
    assert len(cut_all(encode(3, sound=False))) == 3
    alone = cut_all(encode(3, video=False))
    assert [round(cut.duration_ms / 1000) for cut in alone] == [1, 1, 1]


def test_no_key_frames_and_no_end_are_cut_by_time_and_by_bytes() -> None:
    data = encode(6, "-g", "1000")
    assert len(cut_all(data)) == 1
    by_time = cut_all(data, longest_seconds=2)
    assert [cut.duration_ms for cut in by_time] == [2000, 2000, 2000]
    by_bytes = cut_all(data, max_bytes=20 * PACKET)
    assert max(len(cut.data) for cut in by_bytes) == 20 * PACKET
    assert b"".join(cut.data for cut in by_bytes) == data


@given(cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_how_the_bytes_arrive_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    cutter, at = TsCutter(target_seconds=1), 0
    found: list[Cut] = []
    for size in itertools.cycle(cuts):
        if at >= len(stream):
            break
        found += cutter.feed(stream[at : at + size])
        at += size
    assert [*found, *cutter.finish()] == cut_all(stream)


def test_stamps_that_wrap_or_jump_keep_a_time_line(stream: bytes) -> None:
    """The encoder was started anew: its stamps begin again, and the time line goes on."""
    cuts = cut_all(stream + stream)
    assert [cut.media_ms for cut in cuts] == [1000 * n for n in range(8)]
    assert b"".join(cut.data for cut in cuts) == stream + stream
    wrapping = encode(4, "-output_ts_offset", str((1 << 33) / 90_000 - 2))
    assert [cut.duration_ms for cut in cut_all(wrapping)] == [1000] * 4


@pytest.mark.parametrize("bad", [b"\x00" * PACKET, b"G" + b"\x00" * 300, b"GET / HTTP/1.1\r\n" * 40])
def test_what_is_no_stream_is_refused(bad: bytes) -> None:
    with pytest.raises(CutError):
        cut_all(bad)


def test_a_stream_that_tells_of_no_program_is_refused() -> None:
    filler = (b"G\x1f\xff\x10" + b"\xff" * (PACKET - 4)) * 12_000
    with pytest.raises(CutError):
        list(TsCutter(target_seconds=1).feed(filler))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_cut_or_refused_and_never_lost(stream: bytes, data: st.DataObject) -> None:
    damaged = bytearray(stream[: 200 * PACKET])
    for _ in range(data.draw(st.integers(1, 30))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if at % PACKET:
            damaged[at] = data.draw(st.integers(0, 255))
    try:
        cuts = cut_all(bytes(damaged))
    except CutError:
        return
    assert b"".join(cut.data for cut in cuts) == damaged
