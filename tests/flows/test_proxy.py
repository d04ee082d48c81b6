"""The proxy of docker-compose.yml, a real Caddy with the Caddyfile as it is: what it lets through, and nothing else.

The names of the compose file are two addresses of the loopback, so that the store has its own on port 80 inside and
on 443 outside, as it has there; certificates come from Caddy's own authority.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import re
import secrets as random
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from deploy import secrets
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from services.vault.contract import wire
from services.vault.contract.channel import CHANNEL_SERVICE, RequestSigner
from services.vault.contract.client import VaultClient
from tests.flows.test_compose import Hand, ready, rendered
from tests.rooms.sealed import ask, open_recording
from tests.system import free_ports

_OURS = ("S3_ENDPOINT", "S3_TICKETS_SECURE", "PUBLIC_URL")


class Behind(Hand):
    """The same services, reached by their names of the compose file."""

    def environment(self, name: str) -> dict[str, str]:
        told = super().environment(name)
        as_composed = {k: v for k, v in self.composed(name).items() if k.endswith(_OURS)}
        return told | as_composed


@dataclass
class Outside:
    """Somebody who reaches the proxy alone."""

    host: str
    store: str
    trust: ssl.SSLContext
    vault: VaultClient
    key: Ed25519PrivateKey

    def client(self, **more: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self.trust, trust_env=False, timeout=20, **more)

    def raw(self, method: str, host: str, target: str) -> int:
        """The status of a request whose target is sent as it is."""
        connection = http.client.HTTPSConnection(host, context=self.trust, timeout=20)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            connection.putheader("content-length", "0")
            connection.endheaders()
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
async def outside(
    caddy: Path, minio_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outside]:
    net = f"127.{random.randbelow(200) + 20}.{random.randbelow(250)}"
    host, store = f"{net}.1", f"{net}.2"
    tmp = tmp_path_factory.mktemp("proxy")
    folder = tmp / "secrets"
    assert secrets.main([str(folder), host, store]) == 0
    services = rendered(folder)["services"]
    key = load_pem_private_key((folder / "api-service.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    async with AsyncExitStack() as stack:
        postgres = Postgres(tmp / "database")
        await asyncio.to_thread(postgres.start)
        stack.callback(postgres.stop)
        hand = Behind(services, folder, tmp, postgres)
        argv = [str(minio_binary), "server", str(tmp / "data"), "--address", f"{store}:80"]
        minio = stack.enter_context(hand.running("minio", argv))
        await asyncio.to_thread(ready, f"http://{store}/minio/health/ready", minio)
        done = await asyncio.to_thread(
            subprocess.run, hand.command("setup"), env=hand.environment("setup"), cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        for name, port in (("vault", hand.vault), ("api", hand.api)):
            running = stack.enter_context(hand.running(name))
            await asyncio.to_thread(ready, f"http://127.0.0.1:{port}/healthz", running)
        stack.enter_context(hand.running("proxy", begun(caddy, tmp, hand, store, (host, store))))
        root = tmp / "proxy" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        trust = await trusted(root, host, hand)
        vault = await stack.enter_async_context(VaultClient(f"http://127.0.0.1:{hand.vault}", key))
        yield Outside(host, store, trust, vault, key)


def begun(caddy: Path, tmp: Path, hand: Hand, store: str, names: tuple[str, str]) -> list[str]:
    """The command that runs Caddy on the Caddyfile, with the containers' names and the authority put in."""
    text = (ROOT / "deploy" / "proxy" / "Caddyfile").read_text()
    for name, here in (
        ("vault:8101", f"127.0.0.1:{hand.vault}"),
        ("api:8100", f"127.0.0.1:{hand.api}"),
        ("minio:80", f"{store}:80"),
    ):
        assert name in text
        text = text.replace(name, here)
    own = f"local_certs\n\tskip_install_trust\n\tdefault_bind {' '.join(names)}\n\thttp_port {free_ports(1)}\n"
    assert "\tadmin off\n" in text
    (tmp / "Caddyfile").write_text(text.replace("\tadmin off\n", f"\tadmin off\n\t{own}"))
    given = {"QUANCHENG_HOST": names[0], "QUANCHENG_STORE_HOST": names[1]}
    given |= {"XDG_DATA_HOME": str(tmp / "proxy"), "XDG_CONFIG_HOME": str(tmp / "proxy"), "HOME": str(tmp)}
    return [
        "env",
        *(f"{name}={value}" for name, value in given.items()),
        *(str(caddy), "run", "--config", str(tmp / "Caddyfile"), "--adapter", "caddyfile"),
    ]


