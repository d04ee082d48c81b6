"""A store that says one thing and does another is found out, each lie by the check that it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.minio import Minio
from services.vault.errors import StoreUnavailable, StoreUnfit
from services.vault.stores import conformance
from tests.rooms.fitness import House, versioned
from tests.rooms.liar import LOCK, Answer, Gateway, Request, gateway
from tests.system import System


@pytest.fixture(scope="session")
def minio(minio_system: System) -> Minio:
    assert minio_system.stack.minio
    return minio_system.stack.minio


@pytest.fixture(scope="module")
def house(minio: Minio) -> House:
    return House(minio).set_up()


def _is(request: Request, method: str, has: str = "") -> bool:
    """Whether it is the probe's request of this kind for the probe bucket."""
    return request.method == method and request.who.endswith("-probe") and has in request.target


def _configured(gate: Gateway, request: Request) -> Answer | None:
    """A plain bucket that tells of versioning and lock all the same."""
    if request.method == "GET" and "-probe?" in request.target:
        if request.query == "object-lock=":
            return Answer(200, {}, b"<a><ObjectLockEnabled>Enabled</ObjectLockEnabled></a>")
        if request.query == "versioning=":
            return Answer(200, {}, b"<a><Status>Enabled</Status></a>")
    return None


class Forgetful:
    """Takes lock headers, tells of them ever after, and stores the object without any lock."""

    def __init__(self, delete_answers: int | None = None):
        self._told: dict[str, str] = {}
        self._delete_answers = delete_answers

    def __call__(self, gate: Gateway, request: Request) -> Answer:
        if told := _configured(gate, request):
            return told
        if _is(request, "PUT", "/lock/") and not request.query and LOCK + "mode" in request.headers:
            self._told = {name: value for name, value in request.headers.items() if name.startswith(LOCK)}
            return gate.as_root(request, without=(LOCK,))
        if _is(request, "PUT", "retention="):
            return Answer(400)
        if _is(request, "DELETE", "versionId="):
            done = gate.as_root(request)
            return Answer(self._delete_answers or done.status)
        answer = gate.forward(request)
        if _is(request, "HEAD", "/lock/") and answer.status == 200:
            return Answer(200, answer.headers | self._told)
        return answer


def says_deleted(gate: Gateway, request: Request) -> Answer:
    """Nothing is deleted, but whoever believes the answer is told so."""
    locked = _is(request, "DELETE", "/lock/") and gate.forward(request).status >= 400
    return Answer(204) if locked else gate.forward(request)


def _head_tells(**changed: str) -> Callable[[Gateway, Request], Answer]:
    def lie(gate: Gateway, request: Request) -> Answer:
        answer = gate.forward(request)
        if not _is(request, "HEAD", "/lock/"):
            return answer
        return Answer(answer.status, answer.headers | {k.replace("_", "-"): v for k, v in changed.items()})

    return lie


def _takes_other_bytes(gate: Gateway, request: Request) -> Answer:
    if _is(request, "PUT", "/bad/"):
        return gate.as_root(request, without=(LOCK, "x-amz-checksum"))
    return gate.forward(request)


def _takes_other_bytes_and_denies_it(gate: Gateway, request: Request) -> Answer:
    if _is(request, "PUT", "/bad/"):
        gate.as_root(request, without=(LOCK, "x-amz-checksum"))
        return Answer(400)
    return gate.forward(request)


def _ignores_if_none_match(gate: Gateway, request: Request) -> Answer:
    answer = gate.forward(request)
    return gate.as_root(request, without=("if-none-match",)) if answer.status == 412 else answer


def _says_many_deleted(gate: Gateway, request: Request) -> Answer:
    done = b"<DeleteResult><Deleted><Key>it</Key></Deleted></DeleteResult>"
    return Answer(200, {}, done) if _is(request, "POST", "delete=") else gate.forward(request)


def _governs(gate: Gateway, request: Request) -> Answer:
    """Locks in GOVERNANCE, which full rights may bypass, and tells of COMPLIANCE."""
    if _is(request, "PUT", "/lock/") and request.headers.get(LOCK + "mode") == "COMPLIANCE":
        mode = {LOCK.replace("-", "_") + "mode": "GOVERNANCE"}
        return gate.as_root(request, without=(LOCK + "mode",), **mode)
    answer = gate.forward(request)
    if _is(request, "HEAD", "/lock/") and answer.status == 200:
        return Answer(200, answer.headers | {LOCK + "mode": "COMPLIANCE"})
    return answer


def _suspends(gate: Gateway, request: Request) -> Answer:
    if _is(request, "PUT", "versioning=") and b"Suspended" in request.body:
        return Answer(200)
    return gate.forward(request)


