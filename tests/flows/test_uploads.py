"""Real clients upload files in pieces: each is sealed as it was, closed with the whole's digest, and verifies."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tusclient.client import TusClient

from tests.flows.evidence import assert_log_is_whole
from tests.flows.pushing import Source
from tests.flows.test_playback import assert_problem
from tests.flows.uploading import (
    MIB,
    TUS,
    assert_sealed_whole,
    call,
    checksum,
    created,
    ended,
    movie,
    offset_of,
    patched,
    row,
    some,
)
from tests.system import System, running


@pytest.fixture(scope="module", params=["local", "minio"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio) as made:
        yield made
        assert_log_is_whole(made)


@pytest.fixture
def source(system: System) -> Source:
    return Source(system, kind="dock")


def test_a_client_of_others_uploads_a_movie(system: System, source: Source, tmp_path: Path) -> None:
    file = movie(tmp_path)
    uploader = TusClient(source.uploads).uploader(
        str(file), metadata={"filename": "现场.mp4", "filetype": "video/mp4"}
    )
    uploader.upload()
    told = assert_sealed_whole(system, str(uploader.url), file.read_bytes(), "mp4")
    assert "现场" not in str(told)
    assert (row(system, str(uploader.url))["file_name"], row(system, str(uploader.url))["content_type"]) == (
        "现场.mp4",
        "video/mp4",
    )


def test_tus_js_client_goes_on_where_it_was_broken_off(
    system: System, source: Source, tus_js: Path, tmp_path: Path
) -> None:
    file = tmp_path / "film.bin"
    file.write_bytes(data := some(20 * MIB))
    argv = ["node", "upload.mjs", source.uploads, str(file), str(9 * MIB)]
    done = subprocess.run(argv, cwd=tus_js, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 9 * MIB <= told["begun"] < 20 * MIB
    assert_sealed_whole(system, told["url"], data)


def test_in_chunks_with_checksums_and_come_back_to(system: System, source: Source, tmp_path: Path) -> None:
    data, file = some(21 * MIB + 12345), tmp_path / "big.bin"
    file.write_bytes(data)
    client = TusClient(source.uploads)
    uploader = client.uploader(str(file), chunk_size=3 * MIB, upload_checksum=True)
    uploader.upload(stop_at=10 * MIB)
    kept = row(system, str(uploader.url))
    assert (kept["received"], kept["sealed"], kept["segments"]) == (10 * MIB, 8 * MIB, 1)
    again = client.uploader(str(file), chunk_size=5 * MIB, url=uploader.url)
    assert again.offset == 10 * MIB
    again.upload()
    assert_sealed_whole(system, str(uploader.url), data)


@pytest.mark.parametrize("size", [1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB])
def test_every_size_about_a_segment(system: System, source: Source, size: int) -> None:
    data = some(size, size)
    url = created(source, size, data)
    assert offset_of(url) == size
    assert_sealed_whole(system, url, data)


def test_who_does_not_know_the_length_says_it_later(system: System, source: Source) -> None:
    data = some(9 * MIB)
    url = created(source, None, data[: 8 * MIB])
    assert call("HEAD", url, TUS).headers["upload-defer-length"] == "1"
    assert patched(url, 8 * MIB, data[8 * MIB : -10]).status_code == 204
    assert patched(url, len(data) - 10, b"", upload_length=str(len(data))).status_code == 204
    assert call("HEAD", url, TUS).headers["upload-length"] == str(len(data))
    assert patched(url, len(data) - 10, data[-10:]).headers["upload-offset"] == str(len(data))
    assert_sealed_whole(system, url, data)


def test_parts_that_came_side_by_side_become_one(system: System, source: Source) -> None:
    data = some(19 * MIB)
    parts = [data[: 9 * MIB], data[9 * MIB : 10 * MIB], data[10 * MIB :]]
    urls = [created(source, len(part), part, upload_concat="partial") for part in parts]
    assert call("HEAD", urls[0], TUS).headers["upload-concat"] == "partial"
    places = " ".join([urls[0], *(url[url.index("/v1/") :] for url in urls[1:])])
    final = call("POST", source.uploads, TUS | {"upload-concat": f"final;{places}"})
    assert (final.status_code, "upload-offset" in final.headers) == (201, False)
    url = final.headers["location"]
    assert patched(url, 0, b"x").status_code == 403
    assert_sealed_whole(system, url, data)
    told = call("HEAD", url, TUS).headers
    assert (told["upload-length"], told["upload-offset"]) == (str(len(data)), str(len(data)))
    assert told["upload-concat"].startswith("final;/v1/uploads/")
    for part, piece in zip(urls, parts, strict=True):
        assert ended(system, part)["length"] == len(piece)


def test_what_is_given_up_is_marked_and_what_is_sealed_stays(system: System, source: Source) -> None:
    url = created(source, 20 * MIB, some(9 * MIB))
    assert call("DELETE", url, TUS).status_code == 204
    for method in ("HEAD", "DELETE"):
        assert call(method, url, TUS).status_code == 410
    assert patched(url, 9 * MIB, b"more").json()["slug"] == "upload-gone"
    upload = ended(system, url)
    assert (upload["state"], upload["sealed"], upload["received"], upload["tail"]) == (
        "cancelled",
        8 * MIB,
        8 * MIB,
        None,
    )
    (recording,) = source.closed()
    assert (recording["segments"], recording["bytes"]) == (1, 8 * MIB)
    untouched = created(source, 10, b"12345")
    assert call("DELETE", untouched, TUS).status_code == 204
    assert ended(system, untouched)["segments"] == 0
    assert len(source.recordings()) == 1


@pytest.mark.parametrize("interop", ["6", "8", None])
def test_curl_hears_where_to_go_on(system: System, source: Source, interop: str | None, tmp_path: Path) -> None:
    data, file = some(17 * MIB, 3), tmp_path / "big.bin"
    file.write_bytes(data)
    version = ["-H", f"Upload-Draft-Interop-Version: {interop}"] if interop else []
    argv = ["curl", "-sS", "-i", "--noproxy", "*", "-X", "POST", "--data-binary", f"@{file}", *version]
    argv += ["-H", "Upload-Complete: ?1", "-H", "Content-Disposition: inline; filename=x.bin", source.uploads]
    told = subprocess.run(argv, capture_output=True, timeout=60, check=True).stdout.decode()
    first, *more = [part for part in told.split("\r\n\r\n") if part.startswith("HTTP/1.1 104")]
    assert first.startswith("HTTP/1.1 104 Upload Resumption Supported")
    assert [offset for part in more for offset in re.findall(r"upload-offset: (\d+)", part)] == [
        str(8 * MIB),
        str(16 * MIB),
        str(17 * MIB),
    ]
    (where,) = set(re.findall(r"location: (\S+)", told))
    assert (f"upload-draft-interop-version: {interop}" in first) == (interop is not None)
    assert "HTTP/1.1 201" in told and "upload-complete: ?1" in told
    assert_sealed_whole(system, where, data)
    assert row(system, where)["file_name"] == "x.bin"


@pytest.mark.parametrize("interop", ["6", "8", None])
def test_an_ietf_upload_in_pieces(system: System, source: Source, interop: str | None) -> None:
    data, said = some(12 * MIB, 5), {"upload-draft-interop-version": interop} if interop else {}
    begun = call(
        "POST", source.uploads, said | {"upload-complete": "?0", "upload-length": str(len(data))}, data[:100]
    )
    assert (begun.status_code, begun.headers["upload-complete"], begun.headers["upload-offset"]) == (201, "?0", "100")
    url, at = begun.headers["location"], 100
    for piece in (data[100 : 9 * MIB], data[9 * MIB : -1]):
        headers = {"upload-offset": str(at), "upload-complete": "?0", "content-type": "application/partial-upload"}
        answer = call("PATCH", url, said | headers, piece)
        at += len(piece)
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(at))
    told = call("HEAD", url, said)
    assert (told.status_code, told.headers["upload-offset"], told.headers["upload-complete"]) == (204, str(at), "?0")
    assert told.headers["upload-length"] == str(len(data))
    assert ("expires=" if interop == "6" else "max-age=") in told.headers["upload-limit"]
    headers = {"upload-offset": str(at), "upload-complete": "?1", "content-type": "application/partial-upload"}
    done = call("PATCH", url, said | headers, data[-1:])
    assert (done.status_code, done.headers["upload-complete"]) == (200, "?1")
    assert done.json()["recording"] == url.rpartition("/")[2]
    assert call("HEAD", url, said).headers["upload-complete"] == "?1"
    assert_sealed_whole(system, url, data)


def test_an_upload_is_listed_and_shown_and_taken_along(system: System, source: Source) -> None:
    url = created(source, 9, b"%PDF-1.7\n", upload_checksum=checksum(b"%PDF-1.7\n", "sha1"))
    told = assert_sealed_whole(system, url, b"%PDF-1.7\n", "pdf")
    assert told["closed_by"] == "server"
    with system.sign_in("li") as client:
        asked = client.post(f"/v1/recordings/{ended(system, url)['id']}/viewings", json={"purpose": "spot-check"})
        seen = asked.json()
        assert (seen["playlist"], seen["rendition"]) == (None, None)
        shown = client.get(seen["file"], headers={"range": "bytes=1-3"})
        assert (shown.status_code, shown.content) == (206, b"PDF")
        assert shown.headers["content-disposition"].startswith("inline")
        assert_problem(client.get(f"/v1/viewings/{seen['id']}/original"), 403, "viewing-only")
        assert "文件上传" in client.get(f"/recordings/{ended(system, url)['id']}").text
        take = {"purpose": "spot-check", "original": True}
        viewing = client.post(f"/v1/recordings/{ended(system, url)['id']}/viewings", json=take).json()
        original = client.get(viewing["original"])
        assert (original.headers["content-type"], original.content) == ("application/pdf", b"%PDF-1.7\n")


def test_names_stay_out_of_the_log(system: System, source: Source) -> None:
    name = base64.b64encode("当事人张某.mov".encode()).decode()
    url = created(source, 4, b"abcd", upload_metadata=f"filename {name},relativePath bnVsbA==")
    assert call("HEAD", url, TUS).headers["upload-metadata"] == f"filename {name},relativePath bnVsbA=="
    ended(system, url)
    log = (system.stack.data / "logs" / "api.log").read_text()
    assert "张某" not in log and source.uploads.rpartition("/")[2] not in log
    assert "张某" not in system.stack.postgres.run_sql("SELECT * FROM vault.log_entries")
