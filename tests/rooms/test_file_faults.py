"""What is no file, comes wrongly or does not come at all ends in a clear problem, and nothing of it counts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.flows.evidence import eventually
from tests.flows.files import (
    PHOTO,
    RESULT,
    digest_header,
    form,
    joined,
    made,
    new_id,
    packed,
    pdf,
    photo,
    put,
    query,
    sound,
)
from tests.flows.pushing import Source
from tests.system import System, running

MIB = 1024 * 1024
SETTINGS = {
    "QUANCHENG_API_PUSH_SILENCE_SECONDS": "2",
    "QUANCHENG_API_FILE_SECONDS": "4",
    "QUANCHENG_API_FILE_BODIES": "2",
}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running(None, settings=SETTINGS) as made_:
        yield made_


@pytest.fixture(scope="module")
def source(system: System) -> Source:
    return Source(system, kind="phone")


@pytest.fixture(scope="module")
def base(source: Source) -> str:
    return str(source.files)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return photo(Path(tmp_path_factory.mktemp("files")))


@pytest.fixture(autouse=True)
def nothing_counts(system: System) -> Iterator[None]:
    """No test here seals anything, or leaves a version behind."""
    yield
    assert system.stack.postgres.run_sql("SELECT count(*) FROM api.file_versions").strip() == "0"
    assert system.stack.postgres.run_sql("SELECT count(*) FROM vault.segments").strip() == "0"


def told(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["slug"]


@pytest.mark.parametrize(
    "about",
    [
        {"kind": "photo"},
        {"title": "无种类"},
        {"kind": "film", "title": "x"},
        {"kind": "photo", "title": ""},
        {"kind": "photo", "title": "x" * 201},
        {"kind": "photo", "title": "a\nb"},
        {"kind": "photo", "title": "\u202egpj.exe"},
        {"kind": "photo", "title": "x", "reading": "1"},
        {"kind": "photo", "title": "x", "taken_at": "2026-11-20T09:30:00"},
        {"kind": "photo", "title": "x", "unknown": "1"},
        {"kind": "photo", "title": "x", "handover": "none"},
        *({k: v for k, v in RESULT.items() if k != name} for name in RESULT if name != "kind"),
        RESULT | {"certificate_expires_on": "soon"},
        RESULT | {"reading_unit": "x" * 17},
    ],
)
def test_what_is_said_is_checked_before_a_byte_is_taken(
    client: httpx.Client, base: str, about: dict[str, Any], jpeg: bytes
) -> None:
    file = new_id()
    head = raw_head(f"{base}/{file}{query(about)}", "expect: 100-continue", "content-length: 1000000")
    assert b" 422 " in head and b"100" not in head.split(b"\r\n")[0]
    assert client.put(f"{base}/{file}/metadata", json=about).status_code == 422
    body, kind = form(about, jpeg)
    answer = client.post(base, content=body, headers={"content-type": kind, "idempotency-key": file})
    assert answer.status_code == 422
    assert put(client, base, file, None, jpeg).json()["slug"] == "file-untold"


def raw_head(url: str, *headers: str, method: str = "PUT", body: bytes = b"", seconds: float = 10) -> bytes:
    """What comes back before any (more) of the body is sent."""
    place = urlsplit(url)
    target = place.path + (f"?{place.query}" if place.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"host: {place.netloc}", *headers, "", ""]
    with socket.create_connection((place.hostname or "", place.port or 80), timeout=seconds) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        return whole(connection)


def whole(connection: socket.socket) -> bytes:
    """An answer with its problem, or the word to go on."""
    came = connection.recv(65536)
    while came and not came.startswith(b"HTTP/1.1 100") and not came.endswith(b"}"):
        came += connection.recv(65536)
    return came


def test_a_body_is_asked_for_once_everything_else_is_right(base: str) -> None:
    head = raw_head(f"{base}/{new_id()}{query(PHOTO)}", "expect: 100-continue", "content-length: 10")
    assert head.startswith(b"HTTP/1.1 100 ")


@pytest.mark.parametrize("kind", ["photo", "sound", "document", "result"])
def test_content_decides_what_it_is(client: httpx.Client, base: str, tmp_path: Path, kind: str) -> None:
    film = made(tmp_path, "film.mp4", "testsrc=size=64x64:duration=1")
    unfit = [film, packed("evil.exe"), b"MZ\x90\x00", b"\x00\x01\x02"]
    unfit += [sound(tmp_path, "wav")] if kind != "sound" else [pdf()]
    about = {**(RESULT if kind == "result" else PHOTO), "kind": kind, "name": "a.jpg"}
    for data in unfit:
        answer = put(client, base, new_id(), about, data, content_type="image/jpeg")
        assert told(answer) == (415, "file-type")
        assert "须为" in answer.json()["detail"]


def test_a_file_is_whole_and_the_one_that_was_meant(client: httpx.Client, base: str, jpeg: bytes) -> None:
    file = new_id()
    assert told(put(client, base, file, PHOTO, b"")) == (400, "file-empty")
    for name in ("content_digest", "repr_digest"):
        wrong = put(client, base, file, PHOTO, jpeg, **{name: digest_header(b"other")})
        assert told(wrong) == (400, "digest-mismatch")
    for bad in ("sha-256=abc", "sha-256=:short=:"):
        assert told(put(client, base, file, PHOTO, jpeg, content_digest=bad)) == (400, "upload-header")
    both = {"content_digest": digest_header(jpeg), "repr_digest": digest_header(b"x")}
    assert told(put(client, base, file, PHOTO, jpeg, **both)) == (400, "upload-header")
    assert told(put(client, base, file, PHOTO, jpeg, if_match="*")) == (400, "upload-header")
    assert told(put(client, base, file, PHOTO, jpeg, if_match='"1"')) == (412, "file-version")
    not_seven = "6f2d1f9c-5a2c-4c8e-9f57-1f2a6f6a9d11"
    assert told(put(client, base, not_seven, PHOTO, jpeg)) == (422, "file-id")


def test_what_breaks_off_is_not_taken(system: System, base: str, jpeg: bytes) -> None:
    place = urlsplit(base)
    file = new_id()
    with socket.create_connection((place.hostname or "", place.port or 80), timeout=10) as connection:
        lines = (
            f"PUT {place.path}/{file}{query(PHOTO)} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(jpeg) + 5}\r\n\r\n"
        )
        connection.sendall(lines.encode() + jpeg)
    # The file was told of, and the slot is free again: what follows is answered.
    look = f"SELECT state FROM api.files WHERE id = '{file}'"
    eventually(lambda: system.stack.postgres.run_sql(look).strip() == "awaiting", "it waits", 10)


@pytest.mark.parametrize("way", ["silent", "trickling", "chunked"])
def test_what_does_not_come_is_not_waited_for(base: str, jpeg: bytes, way: str) -> None:
    """Silent for two seconds, or a byte now and then for four."""
    place = urlsplit(base)
    length = "transfer-encoding: chunked" if way == "chunked" else "content-length: 100000"
    with socket.create_connection((place.hostname or "", place.port or 80), timeout=1) as connection:
        head = f"PUT {place.path}/{new_id()}{query(PHOTO)} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n"
        connection.sendall(head.encode())
        came = b""
        for _ in range(20):
            if way != "silent":
                connection.sendall(b"1\r\n\xff\r\n" if way == "chunked" else b"\xff")
            try:
                came = whole(connection)
                break
            except TimeoutError:
                continue
    assert b" 408 " in came.split(b"\r\n")[0]
    assert b"file-slow" in came


@pytest.mark.parametrize(("kind", "most"), [("photo", 64 * MIB), ("result", 16 * MIB)])
def test_nothing_is_larger_than_its_kind_may_be(base: str, client: httpx.Client, kind: str, most: int) -> None:
    about = RESULT if kind == "result" else PHOTO
    where = f"{base}/{new_id()}{query(about)}"
    head = raw_head(where, "expect: 100-continue", f"content-length: {most + 1}")
    assert b" 413 " in head and b"file-too-large" in head

    def endless() -> Iterator[bytes]:
        for _ in range(most // MIB + 2):
            yield b"\xff" * MIB

    try:
        answer = client.put(where, content=endless())
        assert told(answer) == (413, "file-too-large")
        assert answer.json()["limit"] == most
    except httpx.WriteError:
        pass  # refused while it was still being sent


def _part(name: str, data: bytes = b"{}") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data


GOOD = _part("metadata", b'{"kind":"photo","title":"x"}')


@pytest.mark.parametrize(
    "body",
    [
        joined([]),
        joined([_part("file", b"x"), GOOD]),
        joined([_part("other"), GOOD, _part("file", b"x")]),
        joined([GOOD]),
        joined([GOOD, _part("other", b"x")]),
        joined([GOOD, _part("file", b"x"), _part("more", b"x")]),
        joined([_part("metadata", b"{" + b" " * 20_000 + b"}"), _part("file", b"x")]),
        joined([b"X: " + b"y" * 5000 + b"\r\n" + GOOD, _part("file", b"x")]),
        joined([b"\r\n{}", _part("file", b"x")]),
        joined([GOOD, _part("file", b"x")])[:-10],
        b"--xxBOUNDARYxx",
        b"nonsense",
        b"",
    ],
)
def test_a_form_has_what_it_is_first_and_then_the_bytes(client: httpx.Client, base: str, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=xxBOUNDARYxx", "idempotency-key": new_id()}
    assert told(client.post(base, content=body, headers=headers)) == (400, "form-unfit")


def test_a_form_has_a_boundary_and_a_key(client: httpx.Client, base: str, jpeg: bytes) -> None:
    body, kind = form(PHOTO, jpeg)
    for headers in ({}, {"idempotency-key": "x" * 256}, {"idempotency-key": "a b"}):
        answer = client.post(base, content=body, headers={"content-type": kind, **headers})
        assert told(answer) == (400, "idempotency-key")
    for wrong in ("application/json", "multipart/form-data", "multipart/mixed; boundary=x", ""):
        answer = client.post(base, content=body, headers={"content-type": wrong, "idempotency-key": "k"})
        assert told(answer) == (400, "form-unfit")
    bad = form(b"{not json", jpeg)
    answer = client.post(base, content=bad[0], headers={"content-type": bad[1], "idempotency-key": new_id()})
    assert answer.status_code == 422


def test_what_was_told_stays_so(client: httpx.Client, base: str) -> None:
    file = new_id()
    for _ in range(2):
        answer = client.put(f"{base}/{file}/metadata", json=PHOTO)
        assert (answer.status_code, answer.json()["state"]) == (200, "awaiting")
    other = client.put(f"{base}/{file}/metadata", json=PHOTO | {"title": "另一"})
    assert told(other) == (409, "file-differs")


def test_so_many_at_once_and_so_many_that_wait(system: System, client: httpx.Client, jpeg: bytes) -> None:
    source = Source(system, kind="instrument")
    assert source.files
    place = urlsplit(source.files)
    open_: list[socket.socket] = []
    try:
        for _ in range(2):
            connection = socket.create_connection((place.hostname or "", place.port or 80), timeout=10)
            where = f"{place.path}/{new_id()}{query(PHOTO)}"
            lines = f"PUT {where} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
            connection.sendall(lines.encode())
            assert b"100" in connection.recv(4096)
            open_.append(connection)
        refused = put(client, source.files, new_id(), PHOTO, jpeg)
        assert told(refused) == (429, "push-too-many")
        assert refused.headers["retry-after"]
    finally:
        for connection in open_:
            connection.close()
    for n in range(197):
        assert client.put(f"{source.files}/{new_id()}/metadata", json=PHOTO | {"title": str(n)}).status_code == 200
    full = client.put(f"{source.files}/{new_id()}/metadata", json=PHOTO)
    assert told(full) == (429, "too-many-files")


def test_names_lead_nowhere(client: httpx.Client, base: str) -> None:
    for name in ("..%2f..%2fetc%2fpasswd", "%00", "not-an-id"):
        assert client.put(f"{base}/{name}", content=b"x").status_code in (404, 422)