def _forgets_its_configuration(gate: Gateway, request: Request) -> Answer:
    """Refuses to give up its lock configuration, and has none from then on."""
    gate.__dict__.setdefault("gone", False)
    if _is(request, "PUT", "object-lock=") and b"Enabled" not in request.body:
        gate.__dict__["gone"] = True
        return Answer(409)
    if _is(request, "GET", "object-lock=") and gate.__dict__["gone"]:
        return Answer(404)
    return gate.forward(request)


def _understands_nothing(gate: Gateway, request: Request) -> Answer:
    """Refuses every change of a lock, allowed or not: an attack on it shows nothing."""
    return Answer(400) if _is(request, "PUT", "retention=") else gate.forward(request)


LIES: dict[str, tuple[Callable[[Gateway, Request], Answer], set[str]]] = {
    "locks nothing and obeys": (Forgetful(), {"delete"}),
    "locks nothing, obeys and denies it": (Forgetful(400), {"delete", "bytes"}),
    "says it deleted": (says_deleted, {"delete", "bypass"}),
    "says it deleted many": (_says_many_deleted, {"delete-many"}),
    "tells of another checksum": (_head_tells(x_amz_checksum_sha256="A" * 43 + "="), {"probe-locked"}),
    "tells of no checksum": (_head_tells(x_amz_checksum_sha256=""), {"probe-locked"}),
    "tells nonsense": (_head_tells(x_amz_checksum_sha256="é"), {"probe-locked"}),
    "tells of governance": (_head_tells(x_amz_object_lock_mode="GOVERNANCE"), {"probe-locked"}),
    "tells of a shorter lock": (
        _head_tells(x_amz_object_lock_retain_until_date="2026-01-01T00:00:00Z"),
        {"probe-locked"},
    ),
    "tells of another version": (_head_tells(x_amz_version_id="another"), {"probe-locked"}),
    "takes other bytes": (_takes_other_bytes, {"other-bytes", "other-length", "without-mode"}),
    "takes other bytes and denies it": (_takes_other_bytes_and_denies_it, {"other-bytes", "without-mode"}),
    "overwrites": (_ignores_if_none_match, {"write-once"}),
    "locks in governance": (_governs, {"bypass"}),
    "suspends versioning": (_suspends, {"versioning-off"}),
    "forgets its configuration": (_forgets_its_configuration, {"object-lock-off"}),
    "understands nothing": (_understands_nothing, {"control-retain"}),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_store_that_lies_is_found_out(minio: Minio, name: str) -> None:
    lie, expected = LIES[name]
    house = House(minio)
    if isinstance(lie, Forgetful):
        versioned(house, "probe")
    house.set_up()
    with gateway(minio, lie) as gate:
        assert expected <= await house.broken(gate.endpoint)
        store = house.store(gate.endpoint)
        with pytest.raises(StoreUnfit, match="没有守住承诺"):
            await conformance.require(store)
        await store.stop()
    assert house.versions("evidence") == {}


async def test_a_gateway_that_does_not_lie_changes_nothing(minio: Minio) -> None:
    house = House(minio).set_up()
    with gateway(minio) as gate:
        assert await house.broken(gate.endpoint) == set()


@pytest.mark.parametrize(("seconds", "word"), [(8, "快"), (-8, "慢"), (3 * 3600, "快"), (3, ""), (-3, "")])
async def test_a_store_with_another_clock_is_found_out(house: House, seconds: int, word: str) -> None:
    with gateway(house.minio, clock_set(seconds)) as gate:
        found = await house.examine(gate.endpoint)
    assert found["clock"].held == (not word)
    assert word in found["clock"].seen


def clock_set(seconds: int) -> Callable[[Gateway, Request], Answer]:
    def lie(gate: Gateway, request: Request) -> Answer:
        answer, now = gate.forward(request), datetime.now(UTC) + timedelta(seconds=seconds)
        return Answer(
            answer.status, answer.headers | {"date": now.strftime("%a, %d %b %Y %H:%M:%S GMT")}, answer.body
        )

    return lie


@pytest.mark.parametrize("status", [500, 503])
async def test_a_store_in_trouble_is_away_and_not_unfit(house: House, status: int) -> None:
    def troubled(gate: Gateway, request: Request) -> Answer:
        return Answer(status) if _is(request, "DELETE") else gate.forward(request)

    with gateway(house.minio, troubled) as gate, pytest.raises(StoreUnavailable):
        await house.examine(gate.endpoint)


async def test_a_store_that_hangs_does_not_hold_up_the_start_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(gate: Gateway, request: Request) -> Answer:
        if _is(request, "DELETE"):
            time.sleep(4)
        return gate.forward(request)

    monkeypatch.setattr(conformance, "_SECONDS", 2.0)
    with gateway(house.minio, hangs) as gate:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await house.examine(gate.endpoint)
        assert time.monotonic() - began < 3.5