async def trusted(root: Path, host: str, hand: Hand) -> ssl.SSLContext:
    """Once it serves with a certificate of its authority's, and by no other."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.2)
            if root.exists():
                trust = ssl.create_default_context(cafile=str(root))
                try:
                    async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
                        await client.get(f"https://{host}/healthz")
                    return trust
                except httpx.HTTPError:
                    assert "Error" not in hand.log("proxy"), hand.log("proxy")


async def test_people_reach_the_console_by_https_and_are_told_to_stay_there(outside: Outside) -> None:
    async with outside.client(follow_redirects=True) as browser:
        page = await browser.get(f"https://{outside.host}/", headers={"accept": "text/html"})
        assert (page.status_code, page.url.path) == (200, "/sign-in")
        assert re.fullmatch(r"max-age=\d{7,}.*", page.headers["strict-transport-security"])
        assert "content-security-policy" in page.headers
    async with httpx.AsyncClient(trust_env=False) as stranger:  # trusts no such authority
        with pytest.raises(httpx.ConnectError):
            await stranger.get(f"https://{outside.host}/")


async def test_anyone_reads_the_log_and_nothing_else_of_the_vault(outside: Outside) -> None:
    await open_recording(outside.vault)  # something to publish
    async with outside.client() as client, asyncio.timeout(30):
        while (await client.get(f"https://{outside.host}/log/checkpoint")).status_code != 200:
            await asyncio.sleep(0.2)
    # Even with the api's own signature: what is not the log is the api's to answer, and it has no such doors.
    async with outside.client(auth=RequestSigner(outside.key, CHANNEL_SERVICE)) as client:
        for method, path in (
            ("GET", "/v1/identity"),
            ("GET", "/v1/alarms"),
            ("GET", "/v1/log/state"),
            ("POST", "/v1/log/statements"),
            ("POST", "/v1/enrolments"),
            ("GET", "/log/../v1/identity"),
            ("GET", "/store/x"),
        ):
            answer = await client.request(method, f"https://{outside.host}{path}")
            assert answer.status_code in (401, 403, 404, 405, 422), (path, answer.status_code)
    for target in ("/log/../v1/identity", "/log/%2e%2e/v1/identity", "/log//../../v1/identity", "//v1/identity"):
        status = await asyncio.to_thread(outside.raw, "GET", outside.host, target)
        assert status in (308, 400, 401, 403, 404), (target, status)


async def test_a_ticket_passes_to_the_store_and_what_it_puts_is_sealed(outside: Outside) -> None:
    recording, data = await open_recording(outside.vault), random.token_bytes(300_000)
    asked = ask(0, data)
    (ticket,) = (await outside.vault.exchange(recording, wire.ExchangeRequest(asks=[asked]))).tickets
    assert ticket.url.startswith(f"https://{outside.store}/quancheng-evidence/recordings/")
    async with outside.client() as holder:
        put = await holder.put(ticket.url, content=data, headers=ticket.headers)
        assert put.status_code == 200, put.text
        assert (await holder.put(ticket.url, content=data, headers=ticket.headers)).status_code == 412
        asking = {"origin": "https://elsewhere.example", "access-control-request-method": "PUT"}
        assert (await holder.options(ticket.url, headers=asking)).status_code in (200, 204)
        # Reading is not for holders: the store's own read ticket is refused at the proxy.
        name = wire.SegmentName(sequence=0, sha256=hashlib.sha256(data).hexdigest())
        (sealed,) = (await outside.vault.exchange(recording, wire.ExchangeRequest(commits=[name]))).sealed
        assert sealed.lock == "compliance"
        (read,) = (await outside.vault.read_tickets(recording, wire.ReadTicketsRequest(items=[name]))).tickets
        from_outside = read.url.replace("http://", "https://", 1)
        assert (await holder.get(from_outside, headers=read.headers)).status_code == 403
    async with httpx.AsyncClient(trust_env=False) as inside:
        assert (await inside.get(read.url, headers=read.headers)).content == data


async def test_nothing_else_of_the_store_is_reached_from_outside(outside: Outside) -> None:
    key = "/quancheng-evidence/recordings/x/0000000000-y"
    for method, target in (
        ("GET", "/"),
        ("GET", key),
        ("HEAD", key),
        ("DELETE", key),
        ("POST", key),
        ("GET", "/quancheng-evidence?list-type=2"),
        ("PUT", f"{key}?retention="),
        ("PUT", f"{key}?legal-hold="),
        ("PUT", f"{key}?uploadId=x&partNumber=1"),
        ("PUT", f"{key}?x-id=PutObject"),
        ("PUT", "/quancheng-evidence/statements/x"),
        ("PUT", "/quancheng-log/checkpoint"),
        ("PUT", "/quancheng-probe/x"),
        ("PUT", "/quancheng-evidence"),
        ("PUT", "/quancheng-evidence/recordings/../../quancheng-log/checkpoint"),
        ("PUT", "/quancheng-evidence/recordings/%2e%2e/%2e%2e/quancheng-log/checkpoint"),
        ("PUT", "/quancheng-evidence/recordings/..%2f..%2fquancheng-log/checkpoint"),
        ("POST", "/quancheng-evidence?delete="),
        ("GET", "/minio/health/live"),
        ("GET", "/minio/admin/v3/info"),
        ("GET", "/minio/v2/metrics/cluster"),
    ):
        status = await asyncio.to_thread(outside.raw, method, outside.store, target)
        assert status in (400, 403), (method, target, status)
