"""tus 1.0.0 to the letter, and every limit: each wrong request ends in a clear problem and changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from uuid import uuid4

import httpx
import pytest

from tests.flows.evidence import eventually
from tests.flows.pushing import Source
from tests.flows.uploading import MIB, PIECE, TUS, call, checksum, created, ended, offset_of, patched, row, some
from tests.system import System, running


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running(None, settings={"QUANCHENG_API_PUSH_SILENCE_SECONDS": "3"}) as made:
        yield made


@pytest.fixture
def source(system: System) -> Source:
    return Source(system)


def told(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.status_code, answer.json()["slug"]


def test_what_it_can_do(source: Source) -> None:
    for url in (source.uploads, f"{source.uploads}/{uuid4()}"):
        answer = call("OPTIONS", url)
        assert (answer.status_code, answer.headers["tus-version"]) == (200, "1.0.0")
        assert set(answer.headers["tus-extension"].split(",")) == {
            *("creation", "creation-with-upload", "creation-defer-length", "checksum"),
            *("expiration", "termination", "concatenation"),
        }
        assert answer.headers["tus-max-size"] == str(64 * 1024 * MIB)
        assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
        assert "application/partial-upload" in answer.headers["accept-patch"]
        assert answer.headers["upload-limit"] == f"max-size={64 * 1024 * MIB}"


def test_who_does_not_know_an_address_is_told_nothing(system: System, source: Source) -> None:
    url = created(source, 10, b"12345")
    other = Source(system)
    foreign = url.replace(source.uploads, other.uploads)
    assert call("HEAD", foreign, TUS).status_code == 404
    assert told(patched(foreign, 5, b"x")) == (404, "no-such-upload")
    unknown = f"{system.stack.api_url}/v1/uploads/{'A' * 43}"
    assert told(call("POST", unknown, TUS | {"upload-length": "1"})) == (403, "address-invalid")
    source.revoke()
    assert told(patched(url, 5, b"x")) == (403, "address-invalid")
    assert call("OPTIONS", source.uploads).status_code == 403


def test_the_version_is_asked_for(source: Source) -> None:
    url = created(source, 10)
    for headers in ({}, {"tus-resumable": "0.2.2"}):
        answer = call("POST", source.uploads, headers | {"upload-length": "1"})
        assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")
        assert told(answer)[1] == "upload-protocol"
        assert call("HEAD", url, headers).status_code == 412
    assert call("HEAD", url, {"upload-draft-interop-version": "8"}).status_code == 412
    draft = call("POST", source.uploads, {"upload-complete": "?0"}).headers["location"]
    assert call("HEAD", draft, TUS).status_code == 412


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({}, 400, "upload-header"),
        ({"upload-length": "-1"}, 400, "upload-header"),
        ({"upload-length": "1.5"}, 400, "upload-header"),
        ({"upload-length": "9" * 40}, 400, "upload-header"),
        ({"upload-length": str(64 * 1024 * MIB + 1)}, 413, "upload-too-large"),
        ({"upload-defer-length": "2"}, 400, "upload-header"),
        ({"upload-length": "5", "upload-defer-length": "1"}, 400, "upload-header"),
        ({"upload-length": "5", "upload-metadata": "filename"}, 201, ""),
        ({"upload-length": "5", "upload-metadata": "filename !!"}, 400, "upload-header"),
        ({"upload-length": "5", "upload-metadata": "a YQ==,a YQ=="}, 400, "upload-header"),
        ({"upload-length": "5", "upload-metadata": "a " + "YWFh" * 1100}, 400, "upload-header"),
        ({"upload-length": "5", "upload-concat": "partially"}, 400, "upload-header"),
        ({"upload-concat": "final;"}, 400, "upload-header"),
        ({"upload-concat": "final;/v1/uploads/x/y"}, 400, "parts-unfit"),
        ({"upload-concat": "final;" + "a " * 64 + "a"}, 400, "upload-header"),
        ({"upload-concat": f"final;/v1/uploads/x/{uuid4()}"}, 400, "parts-unfit"),
    ],
)
def test_what_is_no_creation(source: Source, headers: dict[str, str], status: int, slug: str) -> None:
    answer = call("POST", source.uploads, TUS | headers)
    assert answer.status_code == status, answer.text
    assert not slug or told(answer) == (status, slug)


def test_parts_must_be_complete_and_of_this_address(system: System, source: Source) -> None:
    good = created(source, 3, b"abc", upload_concat="partial")
    whole, unfinished = created(source, 3, b"abc"), created(source, 3, b"a", upload_concat="partial")
    foreign = created(Source(system), 3, b"abc", upload_concat="partial")
    for bad in (whole, unfinished, foreign, f"{source.uploads}/{uuid4()}"):
        answer = call("POST", source.uploads, TUS | {"upload-concat": f"final;{good} {bad}"})
        assert told(answer) == (400, "parts-unfit")
    answer = call("POST", source.uploads, TUS | {"upload-concat": f"final;{good}", "upload-length": "3"})
    assert told(answer) == (400, "upload-header")
    twice = call("POST", source.uploads, TUS | {"upload-concat": f"final;{good} {good}"})
    assert ended(system, twice.headers["location"])["length"] == 6


def test_an_empty_file_is_complete_and_leaves_no_recording(system: System, source: Source) -> None:
    url = created(source, 0)
    assert offset_of(url) == 0
    assert patched(url, 0, b"").status_code == 204
    assert row(system, url)["state"] == "complete"
    draft = call("POST", source.uploads, {"upload-complete": "?1"})
    assert (draft.status_code, draft.headers["upload-complete"], draft.json()["recording"]) == (201, "?1", None)
    ended(system, draft.headers["location"])
    assert source.recordings() == []


def test_a_piece_says_where_it_belongs_and_what_it_is(source: Source) -> None:
    url = created(source, 10, b"12345")
    assert told(patched(url, 4, b"x")) == (409, "upload-offset")
    assert patched(url, 6, b"x").headers["upload-offset"] == "5"
    assert told(call("PATCH", url, TUS | {"upload-offset": "5", "content-type": "text/plain"}, b"x")) == (
        415,
        "upload-type",
    )
    assert told(call("PATCH", url, PIECE, b"x")) == (400, "upload-header")
    assert told(call("PATCH", url, PIECE | {"upload-offset": "-5"}, b"x")) == (400, "upload-header")
    assert told(call("POST", source.uploads, TUS | {"upload-length": "1", "content-type": "image/png"}, b"x")) == (
        415,
        "upload-type",
    )
    assert offset_of(url) == 5


def test_no_more_than_was_said(source: Source) -> None:
    url = created(source, 10, b"12345")
    assert told(patched(url, 5, b"123456")) == (413, "upload-too-large")
    assert told(patched(url, 5, iter([b"123", b"456"]))) == (413, "upload-too-large")
    assert told(patched(url, 5, b"1", upload_length="11")) == (400, "upload-length")
    assert offset_of(url) == 5
    assert patched(url, 5, b"67890").status_code == 204
    assert told(patched(url, 10, b"x")) == (413, "upload-too-large")
    assert patched(url, 10, b"").status_code == 204
    deferred = created(source, None, b"12345")
    assert told(patched(deferred, 5, b"", upload_length="4")) == (400, "upload-length")


def test_a_checksum_is_checked_before_anything_is_taken(system: System, source: Source) -> None:
    data = some(9 * MIB)
    url = created(source, 9 * MIB)
    for algorithm in ("sha1", "sha256"):
        assert told(patched(url, 0, data, upload_checksum=checksum(b"other", algorithm))) == (
            460,
            "checksum-mismatch",
        )
    for wrong in ("md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 !!", "sha1 YQ=="):
        assert told(patched(url, 0, b"x", upload_checksum=wrong)) == (400, "upload-header")
    kept = row(system, url)
    assert (kept["received"], kept["segments"], kept["tail"]) == (0, 0, None)
    assert patched(url, 0, data, upload_checksum=checksum(data)).status_code == 204
    large = created(source, 17 * MIB)
    assert told(patched(large, 0, some(16 * MIB + 1), upload_checksum=checksum(b""))) == (413, "checksum-too-large")
    assert offset_of(large) == 0
    answer = call(
        "POST", source.uploads, PIECE | {"upload-length": "5", "upload-checksum": checksum(b"other")}, b"12345"
    )
    assert told(answer) == (460, "checksum-mismatch")
    assert offset_of(answer.headers["location"]) == 0


@pytest.mark.parametrize("size", [8 * MIB, 11 * MIB])
def test_what_was_sealed_and_not_counted_is_counted_by_who_comes_next(
    system: System, source: Source, size: int
) -> None:
    """As where a process was killed between the receipt and its row."""
    data, url = some(size), created(source, size)
    assert patched(url, 0, data[: 8 * MIB]).status_code == 204
    ends = size == 8 * MIB
    if ends:
        ended(system, url)
    run = system.stack.postgres.run_sql
    run(
        "UPDATE api.uploads SET state = 'open', completed_at = NULL, closed = false, received = 0, sealed = 0,"
        f" segments = 0, pending_size = {8 * MIB}, pending_ends = {ends},"
        f" pending_sha256 = '{hashlib.sha256(data[: 8 * MIB]).hexdigest()}'"
        f" WHERE id = '{url.rpartition('/')[2]}'"
    )
    assert offset_of(url) == 8 * MIB
    if not ends:
        assert patched(url, 8 * MIB, data[8 * MIB :]).status_code == 204
    assert ended(system, url)["whole_sha256"] == hashlib.sha256(data).hexdigest()
    (recording,) = source.closed()
    assert recording["bytes"] == size


def test_what_was_being_sealed_and_never_was_is_sent_again(system: System, source: Source) -> None:
    data = some(9 * MIB)
    url = created(source, len(data), data[:MIB])
    run = system.stack.postgres.run_sql
    run(
        f"UPDATE api.uploads SET pending_size = {8 * MIB}, pending_sha256 = '{'0' * 64}'"
        f" WHERE id = '{url.rpartition('/')[2]}'"
    )
    assert offset_of(url) == MIB
    assert row(system, url)["pending_sha256"] is None
    assert patched(url, MIB, data[MIB:]).status_code == 204
    assert ended(system, url)["whole_sha256"] == hashlib.sha256(data).hexdigest()


def test_it_expires_and_what_is_sealed_stays(system: System, source: Source) -> None:
    url = created(source, 20 * MIB, some(9 * MIB))
    first = parsedate_to_datetime(call("HEAD", url, TUS).headers["upload-expires"])
    later = parsedate_to_datetime(patched(url, 9 * MIB, b"x").headers["upload-expires"])
    assert later >= first
    run = system.stack.postgres.run_sql
    run(f"UPDATE api.uploads SET expires_at = now() - interval '1 s' WHERE id = '{url.rpartition('/')[2]}'")
    assert call("HEAD", url, TUS).status_code == 410
    assert told(patched(url, 9 * MIB + 1, b"x")) == (410, "upload-gone")

    def closed() -> bool:
        return bool(row(system, url)["closed"])

    eventually(closed, "it is closed", 60)
    assert (row(system, url)["state"], row(system, url)["tail"]) == ("expired", None)
    (recording,) = source.closed()
    assert recording["bytes"] == 8 * MIB


def test_methods_that_a_firewall_keeps_back(source: Source) -> None:
    url = created(source, 6, b"123")
    answer = call("POST", url, PIECE | {"upload-offset": "3", "x-http-method-override": "PATCH"}, b"456")
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "6")
    assert told(call("POST", url, TUS)) == (400, "upload-header")
    assert call("POST", url, TUS | {"x-http-method-override": "DELETE"}).status_code == 204
    assert call("HEAD", url, TUS).status_code == 410


def test_an_address_has_so_many_unfinished_ones(system: System, source: Source) -> None:
    with ThreadPoolExecutor(8) as pool:
        urls = list(pool.map(lambda _: created(source, 10), range(200)))
    assert told(call("POST", source.uploads, TUS | {"upload-length": "10"})) == (429, "too-many-uploads")
    assert call("DELETE", urls[0], TUS).status_code == 204
    created(source, 10)


def test_ietf_requests_that_contradict_themselves(source: Source) -> None:
    def slug(answer: httpx.Response) -> tuple[int, str, str]:
        problem = answer.json()
        return answer.status_code, problem["slug"], problem["type"].rpartition("#")[2]

    assert call("POST", source.uploads, {"upload-complete": "1"}).status_code == 400
    for version in ("3", "5", "7", "x"):
        answer = call("POST", source.uploads, {"upload-complete": "?1", "upload-draft-interop-version": version})
        assert (answer.status_code, answer.json()["slug"]) == (412, "upload-protocol")
    answer = call("POST", source.uploads, {"upload-complete": "?1", "upload-length": "7"}, b"12345")
    assert slug(answer) == (400, "upload-length", "inconsistent-upload-length")
    answer = call("POST", source.uploads, {"upload-complete": "?0", "upload-length": str(1 << 40)})
    assert (answer.status_code, "upload-limit" in answer.headers) == (413, True)
    url = call("POST", source.uploads, {"upload-complete": "?0"}, b"12345").headers["location"]
    piece = {"content-type": "application/partial-upload", "upload-complete": "?0"}
    answer = call("PATCH", url, piece | {"upload-offset": "4"}, b"x")
    assert slug(answer) == (409, "upload-offset", "mismatching-upload-offset")
    assert (answer.headers["upload-offset"], answer.json()["expected-offset"]) == ("5", 5)
    assert call("PATCH", url, {"upload-offset": "5", "upload-complete": "?0"}, b"x").status_code == 415
    assert call("PATCH", url, piece | {"upload-offset": "5", "upload-complete": "yes"}, b"x").status_code == 400
    done = call("PATCH", url, piece | {"upload-offset": "5", "upload-complete": "?1"})
    assert (done.status_code, done.headers["upload-complete"]) == (200, "?1")
    assert call("PATCH", url, piece | {"upload-offset": "5", "upload-complete": "?1"}).status_code == 200
    answer = call("PATCH", url, piece | {"upload-offset": "5", "upload-complete": "?1"}, b"more")
    assert slug(answer)[0] == 400
