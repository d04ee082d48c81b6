"""An unmodified ffmpeg pushes in each of its ways; what it sent is sealed, closed by the server, and verifies."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.flows.evidence import assert_log_is_whole, eventually
from tests.flows.pushing import FMP4, HLS, TS, Source, exported, frames
from tests.system import System, running

WAYS = {
    "fmp4": ("live.mp4", FMP4),
    "ts": ("live.ts", TS),
    "hls-fmp4": ("live.m3u8", (*HLS, "-hls_segment_type", "fmp4")),
    "hls-ts": ("live.m3u8", HLS),
}
HEVC_OPUS = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-c:a", "libopus")
SILENT = ("-c:v", "libx264", "-preset", "ultrafast", "-an")


@pytest.fixture(scope="module", params=["local", "minio"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """One that closes what is silent after six seconds instead of five minutes."""
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    settings = {"QUANCHENG_API_PUSH_IDLE_SECONDS": "6", "QUANCHENG_API_SEGMENT_SECONDS": "1"}
    with running(minio, settings=settings) as made:
        yield made
        assert_log_is_whole(made)


def finish(*pushes: subprocess.Popen[str]) -> None:
    for push in pushes:
        said = push.communicate(timeout=60)[1]
        assert push.returncode == 0, said


@pytest.mark.parametrize("codec", [(), HEVC_OPUS, SILENT], ids=["h264-aac", "hevc-opus", "no-sound"])
def test_every_way_is_sealed_whole(system: System, codec: tuple[str, ...]) -> None:
    sources = {way: Source(system) for way in WAYS}
    finish(*(sources[way].push(name, *options, codec=codec) for way, (name, options) in WAYS.items()))
    for way, source in sources.items():
        (recording,) = source.closed()
        assert recording["container"] == ("ts" if way.endswith("ts") else "fmp4")
        assert (recording["closed_by"], recording["door"]) == ("server", "push")
        assert recording["segments"] - (recording["container"] == "fmp4") >= 3, way
        assert 3800 <= recording["duration_ms"] <= 4200, way
        media = exported(system, recording["id"])
        assert frames(media) == 40, way
        assert codec == SILENT or frames(media, "a") > 100
        assert source.gaps() == []


@pytest.mark.one_store
def test_dash_brings_its_renditions_side_by_side(system: System) -> None:
    source = Source(system)
    options = ("-seg_duration", "1", "-streaming", "1", "-ldash", "1", "-format_options", "movflags=cmaf")
    finish(source.push("live.mpd", "-f", "dash", "-method", "PUT", *options))
    video, sound = sorted(source.closed(2), key=lambda one: str(one["rendition"]))
    assert (video["rendition"], sound["rendition"]) == ("stream0", "stream1")
    assert frames(exported(system, video["id"])) == 40
    assert frames(exported(system, sound["id"]), "a") > 100


@pytest.mark.one_store
@pytest.mark.parametrize("way", WAYS)
def test_who_comes_back_goes_on_in_the_same_recording(system: System, way: str) -> None:
    name, options = WAYS[way]
    source = Source(system)
    first = source.push(name, *options, seconds=30)
    eventually(lambda: sum(r["duration_ms"] for r in source.recordings()) >= 2000, "two seconds sealed")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(3)
    finish(source.push(name, *options, seconds=3))
    (recording,) = source.closed()
    (gap,) = source.gaps()
    assert gap["kind"] == "disconnected"
    anew = system.stack.postgres.run_sql(
        f"SELECT array_agg(sequence) FROM api.segments WHERE recording_id = '{recording['id']}' AND begins_anew"
    )
    assert anew.strip() == f"{{{gap['before_sequence']}}}"
    assert recording["duration_ms"] >= 4900
    with system.sign_in("li") as client:
        told = client.post(f"/v1/recordings/{recording['id']}/viewings", json={"purpose": "spot-check"}).json()
        playlist = client.get(told["playlist"]).text
    assert playlist.count("#EXT-X-DISCONTINUITY") == 1
    exported(system, recording["id"])


@pytest.mark.one_store
def test_another_stream_at_the_same_address_is_another_recording(system: System) -> None:
    source = Source(system)
    finish(source.push("live.mp4", *FMP4, seconds=2))
    finish(source.push("live.mp4", *FMP4, seconds=2, codec=SILENT))
    finish(source.push("live.ts", *TS, seconds=2))
    assert [one["container"] for one in source.closed(3)] == ["fmp4", "fmp4", "ts"]


@pytest.mark.one_store
def test_the_newest_connection_is_the_one_that_counts(system: System) -> None:
    source = Source(system)
    first = source.push("live.mp4", *FMP4, seconds=20)
    eventually(lambda: sum(r["duration_ms"] for r in source.recordings()) >= 2000, "two seconds sealed")
    finish(source.push("live.mp4", *FMP4, seconds=4))
    assert first.wait(timeout=20) != 0
    (recording,) = source.closed()
    exported(system, recording["id"])


@pytest.mark.one_store
def test_a_revoked_address_takes_nothing_more(system: System) -> None:
    source = Source(system)
    push = source.push("live.mp4", *FMP4, seconds=20)
    eventually(lambda: sum(r["duration_ms"] for r in source.recordings()) >= 2000, "two seconds sealed")
    source.revoke()
    assert push.wait(timeout=20) != 0
    (recording,) = source.closed()
    assert frames(exported(system, recording["id"])) >= 20
    again = httpx.put(source.url + "live.mp4", content=b"x", trust_env=False)
    assert (again.status_code, again.json()["slug"]) == (403, "address-invalid")


@pytest.mark.one_store
def test_the_tail_of_who_hangs_up_at_once_is_not_lost(system: System) -> None:
    """ffmpeg closes without waiting for an answer; some times, so that the moment varies."""
    sources = [Source(system) for _ in range(3)]
    for _ in range(3):
        for source in sources:
            finish(source.push("live.ts", *TS, seconds=1))
    for source in sources:
        (recording,) = source.closed()
        assert frames(exported(system, recording["id"])) == 30


def test_a_killed_api_is_come_back_to(system: System) -> None:
    source = Source(system)
    push = source.push("live.mp4", *FMP4, seconds=30)
    eventually(lambda: sum(r["duration_ms"] for r in source.recordings()) >= 2000, "two seconds sealed")
    api = system.stack.api
    assert api is not None
    api.kill()
    push.communicate(timeout=30)
    before = source.recordings()[0]["segments"]
    eventually(lambda: httpx.get(f"{system.stack.api_url}/healthz", trust_env=False).status_code == 200, "it is back")
    finish(source.push("live.mp4", *FMP4, seconds=3))
    (recording,) = source.closed()
    assert recording["segments"] >= before + 3
    exported(system, recording["id"])
