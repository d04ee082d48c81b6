"""Single files brought by an unmodified curl, taken along in an export, and verified by whoever gets that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.flows.files import PHOTO, RESULT, new_id, pdf, photo, query, sha256, with_exif
from tests.flows.pushing import Source, verified
from tests.system import System


def curl(*options: str) -> dict[str, Any]:
    argv = ["curl", "-sS", "--fail-with-body", "--max-time", "60", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_curl_brings_is_in_the_export_as_it_came(system: System, tmp_path: Path) -> None:
    source = Source(system, kind="instrument")
    jpeg, report, second = with_exif(photo(tmp_path)), pdf("result"), pdf("result, corrected")
    for name, data in (("photo.jpg", jpeg), ("report.pdf", report), ("second.pdf", second)):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "about.json").write_text(json.dumps(PHOTO))

    form = ("-F", f"metadata=<{tmp_path}/about.json;type=application/json", "-F", f"file=@{tmp_path}/photo.jpg")
    key = ("-H", f"Idempotency-Key: {new_id()}")
    taken = curl(*key, *form, str(source.files))
    assert curl(*key, *form, str(source.files)) == taken
    assert (taken["sha256"], taken["exif_time"]) == (sha256(jpeg), "2026-11-24 10:20:30+08:00")

    where = f"{source.files}/{new_id()}"
    waiting = curl("-X", "PUT", "-H", "content-type: application/json", "-d", json.dumps(RESULT), f"{where}/metadata")
    assert (waiting["state"], waiting["version"]) == ("awaiting", 0)
    first = curl("-T", str(tmp_path / "report.pdf"), where + query(RESULT))
    assert curl("-T", str(tmp_path / "report.pdf"), "-H", "Transfer-Encoding: chunked", where) == first
    corrected = curl("-T", str(tmp_path / "second.pdf"), "-H", 'If-Match: "1"', where)
    assert (first["version"], corrected["version"]) == (1, 2)

    folder = verified(system, system.export(files=[taken["id"], first["id"]]))
    for file, version, data in ((taken, 1, jpeg), (first, 1, report), (first, 2, second)):
        assert (folder / "data" / "series" / file["id"] / str(version)).read_bytes() == data
    with system.sign_in("li") as supervisor:
        asked = supervisor.get(f"/v1/exports?file={first['id']}").json()["items"]
        assert [one["state"] for one in asked] == ["ready"]
        nothing = supervisor.post("/v1/exports", json={"purpose": "spot-check"})
        assert nothing.status_code == 422
        unknown = supervisor.post("/v1/exports", json={"files": [new_id()], "purpose": "spot-check"})
        assert (unknown.status_code, unknown.json()["slug"]) == (404, "no-such-file")
