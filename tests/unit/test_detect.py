"""What shows or tells nothing is found where it is, in real media, and nothing else is."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from services.media import detect, ffmpeg
from services.media.detect import Notes, Stretch, settled
from tests.media import PLAIN, Scene, made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


async def pieces(file: Path) -> AsyncIterator[bytes]:
    data = file.read_bytes()
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def found_in(file: Path, seconds: float | None = None) -> list[tuple[str, int, int]]:
    looked = await detect.look(file.suffix[1:], lambda: pieces(file), seconds)
    return [(one.kind, round(one.start), round(one.end)) for one in settled(looked.stretches)]


@pytest.mark.parametrize("kind", ["mp4", "ts", "mkv", "avi"])
async def test_each_is_found_where_it_is(folder: Path, kind: str) -> None:
    scenes = (Scene(PLAIN, 14), Scene("black", 16), Scene("frozen", 16), Scene("covered", 16), Scene(PLAIN, 14))
    file = made(folder / f"all.{kind}", *scenes, silent=(30, 50))
    found = {kind: (start, end) for kind, start, end in await found_in(file, 76)}
    wanted = {"black": (14, 30), "frozen": (30, 46), "silent": (30, 50), "covered": (46, 62)}
    assert found.keys() == wanted.keys()
    for kind, (begins, ends) in wanted.items():
        start, end = found[kind]
        assert begins <= start <= begins + 2 and ends - 3 <= end <= ends


async def test_what_shows_and_tells_something_has_none_and_short_ones_are_none(folder: Path) -> None:
    file = made(folder / "short.mp4", Scene(PLAIN, 12), Scene("black", 8), Scene(PLAIN, 8), silent=(2, 9))
    assert await found_in(file, 28) == []


async def test_what_lasts_to_the_end_is_found_and_how_long_a_file_is(folder: Path) -> None:
    file = made(folder / "end.avi", Scene(PLAIN, 6), Scene("covered", 20), silent=(12, 30))
    looked = await detect.look("avi", lambda: pieces(file), None)
    assert 25 < looked.seconds < 27
    assert [(one.kind, round(one.start)) for one in settled(looked.stretches)] == [("covered", 6), ("silent", 12)]


async def test_a_track_that_is_not_there_is_told(folder: Path) -> None:
    file = made(folder / "tracks.mp4", Scene(PLAIN, 4), silent=(0, 0))
    for only, wanted in (("v", (True, False)), ("a", (False, True))):
        one = folder / f"only-{only}.mp4"
        argv = [ffmpeg.program(), "-v", "error", "-y", "-i", str(file), "-map", f"0:{only}", "-c", "copy"]
        subprocess.run([*argv, "-movflags", "+frag_keyframe+empty_moov", str(one)], check=True)
        looked = await detect.look("mp4", partial(pieces, one), 4)
        assert (looked.pictures, looked.sound) == wanted


@pytest.mark.parametrize("data", [b"", b"not media at all" * 100], ids=["nothing", "garbage"])
async def test_what_cannot_be_read_is_said_to_be_so(folder: Path, data: bytes) -> None:
    (folder / "bad.mp4").write_bytes(data)
    with pytest.raises(detect.Unreadable):
        await detect.look("mp4", lambda: pieces(folder / "bad.mp4"), 4)


def test_nothing_is_said_of_what_lies_between_two_pictures_that_are_far_apart() -> None:
    notes = Notes()
    for at in (0, 4, 8, 12, 40, 44, 48, 52):
        notes.take(f"frame:1 pts:1 pts_time:{at}")
        if at == 0:
            notes.take("lavfi.black_start=0")
    assert notes.stretches(0, 60) == [Stretch("black", 0, 12), Stretch("black", 40, 52)]


def test_what_is_dark_is_not_said_to_be_without_change_as_well() -> None:
    found = [Stretch("frozen", 0, 60), Stretch("black", 20, 35), Stretch("covered", 55, 70)]
    told = [(one.kind, one.start, one.end) for one in settled(found)]
    assert told == [("frozen", 0, 20), ("black", 20, 35), ("frozen", 35, 55), ("covered", 55, 70)]
