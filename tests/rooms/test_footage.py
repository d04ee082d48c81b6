"""Footage of a service hall: asked for while the hall has it, handed over or refused; imports keep their origin."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.vault.contract import wire
from tests.flows.pushing import FMP4, Source
from tests.system import System

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def camera(local_system: System) -> Source:
    return Source(local_system, "hall-camera", "大厅一号")


@pytest.fixture
def officer(local_system: System) -> Iterator[httpx.Client]:
    with local_system.sign_in("wang") as client:
        yield client


def asked(camera: Source, days_ago: float, **changes: Any) -> dict[str, Any]:
    begun = NOW - timedelta(days=days_ago)
    told = {"cameras": [camera.id], "reason": "核对受理经过", "from_at": wire.rfc3339(begun)}
    return told | {"to_at": wire.rfc3339(begun + timedelta(hours=1))} | changes


def handed(camera: Source, request: str | None, **changes: Any) -> dict[str, Any]:
    told = {
        "source": camera.id,
        "request": request,
        "hall": "政务服务大厅",
        "system": "大厅视频系统",
        "camera": "一号窗口",
        "handed_over_by": "大厅管理员",
        "taken_over_at": wire.rfc3339(NOW),
        "from_at": wire.rfc3339(NOW - timedelta(days=2)),
        "to_at": wire.rfc3339(NOW - timedelta(days=2, hours=-1)),
        "export_sha256": "ab" * 32,
    }
    return told | changes


def put(client: httpx.Client, path: str, told: dict[str, Any]) -> dict[str, Any]:
    answer = client.put(path, json=told)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["slug"]


def test_what_lapses_first_stands_first_and_the_same_again_changes_nothing(
    officer: httpx.Client, camera: Source
) -> None:
    soon, later = str(uuid7()), str(uuid7())
    put(officer, f"/v1/footage-requests/{later}", asked(camera, 2))
    told = put(officer, f"/v1/footage-requests/{soon}", asked(camera, 26))
    assert put(officer, f"/v1/footage-requests/{soon}", asked(camera, 26)) == told
    again = officer.put(f"/v1/footage-requests/{soon}", json=asked(camera, 26, reason="另一事由"))
    assert refused(again) == (409, "request-differs")
    rows = officer.get("/v1/footage-requests").json()["items"]
    assert [row["id"] for row in rows if row["id"] in (soon, later)] == [soon, later]
    assert [row["lapses_soon"] for row in rows if row["id"] in (soon, later)] == [True, False]
    gone = str(uuid7())
    assert put(officer, f"/v1/footage-requests/{gone}", asked(camera, 40))["state"] == "lapsed"
    assert gone not in [row["id"] for row in officer.get("/v1/footage-requests").json()["items"]]
    page = officer.get("/footage").text
    assert "大厅一号" in page and "核对受理经过" in page


def test_a_handover_answers_the_request_and_what_is_imported_says_so(
    local_system: System, officer: httpx.Client, camera: Source
) -> None:
    request, handover = str(uuid7()), str(uuid7())
    put(officer, f"/v1/footage-requests/{request}", asked(camera, 2))
    told = put(officer, f"/v1/handovers/{handover}", handed(camera, request))
    assert put(officer, f"/v1/handovers/{handover}", handed(camera, request)) == told
    other = officer.put(f"/v1/handovers/{handover}", json=handed(camera, request, hall="别处"))
    assert refused(other) == (409, "handover-differs")
    assert officer.get(f"/v1/footage-requests/{request}").json()["state"] == "handed-over"
    late = officer.post(f"/v1/footage-requests/{request}/refusal", json={"answer": "已无录像"})
    assert refused(late) == (409, "request-answered")
    pushing = camera.push(f"live.mp4?handover={handover}", *FMP4, seconds=2)
    assert pushing.wait(60) == 0
    (recording,) = camera.closed()
    assert recording["handover_id"] == handover
    with local_system.sign_in("li") as client:
        detail = client.get(f"/v1/recordings/{recording['id']}").json()
        assert detail["worth"]["slug"] == "imported"
        assert "大厅管理员" in client.get(f"/recordings/{recording['id']}").text
    assert "政务服务大厅" in officer.get(f"/footage/{request}").text


def test_a_refusal_stays_and_the_reason_is_kept(officer: httpx.Client, camera: Source) -> None:
    request = str(uuid7())
    put(officer, f"/v1/footage-requests/{request}", asked(camera, 3))
    where = f"/v1/footage-requests/{request}/refusal"
    told = officer.post(where, json={"answer": "设备故障，没有录像"})
    assert (told.status_code, told.json()["state"]) == (200, "refused")
    assert officer.post(where, json={"answer": "设备故障，没有录像"}).status_code == 200
    assert refused(officer.post(where, json={"answer": "另一说法"})) == (409, "request-answered")
    assert refused(officer.put(f"/v1/handovers/{uuid7()}", json=handed(camera, request))) == (409, "request-answered")


def test_what_does_not_fit_is_refused_and_nothing_is_kept(
    local_system: System, officer: httpx.Client, camera: Source
) -> None:
    encoder = Source(local_system, "encoder")
    where = f"/v1/footage-requests/{uuid7()}"
    assert refused(officer.put(where, json=asked(camera, 2, cameras=[encoder.id]))) == (422, "camera-unfit")
    assert officer.put(where, json=asked(camera, -2)).status_code == 422
    assert officer.put(where, json=asked(camera, 2, to_at=wire.rfc3339(NOW + timedelta(days=300)))).status_code == 422
    assert officer.get(where).status_code == 404
    unknown = handed(camera, str(uuid7()))
    assert refused(officer.put(f"/v1/handovers/{uuid7()}", json=unknown)) == (404, "no-such-request")
    with local_system.sign_in("admin") as admin:
        assert admin.put(where, json=asked(camera, 2)).status_code == 403
        assert admin.get("/v1/footage-requests").json()["items"] == []
    with httpx.Client(trust_env=False) as nobody:
        pushed = nobody.put(f"{camera.url}live.mp4?handover={uuid7()}", content=b"x")
    assert pushed.status_code in (404, 409, 422), pushed.text
