"""The cutter on real ffmpeg output, cut into pieces of any size, and on streams that break the rules."""

from __future__ import annotations

import itertools
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.media.cut import Cut, CutError
from services.media.fmp4 import MAX_METADATA_BYTES, Cutter
from services.terminal.capture import find_ffmpeg

FLAGS = "+frag_keyframe+empty_moov+default_base_moof"


def encode(seconds: int, *options: str, movflags: str = FLAGS) -> bytes:
    """A small real recording: a key frame every second, sound, fragmented."""
    command = [find_ffmpeg(None), "-v", "error"]
    command += ["-f", "lavfi", "-i", f"testsrc=size=160x90:rate=10:duration={seconds}"]
    command += ["-f", "lavfi", "-i", f"sine=sample_rate=48000:duration={seconds}"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-c:a", "aac", *options]
    command += ["-f", "mp4", "-movflags", movflags, "pipe:1"]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def stream() -> bytes:
    return encode(4)


def cut_all(data: bytes, *, target: float = 1, chunk: int = 1 << 16, whole_gops: bool = True) -> list[Cut]:
    return cut_by(Cutter(target_seconds=target, whole_gops=whole_gops), data, chunk)


def cut_by(cutter: Cutter, data: bytes, chunk: int = 1 << 16) -> list[Cut]:
    cuts = [cut for at in range(0, len(data), chunk) for cut in cutter.feed(data[at : at + chunk])]
    return [*cuts, *cutter.finish()]


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at : at + size]))
        at += size
    return found


def test_the_cuts_in_order_are_the_stream_without_its_index(stream: bytes) -> None:
    cuts = cut_all(stream)
    assert [cut.media for cut in cuts] == ["init"] + ["media"] * 4
    media = b"".join(box for kind, box in boxes(stream) if kind != b"mfra")
    assert b"".join(cut.data for cut in cuts) == media


def test_each_segment_begins_with_a_key_frame_and_plays_after_the_init(stream: bytes, tmp_path: Path) -> None:
    init, *segments = cut_all(stream)
    for segment in segments:
        path = tmp_path / "alone.mp4"
        path.write_bytes(init.data + segment.data)
        said = subprocess.run(
            [find_ffmpeg(None), "-v", "error", "-i", str(path), "-f", "null", "-"],
            check=True,
            capture_output=True,
        )
        assert said.stderr == b""


def test_times_follow_the_media(stream: bytes) -> None:
    _, *segments = cut_all(stream)
    assert sum(segment.duration_ms for segment in segments) == pytest.approx(4000, abs=100)
    for before, after in itertools.pairwise(segments):
        assert after.media_ms == pytest.approx(before.media_ms + before.duration_ms, abs=1)


@settings(max_examples=30, deadline=None)
@given(chunk=st.integers(1, 5000))
def test_cuts_do_not_depend_on_how_the_bytes_arrive(stream: bytes, chunk: int) -> None:
    assert cut_all(stream, chunk=chunk) == cut_all(stream, chunk=len(stream))


def test_a_longer_target_joins_fragments(stream: bytes) -> None:
    _, *segments = cut_all(stream, target=2)
    assert len(segments) == 2
    assert all([kind for kind, _ in boxes(s.data)] == [b"moof", b"mdat"] * 2 for s in segments)


def test_the_target_may_change_while_recording(stream: bytes) -> None:
    cutter = Cutter(target_seconds=2, whole_gops=True)
    cuts: list[Cut] = []
    for _, box in boxes(stream):
        cuts += cutter.feed(box)
        if len(cuts) == 2:
            cutter.target_seconds = 1
    assert [round(cut.duration_ms / 1000) for cut in cuts[1:]] == [2, 1, 1]


def test_fragments_inside_a_group_of_pictures_stay_with_their_key_frame() -> None:
    stream = encode(3, "-frag_duration", "200000")
    _, *segments = cut_all(stream, whole_gops=False)
    assert [round(segment.duration_ms / 1000) for segment in segments] == [1, 1, 1]
    assert all(len(boxes(segment.data)) > 2 for segment in segments)


