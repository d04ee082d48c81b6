"""What an encoder may do wrong, by mistake or on purpose: each ends in a clear problem and loses nothing sealed."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.flows.pushing import Source
from tests.rooms.movies import fragmented, whole
from tests.system import System, running

PACKET = 188


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    settings = {"QUANCHENG_API_PUSH_SILENCE_SECONDS": "2", "QUANCHENG_API_SEGMENT_SECONDS": "1"}
    with running(None, settings=settings) as made:
        yield made


@pytest.fixture
def source(system: System) -> Source:
    return Source(system)


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return b"".join(fragmented(seconds=3))


@pytest.fixture(scope="module")
def ts() -> bytes:
    return whole("ts", "-c:v", "libx264", "-g", "10", seconds=3)


def put(source: Source, name: str, data: bytes | Iterator[bytes], method: str = "PUT") -> tuple[int, str]:
    """Status, and the slug of the problem if it is one."""
    answer = httpx.request(method, source.url + name, content=data, timeout=60, trust_env=False)
    told = answer.json() if answer.content else {}
    return answer.status_code, told.get("slug", "")


def sealed(source: Source) -> list[tuple[int, int]]:
    """(sequence, size) of all segments of the source."""
    told = source.system.stack.postgres.run_sql(
        "SELECT coalesce(string_agg(s.sequence || ':' || s.size, ' ' ORDER BY r.id, s.sequence, s.size), '')"
        f" FROM api.segments s JOIN api.recordings r ON r.id = s.recording_id WHERE r.recorder_id = '{source.id}'"
    )
    return [(int(n), int(size)) for n, _, size in (one.partition(":") for one in told.split())]


def head_and_fragments() -> tuple[bytes, list[bytes]]:
    """ftyp and moov; then each moof with its mdat."""
    head, *fragments = fragmented(seconds=3)
    return head, fragments


def test_who_does_not_know_an_address_is_told_nothing(source: Source, mp4: bytes) -> None:
    unknown = httpx.put(f"{source.system.stack.api_url}/v1/push/{'A' * 43}/live.mp4", content=mp4, trust_env=False)
    assert (unknown.status_code, unknown.json()["slug"]) == (403, "address-invalid")
    malformed = httpx.put(f"{source.system.stack.api_url}/v1/push/short/live.mp4", content=mp4, trust_env=False)
    assert malformed.status_code == 422
    source.system.stack.postgres.run_sql(
        f"UPDATE api.push_addresses SET expires_at = now() - interval '1 s' WHERE id = '{source.address}'"
    )
    assert put(source, "live.mp4", mp4) == (403, "address-invalid")
    assert sealed(source) == []


def test_addresses_are_made_by_who_manages_recorders_and_told_once(system: System, source: Source) -> None:
    where = f"/v1/recorders/{source.id}/push-addresses"
    for login in ("wang", "li"):
        with system.sign_in(login) as client:
            assert client.post(where, json={}).status_code == 403
            assert client.post(f"{where}/{source.address}/revocation").status_code == 403
    with system.sign_in("admin") as admin:
        assert admin.post(where, json={"days": 0}).status_code == 422
        assert admin.post(f"{where}/{source.id}/revocation").json()["slug"] == "no-such-address"
        assert (
            admin.post(f"/v1/recorders/{source.address}/push-addresses", json={}).json()["slug"] == "no-such-recorder"
        )
        made = admin.post(where, json={"days": 1, "remuxed_by": "MediaMTX 1.9"})
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        (listed,) = [one for one in admin.get("/v1/recorders").json()["items"] if one["id"] == source.id]
        assert [one["remuxed_by"] for one in listed["addresses"]] == ["MediaMTX 1.9", None]
        assert made.json()["url"] not in admin.get("/v1/recorders").text
        for _ in range(48):
            assert admin.post(where, json={}).status_code == 201
        assert admin.post(where, json={}).json()["slug"] == "too-many-addresses"
    token = source.url.rstrip("/").rpartition("/")[2]
    put(source, "live.mp4", b"no media at all" * 100)
    assert token not in (system.stack.data / "logs" / "api.log").read_text()
    kept = system.stack.postgres.run_sql("SELECT * FROM api.push_addresses")
    assert token not in kept


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_what_is_no_media_is_refused_and_what_is_none_is_taken_for_a_knock(source: Source, method: str) -> None:
    assert put(source, "live.mp4", b"%PDF-1.7" * 100, method) == (415, "media-unknown")
    assert put(source, "live.mp4", b"", method) == (200, "")
    assert put(source, "live.m3u8", b"#EXTM3U\n", method) == (200, "")
    assert put(source, "live.m3u8", b"#EXTM3U\n" + b"#" * (1 << 20), method) == (413, "push-too-large")
    assert put(source, "x" * 201, b"", method)[0] == 422
    assert put(source, "..%2F..%2Fetc%2Fpasswd%00", b"", method) == (200, "")
    assert source.recordings() == []


def lies() -> dict[str, bytes]:
    head, (first, second, third) = head_and_fragments()
    good = head + first
    moov_at = head.index(b"moov") - 4
    return {
        "a box of size 0": good + struct.pack(">I4s", 0, b"mdat") + b"x" * 4096,
        "a box shorter than its head": good + struct.pack(">I4s", 7, b"moof") + b"x" * 100,
        "a 64-bit size past the limit": good + struct.pack(">I4sQ", 1, b"mdat", 1 << 40) + b"x" * 100,
        "an endless mdat": good + second[: second.index(b"mdat") - 4] + struct.pack(">I4s", 1 << 30, b"mdat") + b"x",
        "an mdat without its moof": good + second[second.index(b"mdat") - 4 :],
        "a moof without its mdat": good + second[: second.index(b"mdat") - 4] * 2,
        "an unknown box": good + struct.pack(">I4s", 16, b"evil") + b"x" * 8,
        "another protocol": good + b"GET / HTTP/1.1\r\n\r\n" * 20,
        "a fragment cut in two by garbage": good + second[:40] + b"\xff" * 400 + third,
        "a moof before the moov": head[:moov_at] + first + good[moov_at:],
        "a moov of no tracks": head[:moov_at] + struct.pack(">I4s", 8, b"moov") + first,
    }


def test_an_fmp4_that_lies_is_refused_and_what_came_before_is_kept(system: System) -> None:
    for name, data in lies().items():
        source = Source(system)
        assert put(source, "live.mp4", data) == (400, "media-broken"), name
        kept = [n for n, _ in sealed(source)]
        assert kept == ([] if name.startswith(("a moof before", "a moov of")) else [0, 1]), name


def test_a_clock_that_jumps_past_all_measure_is_refused(source: Source) -> None:
    head, (first, *_) = head_and_fragments()
    at = first.index(b"tfdt") + 8
    assert first[at - 4] == 1
    far = first[:at] + struct.pack(">Q", (1 << 64) - 1) + first[at + 8 :]
    assert put(source, "live.mp4", head + far) == (400, "media-broken")
    assert put(source, "live.mp4", head + first) == (200, "")


def test_a_transport_stream_that_breaks_keeps_what_came_before(source: Source, ts: bytes) -> None:
    size = len(ts) // PACKET * PACKET
    assert put(source, "live.ts", ts[:size] + b"\x00" * 4 * PACKET) == (400, "media-broken")
    assert sum(size for _, size in sealed(source)) > size / 2
    assert put(source, "live.ts", (b"G\x1f\xff\x10" + b"\xff" * (PACKET - 4)) * 100) == (400, "media-broken")


def test_fragments_need_their_init_and_names_stand_for_what_came_first(source: Source) -> None:
    head, (first, second, third) = head_and_fragments()
    assert put(source, "seg1.m4s", first) == (412, "no-init")
    assert put(source, "init.mp4", head) == (200, "")
    for _ in range(2):
        assert put(source, "seg1.m4s", first) == (200, "")
    assert put(source, "seg2.m4s", second) == (200, "")
    assert sealed(source) == [(0, len(head)), (1, len(first)), (2, len(second))]
    for _ in range(2):
        assert put(source, "seg2.m4s", third) == (409, "name-taken")
    both = sorted([(2, len(second)), (2, len(third))])
    assert sealed(source) == [(0, len(head)), (1, len(first)), *both]
    assert put(source, "seg1.m4s", third) == (200, "")
    assert sealed(source)[-1] == (3, len(third))
    assert put(source, "seg3.m4s", first[:-10]) == (400, "media-broken")
    assert put(source, "seg1.m4s", b"", "DELETE")[0] == 204
    assert len(sealed(source)) == 5
    told = f"SELECT count(conflict_act) FROM vault.segments WHERE recording_id = '{source.recordings()[0]['id']}'"
    assert source.system.stack.postgres.run_sql(told).strip() == "1"


def waits(source: Source) -> float:
    """Seconds until the server closes its recording."""
    told = source.system.stack.postgres.run_sql(
        "SELECT extract(epoch FROM push_until - now()) FROM api.recordings"
        f" WHERE recorder_id = '{source.id}' AND state = 'open'"
    )
    return float(told)


def test_a_playlist_that_ends_is_believed_for_now(source: Source) -> None:
    head, (first, second, _) = head_and_fragments()
    for name, data, longer in (
        ("init.mp4", head, True),
        ("seg1.m4s", first, True),
        ("live.m3u8", b"#EXTM3U\n#EXTINF:1,\nseg1.m4s\n", True),
        ("live.m3u8", b"#EXTM3U\n#EXTINF:1,\nseg1.m4s\n#EXT-X-ENDLIST\n", False),
        ("seg2.m4s", second, True),
        ("live.mpd", b'<?xml version="1.0"?>\n<MPD xmlns="x" type="static">', False),
    ):
        assert put(source, name, data) == (200, "")
        assert (waits(source) > 60) is longer, data


def test_a_hall_camera_begins_a_recording_each_hour(system: System) -> None:
    head, (first, second, third) = head_and_fragments()
    source = Source(system, "hall-camera")
    own = f"recorder_id = '{source.id}'"
    another_hour = f"UPDATE api.recordings SET started_at = now() - interval '61 min' WHERE {own}"
    assert put(source, "live.mp4", head + first) == (200, "")
    system.stack.postgres.run_sql(another_hour)
    assert put(source, "live.mp4", head + second) == (200, "")
    system.stack.postgres.run_sql(another_hour)
    assert put(source, "seg1.m4s", third) == (200, "")
    assert [one["state"] for one in source.recordings()] == ["closed", "closed", "open"]
    assert sealed(source) == [(n, len(data)) for each in (first, second, third) for n, data in ((0, head), (1, each))]
    payload = "decode(convert_from(envelope, 'UTF8')::json ->> 'payload', 'base64')"
    reasons = (
        f"SELECT string_agg(convert_from({payload}, 'UTF8')::json ->> 'reason', ' ') FROM vault.manifests"
        f" WHERE recording_id IN (SELECT id FROM api.recordings WHERE {own})"
    )
    assert system.stack.postgres.run_sql(reasons).strip() == "endless endless"


def test_one_segment_has_a_limit(source: Source, ts: bytes) -> None:
    def endless() -> Iterator[bytes]:
        piece = ts[: 5000 * PACKET] + (b"G\x1f\xff\x10" + b"\xff" * (PACKET - 4)) * 5000
        for _ in range(90):
            yield piece

    assert put(source, "seg1.ts", endless()) == (413, "push-too-large")
    assert sealed(source) == []


def raw(source: Source, body: bytes = b"", name: str = "live.mp4") -> socket.socket:
    """A connection that has sent its head, and so much of its body."""
    url = httpx.URL(source.url)
    connection = socket.create_connection((url.host, url.port or 80))
    head = f"PUT {url.path}{name} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    connection.sendall(head + (b"%x\r\n%s\r\n" % (len(body), body) if body else b""))
    connection.settimeout(30)
    return connection


def answer(connection: socket.socket) -> bytes:
    with connection:
        return connection.recv(4096).split(b"\r\n")[0]


def test_connections_that_send_nothing_end_by_themselves(system: System, mp4: bytes) -> None:
    """Two hundred of them, while another source goes on."""
    sources = [Source(system) for _ in range(25)]
    opened = [raw(source) for source in sources for _ in range(8)]
    time.sleep(0.5)
    assert answer(raw(sources[0])) == b"HTTP/1.1 429 Too Many Requests"
    busy = Source(system)
    assert put(busy, "live.mp4", mp4) == (200, "")
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(answer, opened)) == {b"HTTP/1.1 408 Request Timeout"}
    assert put(sources[0], "live.mp4", mp4) == (200, "")


def test_a_stream_that_falls_silent_is_sealed_as_far_as_it_came(source: Source) -> None:
    head, (first, second, _) = head_and_fragments()
    assert answer(raw(source, head + first + second + b"\x00\x00")) == b"HTTP/1.1 408 Request Timeout"
    assert sealed(source) == [(0, len(head)), (1, len(first)), (2, len(second))]


def test_a_body_that_breaks_off_is_sealed_as_far_as_it_came(source: Source) -> None:
    head, (first, second, _) = head_and_fragments()
    raw(source, head + first + second[:50]).close()
    until = time.monotonic() + 20
    expected: list[Any] = [(0, len(head)), (1, len(first))]
    while sealed(source) != expected:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_faster_than_its_rate_a_source_is_made_to_wait(mp4: bytes) -> None:
    settings = {"QUANCHENG_API_PUSH_MBIT_PER_SECOND": str(len(mp4) * 8 / 5 / 1e6)}
    with running(None, settings=settings) as slow:
        source = Source(slow)
        began = time.monotonic()
        pieces = (mp4[at : at + 1000] for at in range(0, len(mp4), 1000))
        assert put(source, "live.mp4", pieces) == (200, "")
        assert time.monotonic() - began > 0.9
        assert sum(size for _, size in sealed(source)) > len(mp4) * 0.95
