"""How ffmpeg is asked for each kind of source."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.terminal.camera import Source
from services.terminal.capture import DEMO, NoSource, arguments


def inputs(source: str, *, at: float | None = None) -> list[str]:
    told = arguments(source, seconds=None, copy=False, at=at)
    return told[told.index("error") + 1 : told.index("-map")]


def test_each_source_is_asked_for_in_its_own_way(tmp_path: Path) -> None:
    movie = tmp_path / "movie.mp4"
    movie.write_bytes(b"x")
    assert inputs("rtsp://10.0.0.1/1") == ["-rtsp_transport", "tcp", "-i", "rtsp://10.0.0.1/1"]
    assert inputs("http://10.0.0.1/1.ts") == ["-i", "http://10.0.0.1/1.ts"]
    assert inputs(str(movie)) == ["-re", "-i", str(movie)]
    assert inputs(DEMO)[:2] == ["-f", "lavfi"]
    with pytest.raises(NoSource, match="找不到录制来源"):
        inputs(str(tmp_path / "absent"))


def test_a_camera_that_was_unplugged_is_asked_for_until_it_is_back() -> None:
    with pytest.raises(NoSource):
        inputs("/dev/video99")
    assert inputs("/dev/video99", at=12.5) == ["-f", "v4l2", "-i", "/dev/video99"]
    told = arguments("/dev/video99", seconds=3, copy=False, at=12.5)
    assert told[told.index("-output_ts_offset") + 1] == "12.500"
    assert "-output_ts_offset" not in arguments(DEMO, seconds=3, copy=False)


def test_what_is_no_file_is_begun_again_by_itself(tmp_path: Path) -> None:
    def restarts(spec: str, restart: bool | None = None) -> bool:
        return Source("ffmpeg", spec, None, None, False, restart).restarts

    movie = tmp_path / "movie.mp4"
    movie.write_bytes(b"x")
    assert restarts("rtsp://10.0.0.1/1") and restarts("/dev/video0") and restarts(DEMO)
    assert not restarts(str(movie)) and restarts(str(movie), True) and not restarts(DEMO, False)
