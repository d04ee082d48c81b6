"""The simple door on both stores: what is brought is sealed once, whichever way and however often it comes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.stack import run_apart
from services.vault.contract import wire
from tests.flows.evidence import eventually
from tests.flows.files import (
    PHOTO,
    RESULT,
    digest_header,
    form,
    new_id,
    pdf,
    photo,
    put,
    sha256,
    with_exif,
)
from tests.flows.pushing import Source
from tests.flows.uploading import created, patched
from tests.rooms.test_series import trusted
from tests.system import System


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return photo(Path(tmp_path_factory.mktemp("files")))


@pytest.fixture
def officer(system: System) -> Iterator[httpx.Client]:
    with system.sign_in("wang") as client:
        yield client


@pytest.fixture
def anybody() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


def versions_in_vault(system: System, file: str) -> list[tuple[int, str]]:
    """What the vault has sealed of the series."""
    told = system.stack.postgres.run_sql(
        "SELECT coalesce(json_agg(json_build_array(sequence, sha256) ORDER BY sequence), '[]') FROM vault.segments"
        f" WHERE recording_id = '{file}' AND state = 'sealed'"
    )
    return [(number, digest) for number, digest in json.loads(told)]


def told_of(system: System, file: str, name: str) -> Any:
    with system.sign_in("li") as supervisor:
        return supervisor.get(f"/v1/files/{file}").json()[name]


def test_the_same_bytes_are_the_same_version_with_the_same_receipt(
    system: System, officer: httpx.Client, jpeg: bytes
) -> None:
    file = new_id()
    first = put(officer, "/v1/files", file, PHOTO, jpeg, content_digest=digest_header(jpeg))
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    for _ in range(2):
        again = put(officer, "/v1/files", file, PHOTO, jpeg)
        assert (again.status_code, again.json()) == (200, first.json())
    assert put(officer, "/v1/files", file, None, jpeg).json() == first.json()
    assert versions_in_vault(system, file) == [(1, sha256(jpeg))]
    payload = run_apart(trusted(system, first.json()["receipt"]))
    assert (payload["media"], payload["sha256"], payload["size"]) == ("file", sha256(jpeg), len(jpeg))
    about = system.stack.postgres.run_sql(f"SELECT about FROM api.file_versions WHERE file_id = '{file}'").strip()
    assert payload["metadata_sha256"] == sha256(about.encode())
    assert json.loads(about)["title"] == PHOTO["title"]


def test_at_once_from_many_hands_it_is_sealed_once(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    file = new_id()
    with ThreadPoolExecutor(6) as pool:
        came = list(pool.map(lambda _: put(officer, "/v1/files", file, PHOTO, jpeg), range(6)))
    assert {one.status_code for one in came} <= {200, 201}
    assert len({one.text for one in came}) == 1
    assert versions_in_vault(system, file) == [(1, sha256(jpeg))]


def test_other_bytes_follow_only_who_names_the_version(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    file, other, third = new_id(), jpeg + b"\xff", jpeg + b"\xfe"
    assert put(officer, "/v1/files", file, PHOTO, jpeg).status_code == 201
    refused = put(officer, "/v1/files", file, PHOTO, other)
    assert (refused.status_code, refused.json()["slug"]) == (409, "file-differs")
    stale = put(officer, "/v1/files", file, PHOTO, other, if_match='"2"')
    assert (stale.status_code, stale.json()["slug"], stale.json()["version"]) == (412, "file-version", 1)
    second = put(officer, "/v1/files", file, PHOTO, other, if_match='"1"')
    assert (second.status_code, second.headers["etag"]) == (201, '"2"')
    again = put(officer, "/v1/files", file, PHOTO, other, if_match='"1"')
    assert (again.status_code, again.json()) == (200, second.json())
    assert put(officer, "/v1/files", file, PHOTO, third, if_match='"1"').status_code == 412
    assert versions_in_vault(system, file) == [(1, sha256(jpeg)), (2, sha256(other))]
    told = officer.get(f"/v1/files/{file}").json()
    assert [one["version"] for one in told["versions"]] == [2, 1]


def test_what_was_begun_and_not_finished_is_finished_by_the_same_bytes(
    system: System, officer: httpx.Client, jpeg: bytes
) -> None:
    file, other = new_id(), jpeg + b"\xff"
    assert officer.put(f"/v1/files/{file}/metadata", json=PHOTO).json()["state"] == "awaiting"
    begin = (
        "INSERT INTO api.file_versions (file_id, version, sha256, size, format, about, about_sha256, facts, door,"
        f" person_id, received_at) SELECT id, 1, '{sha256(jpeg)}', {len(jpeg)}, 'jpg', '{{}}', '{sha256(b'{}')}',"
        f" '{{}}', 'simple', person_id, now() FROM api.files WHERE id = '{file}'"
    )
    system.stack.postgres.run_sql(begin)
    assert officer.get(f"/v1/files/{file}").json()["versions"] == []
    busy = put(officer, "/v1/files", file, None, other)
    assert (busy.status_code, busy.json()["slug"]) == (409, "file-busy")
    assert put(officer, "/v1/files", file, None, jpeg).json()["version"] == 1
    # One that nobody ever finished keeps nobody out for long.
    lost = new_id()
    officer.put(f"/v1/files/{lost}/metadata", json=PHOTO)
    system.stack.postgres.run_sql(begin.replace(file, lost).replace("now()", "now() - interval '3 min'"))
    assert put(officer, "/v1/files", lost, None, other).json()["version"] == 2
    late = put(officer, "/v1/files", lost, None, jpeg)
    assert (late.status_code, late.json()["slug"]) == (409, "file-differs")


def test_a_form_with_a_key_is_the_same_file_again(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    body, kind = form(PHOTO, jpeg, name="../../现场 1.jpg")
    headers = {"content-type": kind, "idempotency-key": new_id()}
    first = officer.post("/v1/files", content=body, headers=headers)
    assert first.status_code == 201, first.text
    again = officer.post("/v1/files", content=body, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    other = officer.post("/v1/files", content=form(PHOTO, jpeg + b"x")[0], headers=headers)
    assert (other.status_code, other.json()["slug"]) == (409, "file-differs")
    otherwise = officer.post("/v1/files", content=form(PHOTO | {"title": "另一"}, jpeg)[0], headers=headers)
    assert (otherwise.status_code, otherwise.json()["slug"]) == (409, "file-differs")
    told = officer.get(f"/v1/files/{first.json()['id']}").json()
    assert (told["versions"][0]["name"], told["person_name"]) == ("../../现场 1.jpg", "王执法")
    assert told["worth"]["slug"] == "person-file"


def test_an_instrument_brings_its_result_by_its_address(
    system: System, officer: httpx.Client, anybody: httpx.Client
) -> None:
    source = Source(system, kind="instrument", name="烟度计")
    file, late = new_id(), new_id()
    came = put(anybody, source.files, file, RESULT, pdf())
    assert (came.status_code, came.json()["facts"]) == (201, []), came.text
    expired = RESULT | {"measured_at": "2027-01-01T00:00:00+08:00"}
    body, kind = form(expired, b'{"reading": 1.87}', name="r.json")
    headers = {"content-type": kind, "idempotency-key": late}
    posted = anybody.post(source.files, content=body, headers=headers)
    assert (posted.status_code, posted.json()["facts"]) == (201, ["certificate-expired"]), posted.text
    with system.sign_in("li") as supervisor:
        told = supervisor.get(f"/v1/files/{file}").json()
    assert (told["source_name"], told["about"]["instrument_number"]) == ("烟度计", "YD-2031")
    assert told["worth"]["slug"] == "instrument-file"
    assert officer.get(f"/v1/files/{file}").status_code == 404
    # Nobody else has it, whoever knows its id.
    foreign = Source(system, kind="phone")
    assert put(anybody, foreign.files, file, None, pdf()).json()["slug"] == "file-untold"
    assert put(anybody, foreign.files, file, RESULT, pdf()).json()["slug"] == "file-differs"
    source.revoke()
    assert put(anybody, source.files, file, RESULT, pdf()).json()["slug"] == "address-invalid"


def test_what_a_photo_says_of_its_time_stands_beside_when_it_came(
    system: System, officer: httpx.Client, jpeg: bytes
) -> None:
    came = put(officer, "/v1/files", new_id(), PHOTO, with_exif(jpeg)).json()
    assert came["exif_time"] == "2026-11-24 10:20:30+08:00"
    (version,) = officer.get(f"/v1/files/{came['id']}").json()["versions"]
    assert version["received_at"].startswith("20")
    assert version["exif_time"] == came["exif_time"]
    assert put(officer, "/v1/files", new_id(), PHOTO, jpeg).json()["exif_time"] is None


def test_it_is_seen_only_under_a_viewing_and_runs_nothing(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    use = {"purpose": "case-handling"}
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    for about, data, type_, shown in (
        (PHOTO, jpeg, "image/jpeg", "photo"),
        (PHOTO | {"kind": "document"}, svg, "text/plain", None),
        (PHOTO | {"kind": "document"}, pdf(), "application/pdf", "pdf"),
    ):
        file = put(officer, "/v1/files", new_id(), about, data).json()["id"]
        viewing = officer.post(f"/v1/files/{file}/viewings", json=use).json()
        assert viewing["shown"] == shown
        got = officer.get(viewing["content"])
        assert (got.status_code, got.content, got.headers["content-type"].split(";")[0]) == (200, data, type_)
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["content-disposition"].startswith("inline" if shown else "attachment")
        assert ("sandbox" in got.headers["content-security-policy"]) == (shown != "pdf")
        part = officer.get(viewing["content"], headers={"range": "bytes=3-9"})
        assert (part.status_code, part.content) == (206, data[3:10])
        assert officer.get(viewing["content"], headers={"range": "bytes=99999999-"}).status_code == 416
        fields = json.loads(
            system.stack.postgres.run_sql(f"SELECT fields FROM api.outbox WHERE act = '{viewing['id']}'")
        )
        assert (fields["recording"], fields["version"]) == (file, 1)
        assert ("takes" in fields) == (shown is None)
        with system.sign_in("li") as supervisor:
            assert supervisor.get(viewing["content"]).status_code == 404
        lapse = f"UPDATE api.viewings SET until = now() - interval '1 s' WHERE id = '{viewing['id']}'"
        system.stack.postgres.run_sql(lapse)
        assert officer.get(viewing["content"]).json()["slug"] == "viewing-lapsed"
    assert officer.post(f"/v1/files/{new_id()}/viewings", json=use).status_code == 404
    made = put(officer, "/v1/files", new_id(), PHOTO, jpeg + b"\xfd").json()["id"]
    assert officer.post(f"/v1/files/{made}/viewings", json={"purpose": "other"}).status_code == 422


def test_who_may(system: System, jpeg: bytes, anybody: httpx.Client) -> None:
    file = new_id()
    with system.sign_in("li") as supervisor, system.sign_in("admin") as admin, system.sign_in("wang") as officer:
        for client in (supervisor, admin):
            assert put(client, "/v1/files", file, PHOTO, jpeg).json()["slug"] == "not-permitted"
        assert admin.get("/v1/files").json()["items"] == []
        del officer.headers["x-csrf-token"]
        forged = put(officer, "/v1/files", file, PHOTO, jpeg, content_type="application/x-www-form-urlencoded")
        assert forged.json()["slug"] == "request-forged"
    nobody = put(anybody, f"{system.stack.api_url}/v1/files", file, PHOTO, jpeg)
    assert nobody.json()["slug"] == "not-signed-in"
    for kind in ("encoder", "gateway", "hall-camera", "recorder"):
        assert Source(system, kind=kind).files is None
    source = Source(system, kind="encoder")
    by = source.uploads.replace("/uploads/", "/files-by/")
    assert put(anybody, by, file, PHOTO, jpeg).json()["slug"] == "source-unfit"


def test_lists_are_paged_and_by_kind(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    made = [put(officer, "/v1/files", new_id(), PHOTO, jpeg + bytes([n])).json()["id"] for n in range(3)]
    first = officer.get("/v1/files?limit=2&kind=photo").json()
    assert [one["id"] for one in first["items"]] == made[:0:-1]
    rest = officer.get(f"/v1/files?limit=2&kind=photo&cursor={first['next_cursor']}").json()
    assert rest["items"][0]["id"] == made[0]
    assert officer.get("/v1/files?kind=sound").json()["items"] == []
    assert officer.get("/v1/files?cursor=nonsense").status_code == 200


def test_a_receipt_is_the_vault_s(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    came = put(officer, "/v1/files", new_id(), PHOTO, jpeg).json()
    assert officer.get(f"/v1/files/{came['id']}/receipts/1").json() == came["receipt"]
    assert officer.get(f"/v1/files/{came['id']}/receipts/2").status_code == 404
    assert wire.Envelope.model_validate(came["receipt"]).decoded()["recording"] == came["id"]


def test_bytes_come_by_the_resumable_door_as_well(system: System, anybody: httpx.Client, jpeg: bytes) -> None:
    source = Source(system, kind="phone")
    for protocol in ("tus", "ietf"):
        file = new_id()
        assert anybody.put(f"{source.files}/{file}/metadata", json=PHOTO).status_code == 200
        data = jpeg + protocol.encode()
        if protocol == "tus":
            told = f"file {base64.b64encode(file.encode()).decode()},filename {base64.b64encode(b'a.jpg').decode()}"
            url = created(source, len(data), upload_metadata=told)
            assert patched(url, 0, data).status_code == 204
        else:
            came = anybody.post(f"{source.uploads}?file={file}", content=data, headers={"upload-complete": "?1"})
            assert came.status_code == 201, came.text
        (version,) = eventually(partial(told_of, system, file, "versions"), "the file is sealed", 60)
        assert versions_in_vault(system, file) == [(1, sha256(data))]
        assert (version["door"], version["sha256"]) == ("resumable", sha256(data))
        # The same bytes by the other way are the same version.
        assert put(anybody, source.files, file, None, data).json()["version"] == 1
        again = anybody.post(f"{source.uploads}?file={file}", headers={"upload-complete": "?0"})
        assert (again.status_code, again.json()["slug"]) == (409, "file-differs")


def test_what_came_by_the_resumable_door_and_is_unfit_says_so(
    system: System, anybody: httpx.Client, jpeg: bytes
) -> None:
    source = Source(system, kind="phone")
    file = new_id()
    for where in (f"?file={file}", "?file=none"):
        refused = anybody.post(f"{source.uploads}{where}", headers={"upload-complete": "?0"})
        assert refused.json()["slug"] == ("upload-header" if "none" in where else "file-untold")
    anybody.put(f"{source.files}/{file}/metadata", json=PHOTO)
    large = {"upload-complete": "?0", "upload-length": str(65 * 1024 * 1024)}
    refused = anybody.post(f"{source.uploads}?file={file}", headers=large)
    assert (refused.status_code, refused.json()["slug"]) == (413, "file-too-large")
    came = anybody.post(f"{source.uploads}?file={file}", content=b"MZ\x90", headers={"upload-complete": "?1"})
    assert came.status_code == 201
    assert eventually(partial(told_of, system, file, "trouble"), "the file says so", 60) == "file-type"
    assert put(anybody, source.files, file, None, jpeg).status_code == 201
    assert told_of(system, file, "trouble") is None


def test_its_pages_are_there_before_its_bytes_are(system: System, officer: httpx.Client, jpeg: bytes) -> None:
    for about in (PHOTO, RESULT):
        file = new_id()
        assert officer.put(f"/v1/files/{file}/metadata", json=about).status_code == 200
        for page in ("/files", f"/files/{file}"):
            shown = officer.get(page)
            assert (shown.status_code, str(about["title"]) in shown.text) == (200, True)
            assert "等待内容" in shown.text
    made = put(officer, "/v1/files", new_id(), PHOTO | {"taken_at": "2026-11-20T09:30:00+08:00"}, jpeg + b"\xfc")
    page = officer.get(f"/files/{made.json()['id']}").text
    assert "2026-11-20 09:30:00" in page and "由已登录的人员送来" in page
    assert made.json()["sha256"] in officer.get(f"/files/{made.json()['id']}/receipts/1").text
