"""One code, one key: how a terminal comes to be believed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils.compat import uuid7

from services.vault.contract.channel import CHANNEL_SERVICE, CHANNEL_TERMINAL, RequestSigner, raw_public
from services.vault.contract.verify import key_id
from tests.rooms.houses import Houses
from tests.rooms.people import browser, enrolment, new_code, new_person, new_recorder, new_unit, service_key
from tests.system import System


@pytest.fixture(scope="module")
async def recorder(local_system: System) -> tuple[UUID, UUID]:
    """A unit and its recorder."""
    stack = local_system.stack
    unit = await new_unit(stack, "登记测试局")
    _, officer = await new_person(stack, unit, "officer")
    return unit, await new_recorder(stack, unit, officer)


@pytest.fixture
async def code(local_system: System, recorder: tuple[UUID, UUID]) -> str:
    return await new_code(local_system.stack, *recorder)


@pytest.fixture
async def client(local_system: System) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(local_system.stack) as made:
        yield made


async def _enrol(client: httpx.AsyncClient, key: Ed25519PrivateKey, code: str, **changes: str) -> httpx.Response:
    return await client.post("/v1/enrolments", json=enrolment(key, code, **changes))


def _refused(answer: httpx.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.json()["slug"]) == (status, slug)


async def test_a_code_is_used_once_and_by_one_key(client: httpx.AsyncClient, code: str) -> None:
    key = Ed25519PrivateKey.generate()
    first = await _enrol(client, key, code)
    assert first.status_code == 201
    assert first.json()["key_id"] == key_id(raw_public(key))
    again = await _enrol(client, key, code)
    assert (again.status_code, again.json()) == (201, first.json())
    _refused(await _enrol(client, Ed25519PrivateKey.generate(), code), 403, "code-invalid")


async def test_the_vault_that_is_told_is_the_one_that_signs(
    local_system: System, client: httpx.AsyncClient, code: str
) -> None:
    told = (await _enrol(client, Ed25519PrivateKey.generate(), code)).json()["vault"]
    signer = RequestSigner(service_key(local_system.stack), CHANNEL_SERVICE)
    async with httpx.AsyncClient(base_url=local_system.stack.vault_url, auth=signer, trust_env=False) as vault:
        assert (await vault.get("/v1/identity")).json() == told


async def test_the_key_enters_the_log(local_system: System, client: httpx.AsyncClient, code: str) -> None:
    key = Ed25519PrivateKey.generate()
    await _enrol(client, key, code)
    identity = key_id(raw_public(key))
    logged = local_system.stack.postgres.run_sql(
        "SELECT count(*) FROM vault.log_entries l JOIN vault.enrolments e ON e.act = l.act "
        f"WHERE e.key_id = '{identity}' AND convert_from(l.statement, 'utf8') LIKE '%{identity}%'"
    )
    assert logged.strip() == "1"


async def test_an_unknown_code_is_refused(client: httpx.AsyncClient) -> None:
    _refused(await _enrol(client, Ed25519PrivateKey.generate(), "A" * 20), 403, "code-invalid")


async def test_a_lapsed_code_is_refused(
    local_system: System, client: httpx.AsyncClient, recorder: tuple[UUID, UUID], code: str
) -> None:
    local_system.stack.postgres.run_sql(
        f"UPDATE api.enrolment_codes SET expires_at = now() - interval '1 s' WHERE recorder_id = '{recorder[1]}'"
    )
    _refused(await _enrol(client, Ed25519PrivateKey.generate(), code), 403, "code-invalid")


async def test_a_proof_by_another_key_is_refused_and_the_code_stays_good(
    client: httpx.AsyncClient, code: str
) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    stolen = enrolment(other, code)["proof"]
    _refused(await _enrol(client, key, code, proof=stolen), 422, "proof-invalid")
    bare = base64.b64encode(key.sign(code.encode())).decode()
    _refused(await _enrol(client, key, code, proof=bare), 422, "proof-invalid")
    for_another = enrolment(key, "B" * 20)["proof"]
    _refused(await _enrol(client, key, code, proof=for_another), 422, "proof-invalid")
    assert (await _enrol(client, key, code)).status_code == 201


@pytest.mark.parametrize(
    "public",
    ["", "AAAA", "!" * 44, "A" * 43 + "=", base64.b64encode(b"\xff" * 32).decode(), "A" * 42 + "=="],
    ids=["empty", "short", "no base64", "zero point", "no point", "31 bytes"],
)
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, code: str, public: str) -> None:
    answer = await _enrol(client, Ed25519PrivateKey.generate(), code, public_key=public)
    assert answer.status_code == 422


async def test_of_two_keys_that_race_for_a_code_one_wins(client: httpx.AsyncClient, code: str) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(6)]
    answers = await asyncio.gather(*(_enrol(client, key, code) for key in keys))
    assert sorted(answer.status_code for answer in answers) == [201] + [403] * 5
    (won,) = (key for key, answer in zip(keys, answers, strict=True) if answer.status_code == 201)
    assert (await _enrol(client, won, code)).status_code == 201


async def test_one_key_that_races_with_itself_is_enrolled_once(client: httpx.AsyncClient, code: str) -> None:
    key = Ed25519PrivateKey.generate()
    answers = await asyncio.gather(*(_enrol(client, key, code) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1


async def test_a_key_belongs_to_one_recorder(
    local_system: System, client: httpx.AsyncClient, recorder: tuple[UUID, UUID], code: str
) -> None:
    key = Ed25519PrivateKey.generate()
    assert (await _enrol(client, key, code)).status_code == 201
    other = await new_recorder(local_system.stack, recorder[0], None)
    second = await new_code(local_system.stack, recorder[0], other)
    _refused(await _enrol(client, key, second), 403, "code-invalid")
    assert (await _enrol(client, Ed25519PrivateKey.generate(), second)).status_code == 201


async def test_codes_are_kept_as_digests_alone(local_system: System, code: str) -> None:
    assert code not in local_system.stack.postgres.run_sql("SELECT c::text FROM api.enrolment_codes c")


# --- who may hand out codes ---


async def test_only_an_administrator_registers_and_hands_out_codes(houses: Houses) -> None:
    recorder = houses.here.terminals["first"].recorder
    for person in ("first", "supervisor"):
        client = houses.here.clients[person]
        for method, path in (
            ("GET", "/v1/recorders"),
            ("POST", "/v1/recorders"),
            ("POST", f"/v1/recorders/{recorder}/enrolment-codes"),
        ):
            answer = await client.request(method, path, json={"name": "x"} if method == "POST" else None)
            _refused(answer, 403, "not-permitted")
    administrator = houses.here.clients["administrator"]
    made = await administrator.post(
        "/v1/recorders", json={"name": "新记录仪", "officer_id": str(houses.here.people["first"])}
    )
    assert made.status_code == 201
    listed = {item["id"] for item in (await administrator.get("/v1/recorders")).json()["items"]}
    assert {made.json()["id"], str(recorder)} <= listed
    issued = await administrator.post(f"/v1/recorders/{made.json()['id']}/enrolment-codes")
    assert issued.status_code == 201
    async with browser(houses.system.stack) as client:
        assert (await _enrol(client, Ed25519PrivateKey.generate(), issued.json()["code"])).status_code == 201


async def test_another_units_recorders_and_people_are_out_of_reach(houses: Houses) -> None:
    administrator, theirs = houses.there.clients["administrator"], houses.here.terminals["first"].recorder
    _refused(await administrator.post(f"/v1/recorders/{theirs}/enrolment-codes"), 404, "no-such-recorder")
    _refused(await administrator.post(f"/v1/recorders/{uuid7()}/enrolment-codes"), 404, "no-such-recorder")
    listed = {item["id"] for item in (await administrator.get("/v1/recorders")).json()["items"]}
    assert str(theirs) not in listed
    for officer in (houses.here.people["first"], uuid7()):
        answer = await administrator.post("/v1/recorders", json={"name": "x", "officer_id": str(officer)})
        _refused(answer, 404, "no-such-recorder")


# --- what an enrolled key signs ---


@pytest.mark.parametrize("case", ["unsigned", "unknown key", "services' channel", "altered", "unlogged key"])
async def test_only_an_enrolled_key_opens_a_recording(
    local_system: System, client: httpx.AsyncClient, code: str, case: str
) -> None:
    key = Ed25519PrivateKey.generate()
    assert (await _enrol(client, key, code)).status_code == 201
    if case == "unlogged key":
        local_system.stack.postgres.run_sql(
            f"UPDATE api.recorder_keys SET log_index = NULL WHERE key_id = '{key_id(raw_public(key))}'"
        )
    signer = RequestSigner(
        Ed25519PrivateKey.generate() if case == "unknown key" else key,
        CHANNEL_SERVICE if case == "services' channel" else CHANNEL_TERMINAL,
    )
    request = client.build_request("PUT", f"/v1/recordings/{uuid7()}", json={"started_at": "2026-11-23T17:34:40Z"})
    if case != "unsigned":
        signer.sign(request)
    if case == "altered":
        request.url = request.url.copy_with(path=f"/v1/recordings/{uuid7()}")
    _refused(await client.send(request), 401, "not-a-terminal")
