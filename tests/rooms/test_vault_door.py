"""The vault opens to its own service alone, verb by verb."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils.compat import uuid7

from services.vault.app import create_app
from services.vault.contract.channel import CHANNEL_SERVICE, CHANNEL_TERMINAL, RequestSigner
from services.vault.routes import API_VERBS, Caller
from tests.rooms.garbage import Route, not_a_problem, routes_of
from tests.rooms.people import service_key
from tests.rooms.vaults import published, vault_settings
from tests.system import System

OPEN = ("/healthz", "/v1/keys", "/log/checkpoint", "/log/tile/{path:path}")
Change = Callable[[httpx.Request, System], None]


def _private(system: System) -> list[Route]:
    found = [route for route in routes_of(create_app(vault_settings(system.stack))) if route.path not in OPEN]
    assert len(found) == len(API_VERBS)
    return found


def _unsigned(request: httpx.Request, system: System) -> None:
    for name in ("signature", "signature-input", "content-digest"):
        request.headers.pop(name, None)


def _sign_again(key: Ed25519PrivateKey, tag: str, offset: timedelta = timedelta()) -> Change:
    def change(request: httpx.Request, system: System) -> None:
        _unsigned(request, system)
        signer = RequestSigner(key, tag)
        signer.offset = offset
        signer.sign(request)

    return change


def _own(tag: str, offset: timedelta = timedelta()) -> Change:
    def change(request: httpx.Request, system: System) -> None:
        _sign_again(service_key(system.stack), tag, offset)(request, system)

    return change


def _header(name: str, value: str) -> Change:
    def change(request: httpx.Request, system: System) -> None:
        request.headers[name] = value

    return change


def _body(request: httpx.Request, system: System) -> None:
    content = b'{"altered": true}'
    request.stream = httpx.ByteStream(content)
    request.headers["content-length"] = str(len(content))
    request.headers["content-type"] = "application/json"


def _body_and_digest(request: httpx.Request, system: System) -> None:
    _body(request, system)
    digest = base64.b64encode(hashlib.sha256(b'{"altered": true}').digest()).decode()
    request.headers["content-digest"] = f"sha-256=:{digest}:"


def _query(request: httpx.Request, system: System) -> None:
    request.url = request.url.copy_with(query=b"x=1")


def _input(change: Callable[[str], str]) -> Change:
    def alter(request: httpx.Request, system: System) -> None:
        request.headers["signature-input"] = change(request.headers["signature-input"])

    return alter


REFUSED: dict[str, Change] = {
    "no signature": _unsigned,
    "an unknown key": _sign_again(Ed25519PrivateKey.generate(), CHANNEL_SERVICE),
    "the terminals' channel": _own(CHANNEL_TERMINAL),
    "no channel known": _own("quancheng"),
    "an altered body": _body,
    "an altered body with its digest": _body_and_digest,
    "an altered query": _query,
    "another host": _header("host", "vault.example"),
    "too old": _own(CHANNEL_SERVICE, -timedelta(minutes=6, seconds=5)),
    "of the future": _own(CHANNEL_SERVICE, timedelta(seconds=65)),
    "an altered date": _input(lambda text: text.replace(";created=1", ";created=2")),
    "another key named": _input(lambda text: text.replace('keyid="', 'keyid="0')),
    "less covered": _input(lambda text: text.replace('"@path"', '"@target-uri"')),
    "nothing covered": _input(lambda text: "qc=()" + text.partition(")")[2]),
    "no parameters": _input(lambda text: text.partition(";")[0]),
    "garbage for a signature": _header("signature", "qc=:AAAA:"),
    "an empty signature": _header("signature", ""),
    "no structured field": _header("signature-input", "((((;;,==:"),
    "another label": _header("signature", "other=:AAAA:"),
    "a list for a signature": _header("signature", "qc=(1 2 3)"),
    "a date that is none": _input(lambda text: text.replace(";created=", ";created=9999999999999;was=")),
    "an unknown algorithm": _input(lambda text: text.replace('alg="ed25519"', 'alg="none"')),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_no_private_verb_answers_without_a_good_signature(local_system: System, case: str) -> None:
    url, signer = local_system.stack.vault_url, RequestSigner(service_key(local_system.stack), CHANNEL_SERVICE)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as sending:
        for route in _private(local_system):
            content = b"{}" if route.method != "GET" else None
            headers = {"content-type": "application/json"} if content else {}
            request = sending.build_request(route.method, route.filled(), content=content, headers=headers)
            signer.sign(request)
            REFUSED[case](request, local_system)
            answer = await sending.send(request)
            assert (answer.status_code, answer.json()["slug"]) == (401, "not-authenticated"), route
            assert not_a_problem(401, answer.headers, answer.content) is None


async def test_a_signature_is_for_one_address(local_system: System) -> None:
    url, signer = local_system.stack.vault_url, RequestSigner(service_key(local_system.stack), CHANNEL_SERVICE)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as sending:
        one, other = (sending.build_request("GET", f"/v1/log/proofs/{uuid7()}") for _ in range(2))
        signer.sign(one)
        other.headers.update({name: one.headers[name] for name in ("signature", "signature-input")})
        assert (await sending.send(one)).status_code == 404
        assert (await sending.send(other)).status_code == 401
        deleted = sending.build_request("DELETE", one.url)
        deleted.headers.update({name: one.headers[name] for name in ("signature", "signature-input")})
        assert (await sending.send(deleted)).status_code == 405


@pytest.mark.parametrize("offset", [timedelta(minutes=-5), timedelta(seconds=50)])
async def test_clocks_may_differ_a_little(local_system: System, offset: timedelta) -> None:
    signer = RequestSigner(service_key(local_system.stack), CHANNEL_SERVICE)
    signer.offset = offset
    async with httpx.AsyncClient(base_url=local_system.stack.vault_url, auth=signer, trust_env=False) as sending:
        assert (await sending.get("/v1/identity")).status_code == 200


async def test_what_is_public_is_public_and_nothing_else(local_system: System) -> None:
    published(local_system)
    async with httpx.AsyncClient(base_url=local_system.stack.vault_url, trust_env=False) as sending:
        for path in ("/healthz", "/log/checkpoint"):
            assert (await sending.get(path)).status_code == 200
        for path in ("/openapi.json", "/docs", "/redoc", "/metrics", "/", "/v1", "/store", "/log"):
            assert (await sending.get(path, follow_redirects=True)).status_code in (403, 404), path


@pytest.fixture
async def narrow(local_system: System) -> AsyncIterator[tuple[httpx.AsyncClient, list[Route]]]:
    """A vault in this process whose caller may use one verb."""
    app = create_app(vault_settings(local_system.stack))
    caller: Caller
    ((identity, caller),) = app.state.callers.items()
    app.state.callers = {identity: replace(caller, verbs=frozenset({"identity"}))}
    signer = RequestSigner(service_key(local_system.stack), CHANNEL_SERVICE)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://vault.test", auth=signer) as sending,
    ):
        yield sending, routes_of(app)


async def test_a_caller_uses_the_verbs_it_was_given(narrow: tuple[httpx.AsyncClient, list[Route]]) -> None:
    sending, routes = narrow
    assert (await sending.get("/v1/identity")).status_code == 200
    for route in routes:
        if route.path not in (*OPEN, "/v1/identity"):
            content = b"{}" if route.method != "GET" else None
            headers = {"content-type": "application/json"} if content else {}
            answer = await sending.request(route.method, route.filled(), content=content, headers=headers)
            assert (answer.status_code, answer.json()["slug"]) == (403, "verb-not-allowed"), route
