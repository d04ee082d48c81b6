"""Renditions: what a browser cannot play, as a decoder sees it; what they may open, and when they end."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.evidence import eventually
from tests.flows.films import CODECS, HEVC, RATE, Seen, film, pieces, seen, uploaded
from tests.flows.pushing import FMP4, TS, Source
from tests.flows.test_playback import assert_problem
from tests.rooms.test_original import alter, read
from tests.system import System

SECONDS = 10
USE = {"purpose": "spot-check"}


@pytest.fixture(scope="module")
def source(local_system: System) -> Source:
    return Source(local_system, "phone", name="转码")


@pytest.fixture(scope="module")
def li(local_system: System) -> Iterator[httpx.Client]:
    with local_system.sign_in("li") as client:
        client.timeout = httpx.Timeout(90)
        yield client


def watch(client: httpx.Client, recording: str) -> dict[str, Any]:
    answer = client.post(f"/v1/recordings/{recording}/viewings", json=USE)
    assert answer.status_code == 201, answer.text
    viewing: dict[str, Any] = answer.json()
    return viewing


@pytest.mark.parametrize("kind", list(CODECS))
def test_a_file_is_played_from_any_place_without_a_seam(
    local_system: System, source: Source, li: httpx.Client, kind: str
) -> None:
    viewing = watch(li, uploaded(local_system, source, film(kind)))
    assert viewing["playlist"] is None
    init, made = pieces(li, viewing["rendition"])
    assert len(made) == 3
    whole = seen(init + b"".join(made))
    assert not whole.errors
    assert abs(whole.pictures - SECONDS * RATE) <= 1
    assert abs(whole.sound - SECONDS * 48000) <= 4096
    assert whole.grey == pytest.approx(picture().grey, abs=3), "the same picture, and not black"
    last = seen(init + made[-1])
    assert not last.errors and last.pictures >= RATE, "a piece needs none of those before it"


def picture() -> Seen:
    return seen(film("avi"))


@pytest.mark.parametrize(("name", "options"), [("live.mp4", FMP4), ("live.ts", TS)])
def test_a_pushed_recording_in_hevc_has_a_piece_for_each_segment(
    local_system: System, li: httpx.Client, name: str, options: tuple[str, ...]
) -> None:
    source = Source(local_system, name="HEVC")
    pushing = source.push(name, *options, codec=(*HEVC, "-pix_fmt", "yuv420p", "-c:a", "aac"))
    assert pushing.wait(60) == 0, pushing.stderr and pushing.stderr.read()
    (recording,) = source.closed()
    viewing = watch(li, recording["id"])
    sealed = li.get(viewing["playlist"]).text
    rendition = li.get(viewing["rendition"]).text
    told = re.compile(r"#EXT(?:INF|-X-PROGRAM-DATE-TIME|-X-MEDIA-SEQUENCE).*")
    assert told.findall(rendition) == told.findall(sealed)
    init, made = pieces(li, viewing["rendition"])
    shown = seen(init + b"".join(made))
    assert not shown.errors
    assert abs(shown.pictures - 4 * RATE) <= 3 and shown.grey > 60 and shown.sound > 3 * 48000


def test_what_cannot_be_decoded_says_so_with_its_codec(
    local_system: System, source: Source, li: httpx.Client
) -> None:
    strange = film("avi", 2).replace(b"MJPG", b"ZZ9Z")
    viewing = watch(li, uploaded(local_system, source, strange))
    refused = li.get(viewing["rendition"])
    assert_problem(refused, 422, "not-renderable")
    assert refused.json()["codec"] == "ZZ9Z"
    garbage = uploaded(local_system, source, b"\x1aE\xdf\xa3" + b"no film at all" * 1000)
    assert_problem(li.get(watch(li, garbage)["rendition"]), 422, "not-renderable")
    refused = li.post(f"/v1/recordings/{uploaded(local_system, source, b'what')}/viewings", json=USE)
    assert_problem(refused, 409, "not-playable")


def test_a_rendition_is_for_who_registered_and_while_that_lasts(
    local_system: System, source: Source, li: httpx.Client
) -> None:
    viewing = watch(li, uploaded(local_system, source, film("avi", 2)))
    paths = [viewing["rendition"], viewing["rendition"].replace("index.m3u8", "init.mp4"), viewing["file"]]
    paths.append(viewing["rendition"].replace("index.m3u8", "0.m4s"))
    assert [li.get(path).status_code for path in paths] == [200] * 4
    assert_problem(li.get(paths[3].replace("/0.", "/7.")), 404, "no-such-segment")
    with local_system.sign_in("wang") as wang:
        for path in paths:
            assert_problem(wang.get(path), 404, "no-such-viewing")
    local_system.stack.postgres.run_sql(
        f"UPDATE api.viewings SET until = now() - interval '1 second' WHERE id = '{viewing['id']}'"
    )
    for path in paths:
        assert_problem(li.get(path), 403, "viewing-lapsed")


def test_what_is_not_what_was_sealed_is_not_shown(local_system: System, source: Source, li: httpx.Client) -> None:
    recording = uploaded(local_system, source, film("avi", 3))
    (stored,) = (f for f in Path(local_system.stack.data).rglob(f"*{recording}*/*") if read(f)[:4] == b"RIFF")
    data = bytearray(read(stored))
    data[len(data) // 2] ^= 1
    alter(stored, bytes(data))
    viewing = watch(li, recording)
    assert_problem(li.get(viewing["rendition"]), 422, "not-renderable")


def test_a_process_is_bounded_and_ends_with_who_waits_for_it(
    local_system: System, source: Source, li: httpx.Client
) -> None:
    large = film("avi", 9, "2560x1440", ("-c:v", "mjpeg", "-q:v", "4"))
    viewing = watch(li, uploaded(local_system, source, large))
    li.get(viewing["rendition"]).raise_for_status()
    api = local_system.stack.api
    assert api and api.pid
    parent = api.pid
    asked = threading.Thread(target=give_up, args=(li, viewing["rendition"].replace("index.m3u8", "1.m4s")))
    asked.start()
    child = eventually(lambda: next(iter(programs(parent)), None), "it is being made", 20)
    assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[16] == "15", "it yields to the rest"
    assert Path(f"/proc/{child}/environ").read_bytes() == b""
    limits = Path(f"/proc/{child}/limits").read_text()
    assert re.search(r"Max file size +0 ", limits) and re.search(r"Max address space +2147483648 ", limits)
    given = Path(f"/proc/{child}/cmdline").read_text().split("\0")
    assert given[given.index("-protocol_whitelist") + 1] == "http,tcp"
    lent = given[given.index("-i") + 1]
    assert httpx.get(lent, headers={"range": "bytes=0-3"}, trust_env=False).content == b"RIFF"
    asked.join()
    eventually(lambda: not programs(parent), "it ends once nobody waits", 10)
    assert httpx.get(lent, trust_env=False).status_code == 404, "its address is good for that one alone"


def give_up(client: httpx.Client, path: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.get(path, timeout=1.0)


def programs(parent: int) -> list[int]:
    """The ffmpeg processes of the api that make renditions of files."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            lent = b"\0http,tcp\0" in stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if lent and name.startswith("ffmpeg") and int(rest.split()[1]) == parent:
            found.append(int(stat.parent.name))
    return found