def test_a_segment_never_passes_its_limit(stream: bytes) -> None:
    largest = max(len(cut.data) for cut in cut_all(stream))
    cutter = Cutter(target_seconds=10, max_bytes=largest + 1)
    cuts = cut_by(cutter, stream)
    assert len(cuts) == 5
    assert all(len(cut.data) <= largest + 1 for cut in cuts)


def test_a_group_of_pictures_over_the_limit_is_refused(stream: bytes) -> None:
    with pytest.raises(CutError, match=r"limit|within"):
        cut_by(Cutter(target_seconds=1, max_bytes=2000), stream)


def test_a_box_of_64_bit_size_is_taken(stream: bytes) -> None:
    wide = b"".join(
        struct.pack(">I4sQ", 1, kind, len(box) + 8) + box[8:] if kind == b"moov" else box
        for kind, box in boxes(stream)
    )
    assert len(cut_all(wide)) == 5


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">I4s", 0, b"mdat"),
        struct.pack(">I4s", 7, b"moof"),
        struct.pack(">I4sQ", 1, b"mdat", 15),
        struct.pack(">I4sQ", 1, b"mdat", 2**62),
        struct.pack(">I4s", MAX_METADATA_BYTES + 1, b"moof"),
        b"RIFF....",
    ],
    ids=["no end", "shorter than its head", "64 bit too short", "huge", "huge moof", "not MP4"],
)
def test_a_box_that_cannot_be_is_refused_at_its_head(stream: bytes, head: bytes) -> None:
    cutter = Cutter(target_seconds=1)
    list(cutter.feed(b"".join(box for kind, box in boxes(stream) if kind in (b"ftyp", b"moov"))))
    with pytest.raises(CutError):
        list(cutter.feed(head))


def test_what_was_whole_before_the_break_is_told_before_it(stream: bytes) -> None:
    cutter, whole = Cutter(target_seconds=10), cut_all(stream, target=10)
    told: list[Cut] = []
    with pytest.raises(CutError, match="unexpected"):
        told.extend(cutter.feed(stream + b"RIFF...."))
    assert [*told, *cutter.finish()] == whole


def test_a_stream_that_begins_again_is_refused(stream: bytes) -> None:
    with pytest.raises(CutError, match="second ftyp"):
        cut_all(stream + stream)


def test_fragments_whose_offsets_depend_on_the_whole_file_are_refused() -> None:
    with pytest.raises(CutError, match="default-base-is-moof"):
        cut_all(encode(1, movflags="+empty_moov+frag_keyframe"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_passed_on_but_never_crashes(stream: bytes, data: st.DataObject) -> None:
    damaged = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    cutter = Cutter(target_seconds=1)
    try:
        cuts = cut_by(cutter, bytes(damaged))
    except CutError:
        return
    assert all(cut.duration_ms >= 0 for cut in cuts)


def test_a_patient_cutter_ends_segments_without_key_frames_by_time_and_bytes() -> None:
    data = encode(6, "-g", "1000", "-frag_duration", "200000", movflags="+empty_moov+default_base_moof")
    whole = b"".join(box for kind, box in boxes(data) if kind != b"mfra")
    for limits in ({"longest_seconds": 2.0}, {"joined_bytes": 30_000}):
        cutter = Cutter(target_seconds=1, patient=True, **limits)
        init, *media = cut_by(cutter, data)
        assert init.media == "init"
        assert len(media) >= 3
        assert init.data + b"".join(cut.data for cut in media) == whole
        assert max(len(cut.data) for cut in media) <= limits.get("joined_bytes", 1 << 30)
        assert max(cut.duration_ms for cut in media) <= 1000 * limits.get("longest_seconds", 60) + 200


def test_a_stream_that_begins_again_gives_a_patient_cutter_another_init(stream: bytes) -> None:
    cutter = Cutter(target_seconds=1, patient=True)
    cuts = cut_by(cutter, stream + stream)
    assert [cut.media for cut in cuts] == (["init"] + ["media"] * 4) * 2
    with pytest.raises(CutError):
        cut_by(Cutter(target_seconds=1), stream + stream)
