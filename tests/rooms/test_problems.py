"""Whatever is sent, the answer is of the contract: a problem for programs, a page for people, never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.api.app import create_app as create_api
from services.api.recordings.doors.simple import takes_bytes
from services.api.settings import Settings as ApiSettings
from services.vault.app import create_app as create_vault
from services.vault.contract import wire
from services.vault.contract.channel import CHANNEL_SERVICE, CHANNEL_TERMINAL, RequestSigner
from tests.rooms import raw
from tests.rooms.garbage import JSON_BODIES, Complaints, Route, not_a_page, not_a_problem, routes_of
from tests.rooms.houses import Houses
from tests.rooms.people import browser, service_key
from tests.rooms.vaults import vault_settings
from tests.system import System

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
NOWHERE = "019ab2c0-0000-7000-8000-000000000000"
SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
}


def _api_routes(system: System) -> list[Route]:
    environment = system.stack.api_environment()
    prefix = "QUANCHENG_API_"
    given = {k.removeprefix(prefix).lower(): v for k, v in environment.items() if k.startswith(prefix)}
    return routes_of(create_api(ApiSettings.model_validate(given)))


def _vault_routes(system: System) -> list[Route]:
    return routes_of(create_vault(vault_settings(system.stack)))


def _is_page(path: str) -> bool:
    return not path.startswith(("/v1/", "/healthz", "/static"))


async def _ask(
    client: httpx.AsyncClient, complaints: Complaints, method: str, path: str, *, pages: bool = True, **more: Any
) -> None:
    where = f"{method} {path[:90]} {str(more)[:60]}"
    try:
        answer = await client.request(method, path, **more)
    except httpx.InvalidURL:
        return
    except httpx.TransportError as error:
        complaints.found.append(f"{where}: {error!r}")
        return
    page = pages and not path.startswith(("/v1/", "/healthz", "/static"))
    complaints.check(where, answer.status_code, answer.headers, answer.content, page=page)


async def test_the_openapi_document_names_every_json_route(local_system: System) -> None:
    async with browser(local_system.stack) as client:
        document = (await client.get("/v1/openapi.json")).json()
    named = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    told = {(r.method, r.path.replace(":path}", "}")) for r in _api_routes(local_system)}
    routes = {(method, path) for method, path in told if path.startswith("/v1/")}
    assert named == routes


async def test_without_a_session_every_api_route_refuses_in_form(local_system: System) -> None:
    complaints = Complaints()
    async with browser(local_system.stack) as client:
        for route in _api_routes(local_system):
            await _ask(client, complaints, route.method, route.filled())
            for path in route.garbled():
                await _ask(client, complaints, route.method, path)
            if route.method in ("POST", "PUT", "DELETE"):
                for body in JSON_BODIES.values():
                    await _ask(client, complaints, route.method, route.filled(), content=body, headers=JSON)
    assert not complaints.found, "\n".join(complaints.found)


@pytest.mark.parametrize("person", ["supervisor", "administrator"])
async def test_signed_in_every_api_route_refuses_garbage_in_form(houses: Houses, person: str) -> None:
    complaints, client = Complaints(), houses.here.clients[person]
    own = houses.here.closed["first"]
    for route in _api_routes(houses.system):
        if route.path in ("/sign-out", "/v1/sessions/current", "/healthz"):
            continue
        for path in (route.filled(), route.path.replace("{recording}", str(own)).replace("{recorder}", str(uuid7()))):
            if "{" in path:
                continue
            for body in JSON_BODIES.values() if route.method != "GET" else (b"",):
                await _ask(client, complaints, route.method, path, content=body, headers=JSON)
            for query in ("cursor=%00", "limit=%00", "after=%00", "state=%00", "_HLS_msn=" + "9" * 30, "x=1"):
                await _ask(client, complaints, route.method, f"{path}?{query}")
    assert not complaints.found, "\n".join(complaints.found)


async def test_a_terminals_garbage_is_refused_in_form(houses: Houses) -> None:
    complaints, terminal = Complaints(), houses.here.terminals["first"]
    signer = RequestSigner(terminal.key, CHANNEL_TERMINAL)
    own = houses.here.open["first"]
    async with httpx.AsyncClient(base_url=terminal.stack.api_url, auth=signer, trust_env=False) as client:
        for route in _api_routes(houses.system):
            if route.path.startswith("/v1/recordings/{recording}") and route.method in ("PUT", "POST"):
                for recording in (own, uuid7()):
                    path = route.path.replace("{recording}", str(recording))
                    for body in JSON_BODIES.values():
                        await _ask(client, complaints, route.method, path, content=body, headers=JSON)
    assert not complaints.found, "\n".join(complaints.found)


async def test_the_vault_refuses_its_callers_garbage_in_form(system: System) -> None:
    complaints = Complaints()
    signer = RequestSigner(service_key(system.stack), CHANNEL_SERVICE)
    good_key = {"recorder": str(uuid7()), "public_key": "!" * 44}
    short = {"recorder": str(uuid7()), "public_key": "AAAA" * 11}
    more: list[tuple[str, Any]] = [
        ("/v1/enrolments", good_key),
        ("/v1/enrolments", short),
        ("/v1/log/statements", {"items": []}),
        ("/v1/log/statements", _append("viewing", {})),
        ("/v1/log/statements", _append("export", {"kind": "key", "act": 1, "at": 2})),
    ]
    full = {"recording": "a", "person": "b", "purpose": "c", "until": "d"}
    nan = json.dumps(_append("viewing", full | {"x": float("nan")}))
    deep = nan.replace("NaN", '{"a":' * 900 + "1" + "}" * 900)
    async with httpx.AsyncClient(base_url=system.stack.vault_url, auth=signer, trust_env=False, timeout=30) as client:
        for route in _vault_routes(system):
            for path in (route.filled(), *route.garbled()):
                await _vault_ask(client, complaints, route.method, path)
            if route.method != "GET":
                for body in JSON_BODIES.values():
                    await _vault_ask(client, complaints, route.method, route.filled(), content=body, headers=JSON)
        for path, message in more:
            await _vault_ask(client, complaints, "POST", path, json=message)
        for body in (nan.encode(), deep.encode()):
            await _vault_ask(client, complaints, "POST", "/v1/log/statements", content=body, headers=JSON)
        for fields in (full | {"note": "a\0b"}, full | {"note": "\ud800"}):
            content = json.dumps(_append("viewing", fields)).encode()
            await _vault_ask(client, complaints, "POST", "/v1/log/statements", content=content, headers=JSON)
        for path in ("tile/0", "tile/entries", "tile/0/000/x", "tile/..%2f..", "tile//0", "tile/0/000%00", ""):
            path = f"/log/{path}"
            await _vault_ask(client, complaints, "GET", path)
    assert not complaints.found, "\n".join(complaints.found)


def _append(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"items": [{"act": str(uuid7()), "kind": kind, "fields": fields}]}


async def _vault_ask(client: httpx.AsyncClient, complaints: Complaints, method: str, path: str, **more: Any) -> None:
    await _ask(client, complaints, method, path, pages=False, **more)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-23T17:34:40"])
async def test_a_time_beyond_the_calendar_is_refused(houses: Houses, moment: str) -> None:
    terminal, complaints = houses.here.terminals["first"], Complaints()
    signer = RequestSigner(terminal.key, CHANNEL_TERMINAL)
    async with httpx.AsyncClient(base_url=terminal.stack.api_url, auth=signer, trust_env=False) as client:
        await _ask(client, complaints, "PUT", f"/v1/recordings/{uuid7()}", json={"started_at": moment})
    assert not complaints.found, "\n".join(complaints.found)


async def test_unknown_addresses_and_methods_are_problems(system: System) -> None:
    complaints = Complaints()
    for url in (system.stack.api_url, system.stack.vault_url):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            for path in ("/v1", "/v1/", "/v1/nothing", "/v2", "/nothing", "/v1/recordings/x/y/z/%00", "/store/x"):
                for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"):
                    answer = await client.request(method, path)
                    if method == "HEAD":
                        assert 400 <= answer.status_code < 500
                    else:
                        where = f"{method} {url}{path}"
                        complaints.check(where, answer.status_code, answer.headers, answer.content)
    assert not complaints.found, "\n".join(complaints.found)


async def test_head_of_what_can_be_read_is_no_fault(system: System, local_system: System) -> None:
    for url, routes in (
        (system.stack.api_url, _api_routes(system)),
        (system.stack.vault_url, _vault_routes(system)),
    ):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            for route in routes:
                if route.method == "GET":
                    assert (await client.head(route.filled())).status_code < 500


@pytest.mark.parametrize("service", ["api", "vault"])
async def test_a_body_over_its_limit_is_refused_before_it_is_read(local_system: System, service: str) -> None:
    stack = local_system.stack
    url, routes = (
        (stack.api_url, _api_routes(local_system))
        if service == "api"
        else (stack.vault_url, _vault_routes(local_system))
    )
    for route in routes:
        # A push is as long as it is, and so is a piece of an upload; a single file has the limit of its kind.
        endless = route.path.startswith("/v1/push/") or (route.method == "POST" and "/uploads/" in route.path)
        endless = endless or takes_bytes(route.method, route.filled())
        if route.method in ("POST", "PUT", "DELETE") and (service == "vault" or not endless):
            headers = JSON | {"content-length": str(9 * wire.MAX_MESSAGE_BYTES)}
            answer = await raw.send(route.method, url + route.filled(), headers, seconds=3)
            assert answer.status == 413, route
            page = service == "api" and _is_page(route.path)
            assert (not_a_page if page else not_a_problem)(413, answer.headers, answer.body) is None
            if service == "api":
                assert SAFE.items() <= answer.headers.items()


@pytest.mark.parametrize(
    ("service", "path", "size"),
    [
        ("api", "/v1/sessions", 64 * 1024 + 1),
        ("api", "/v1/enrolments", 64 * 1024 + 1),
        ("api", "/sign-in", 64 * 1024 + 1),
        ("api", "/sign-out", 64 * 1024 + 1),
        ("api", f"/v1/recordings/{NOWHERE}/exchange", wire.MAX_MESSAGE_BYTES + 1),
        ("vault", "/v1/enrolments", wire.MAX_MESSAGE_BYTES + 1),
        ("vault", f"/v1/recordings/{NOWHERE}/close", 2 * wire.MAX_CLOSING_BYTES + 1),
    ],
)
async def test_a_body_without_a_length_is_refused_at_its_limit(
    local_system: System, service: str, path: str, size: int
) -> None:
    url = local_system.stack.api_url if service == "api" else local_system.stack.vault_url
    kind = FORM if path.startswith("/sign") else JSON
    body = raw.chunked(b" " * size, 60_000)
    answer = await raw.send("POST", url + path, kind | {"transfer-encoding": "chunked"}, body)
    if path == "/sign-out":
        assert answer.status in (303, 413)  # without a session nobody looks at the form
    else:
        assert answer.status == 413
        page = path.startswith("/sign")
        assert (not_a_page if page else not_a_problem)(413, answer.headers, answer.body) is None


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "0x10", "+5", "9" * 30, "1, 2"])
async def test_a_length_that_is_none_is_refused(local_system: System, length: str) -> None:
    for url in (local_system.stack.api_url, local_system.stack.vault_url):
        answer = await raw.send("POST", f"{url}/v1/enrolments", JSON | {"content-length": length}, seconds=3)
        assert answer.status in (400, 413)


PAGES: dict[str, Callable[[Houses], tuple[str, str, int]]] = {
    "what is not there": lambda h: ("GET", f"/recordings/{uuid7()}", 404),
    "what may not be seen": lambda h: ("GET", f"/recordings/{h.there.closed['first']}", 404),
    "a bad id": lambda h: ("GET", "/recordings/not-an-id", 422),
    "a bad place": lambda h: ("GET", f"/recordings/{h.here.closed['first']}/segments?after=x", 422),
    "no such receipt": lambda h: ("GET", f"/recordings/{h.here.closed['first']}/receipts/1/{'0' * 64}", 404),
    "a bad state": lambda h: ("GET", "/recordings?state=lost", 422),
    "a wrong method": lambda h: ("PUT", "/recordings", 405),
    "a wrong method for signing in": lambda h: ("DELETE", "/sign-in", 405),
    "an unknown place below": lambda h: ("GET", f"/recordings/{uuid7()}/nothing", 404),
    "an empty sign-in": lambda h: ("POST", "/sign-in", 422),
}


@pytest.mark.parametrize("case", PAGES)
async def test_the_console_tells_an_error_on_a_page(houses: Houses, case: str) -> None:
    method, path, status = PAGES[case](houses)
    client = houses.here.clients["first"]
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert not_a_page(status, answer.headers, answer.content) is None


async def test_an_unknown_address_is_a_page_for_a_browser(houses: Houses) -> None:
    client, accept = houses.here.clients["first"], {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/nothing", "/static/nothing.css"):
        for_people, for_programs = await client.get(path, headers=accept), await client.get(path)
        assert not_a_page(404, for_people.headers, for_people.content) is None
        assert not_a_problem(404, for_programs.headers, for_programs.content) is None


async def test_without_a_session_a_page_leads_to_the_sign_in(local_system: System) -> None:
    async with browser(local_system.stack) as client:
        for path in ("/recordings", f"/recordings/{uuid7()}", f"/recordings/{uuid7()}/segments"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
            part = await client.get(path, headers={"hx-request": "true"})
            assert (part.status_code, part.headers["hx-redirect"]) == (401, "/sign-in")
            assert not_a_problem(401, part.headers, part.content) is None


async def test_every_answer_carries_what_keeps_a_browser_safe(houses: Houses) -> None:
    client = houses.here.clients["first"]
    paths = [route.filled() for route in _api_routes(houses.system) if route.method == "GET"]
    paths += ["/nothing", "/v1/nothing", "/static/console.css", "/static/..%2f..%2fapp.py", "/recordings/x"]
    for path in paths:
        answer = await client.get(path)
        assert SAFE.items() <= dict(answer.headers).items(), path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    "target",
    [
        "/static/../app.py",
        "/static/../../settings.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/settings.py",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/vendor/../../routes.py",
        "/static/..%5c..%5croutes.py",
        "/static/%00",
        "/static/console.css%00",
        "/static/",
        "/static/vendor",
        "/static/" + "a" * 300,
        "/static/" + "a/" * 2000,
        "/static/%ff%fe",
    ],
)
async def test_nothing_but_static_files_is_served(local_system: System, target: str) -> None:
    answer = await raw.send("GET", local_system.stack.api_url, target=target)
    assert answer.status == 404
    assert not_a_problem(404, answer.headers, answer.body) is None
