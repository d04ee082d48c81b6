"""Who signs in, how often they may fail, and what a session's cookie and token are good for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from uuid import UUID

import httpx
import pytest

from services.api.app import create_app
from services.api.settings import Settings
from tests.rooms.people import PASSWORD, browser, new_person, new_unit, signed_in
from tests.system import System


@pytest.fixture(scope="module")
async def unit(local_system: System) -> UUID:
    return await new_unit(local_system.stack, "登录测试局")


@pytest.fixture
async def login(local_system: System, unit: UUID) -> str:
    return (await new_person(local_system.stack, unit, "supervisor"))[0]


@pytest.fixture
async def client(local_system: System, login: str) -> AsyncIterator[httpx.AsyncClient]:
    made = await signed_in(local_system.stack, login)
    yield made
    await made.aclose()


async def _try(system: System, login: str, password: str, *, address: str | None = None) -> httpx.Response:
    async with browser(system.stack, address=address) as client:
        return await client.post("/v1/sessions", json={"login": login, "password": password})


async def test_a_wrong_login_and_a_wrong_password_answer_alike(local_system: System, login: str) -> None:
    wrong_password = await _try(local_system, login, "wrong")
    wrong_login = await _try(local_system, f"nobody-{secrets.token_hex(3)}", "wrong")
    assert wrong_password.status_code == wrong_login.status_code == 401
    assert wrong_password.json() == wrong_login.json()
    assert wrong_password.json()["slug"] == "sign-in-failed"
    assert "set-cookie" not in wrong_password.headers


async def test_the_form_tells_a_failure_on_its_page(local_system: System, login: str) -> None:
    async with browser(local_system.stack) as client:
        failed = await client.post("/sign-in", data={"login": f'{login}"><script>', "password": "wrong"})
        assert failed.status_code == 401
        assert "账号或密码不正确" in failed.text
        assert "<script>" not in failed.text
        done = await client.post("/sign-in", data={"login": login, "password": PASSWORD})
        assert (done.status_code, done.headers["location"]) == (303, "/")
        assert (await client.get("/recordings")).status_code == 200


@pytest.mark.parametrize("known", [True, False])
async def test_ten_failures_lock_a_login_out_from_one_address_alone(
    local_system: System, login: str, known: bool
) -> None:
    name = login if known else f"nobody-{secrets.token_hex(3)}"
    statuses = [(await _try(local_system, name, "wrong", address="127.0.0.2")).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    locked = await _try(local_system, name, PASSWORD, address="127.0.0.2")
    assert (locked.status_code, locked.json()["slug"]) == (429, "too-many-failures")
    if known:
        assert (await _try(local_system, name, PASSWORD, address="127.0.0.3")).status_code == 201
        assert (await _try(local_system, name, PASSWORD)).status_code == 201
    spoofed = {"x-forwarded-for": "127.0.0.9"}
    async with browser(local_system.stack, address="127.0.0.2") as client:
        answer = await client.post("/v1/sessions", json={"login": name, "password": "wrong"}, headers=spoofed)
        assert answer.status_code == 429


async def test_a_lock_out_ends_after_its_time(local_system: System, login: str) -> None:
    statuses = [(await _try(local_system, login, "wrong", address="127.0.0.4")).status_code for _ in range(11)]
    assert statuses[-1] == 429
    local_system.stack.postgres.run_sql(
        "UPDATE api.sign_in_failures SET at = at - interval '16 minutes' WHERE address = '127.0.0.4'"
    )
    assert (await _try(local_system, login, PASSWORD, address="127.0.0.4")).status_code == 201


async def test_attempts_made_all_at_once_are_counted_too(local_system: System, login: str) -> None:
    answers = await asyncio.gather(*(_try(local_system, login, f"guess {n}", address="127.0.0.5") for n in range(14)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [401] * 10 + [429] * 4


async def test_a_success_is_no_failure(local_system: System, login: str) -> None:
    for _ in range(11):
        assert (await _try(local_system, login, PASSWORD, address="127.0.0.6")).status_code == 201


def _cookie(answer: httpx.Response) -> SimpleCookie:
    parsed: SimpleCookie = SimpleCookie()
    parsed.load(answer.headers["set-cookie"])
    return parsed


async def test_the_cookie_is_kept_from_scripts_and_other_sites(local_system: System, login: str) -> None:
    morsel = _cookie(await _try(local_system, login, PASSWORD))["qc_session"]
    assert (morsel["httponly"], morsel["samesite"].lower(), morsel["path"]) == (True, "lax", "/")
    assert not morsel["secure"]
    assert not morsel["domain"]
    assert 11.9 * 3600 < int(morsel["max-age"]) <= 12 * 3600
    assert len(morsel.value) >= 43


async def test_behind_https_the_cookie_is_secure(local_system: System, login: str) -> None:
    environment = local_system.stack.api_environment()
    prefix = "QUANCHENG_API_"
    given = {k.removeprefix(prefix).lower(): v for k, v in environment.items() if k.startswith(prefix)}
    app = create_app(Settings.model_validate(given | {"public_url": "https://zhifa.example"}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://zhifa.example") as client:
            answer = await client.post("/v1/sessions", json={"login": login, "password": PASSWORD})
            assert _cookie(answer)["qc_session"]["secure"] is True


async def test_the_token_is_kept_as_a_digest_alone(local_system: System, client: httpx.AsyncClient) -> None:
    token = client.cookies["qc_session"]
    dump = local_system.stack.postgres.run_sql("SELECT s::text FROM api.sessions s")
    assert token not in dump
    assert token.encode().hex() not in dump


# --- requests that another site could make ---

_CHANGES = [("DELETE", "/v1/sessions/current"), ("POST", "/sign-out"), ("POST", "/v1/recorders")]


@pytest.mark.parametrize(("method", "path"), _CHANGES)
async def test_nothing_changes_without_the_sessions_own_token(
    local_system: System, client: httpx.AsyncClient, unit: UUID, method: str, path: str
) -> None:
    other = await signed_in(local_system.stack, (await new_person(local_system.stack, unit, "officer"))[0])
    own = client.headers.pop("x-csrf-token")
    body = {"json": {"name": "x"}} if path == "/v1/recorders" else {}
    wrong = [{}, {"x-csrf-token": ""}, {"x-csrf-token": "wrong"}, {"x-csrf-token": other.headers["x-csrf-token"]}]
    wrong += [{"x-csrf-token": own, "origin": "https://evil.example"}, {"x-csrf-token": own, "origin": "null"}]
    wrong += [{"x-csrf-token": own, "sec-fetch-site": site} for site in ("cross-site", "same-site")]
    for headers in wrong:
        answer = await client.request(method, path, headers=headers, **body)  # type: ignore[arg-type]
        assert answer.status_code == 403, headers
        if path.startswith("/v1/"):
            assert answer.json()["slug"] == "request-forged"
    form = await client.request(method, path, data={"csrf": "wrong"})
    assert form.status_code in (403, 422)
    assert (await client.get("/v1/recordings")).status_code == 200  # still signed in
    await other.aclose()


async def test_the_sign_in_itself_is_refused_from_another_site(local_system: System, login: str) -> None:
    async with browser(local_system.stack) as client:
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            json_way = await client.post("/v1/sessions", json={"login": login, "password": PASSWORD}, headers=headers)
            form_way = await client.post("/sign-in", data={"login": login, "password": PASSWORD}, headers=headers)
            assert (json_way.status_code, form_way.status_code) == (403, 403)
        assert "qc_session" not in client.cookies
        own = {"origin": local_system.stack.api_url, "sec-fetch-site": "same-origin"}
        answer = await client.post("/v1/sessions", json={"login": login, "password": PASSWORD}, headers=own)
        assert answer.status_code == 201


async def test_a_token_without_its_session_is_worth_nothing(local_system: System, client: httpx.AsyncClient) -> None:
    async with browser(local_system.stack) as stranger:
        headers = {"x-csrf-token": client.headers["x-csrf-token"]}
        answer = await stranger.delete("/v1/sessions/current", headers=headers)
        assert (answer.status_code, answer.json()["slug"]) == (401, "not-signed-in")


# --- the end of a session ---


@pytest.mark.parametrize("way", ["json", "form"])
async def test_signing_out_ends_the_session(local_system: System, client: httpx.AsyncClient, way: str) -> None:
    token = client.cookies["qc_session"]
    if way == "json":
        done = await client.delete("/v1/sessions/current")
        assert done.status_code == 204
    else:
        csrf = client.headers.pop("x-csrf-token")
        done = await client.post("/sign-out", data={"csrf": csrf})
        assert (done.status_code, done.headers["location"]) == (303, "/sign-in")
    assert 'qc_session=""' in done.headers["set-cookie"]
    async with browser(local_system.stack) as again:
        answer = await again.get("/v1/recordings", headers={"cookie": f"qc_session={token}"})
        assert (answer.status_code, answer.json()["slug"]) == (401, "not-signed-in")


async def test_an_expired_session_is_none(local_system: System, client: httpx.AsyncClient, login: str) -> None:
    local_system.stack.postgres.run_sql(
        "UPDATE api.sessions SET expires_at = now() - interval '1 second' "
        f"WHERE person_id = (SELECT id FROM api.people WHERE login = '{login}')"
    )
    assert (await client.get("/v1/recordings")).status_code == 401
    assert (await client.get("/recordings")).status_code == 303


@pytest.mark.parametrize("token", ["", "x", "é", "a" * 5000, "%00", '"', "null"])
async def test_a_made_up_session_is_none(local_system: System, token: str) -> None:
    async with browser(local_system.stack) as client:
        answer = await client.get("/v1/recordings", headers={b"cookie": f"qc_session={token}".encode()})
        assert (answer.status_code, answer.json()["slug"]) == (401, "not-signed-in")
