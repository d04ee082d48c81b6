"""Units with their people and recorders, and terminals that seal what a test gives them."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from uuid_utils.compat import uuid7

from deploy.local.stack import Stack
from services.api.database import sessions_of
from services.api.identity import service as identity
from services.api.identity.principal import Role
from services.api.recorders import service as recorders
from services.terminal.api import Api
from services.terminal.closing import root_of, signed_closing
from services.vault.contract import wire
from services.vault.contract.channel import raw_public

PASSWORD = "一个只在测试里用的口令"


@asynccontextmanager
async def api_database(stack: Stack) -> AsyncIterator[AsyncSession]:
    """A transaction by the api's own role."""
    engine = create_async_engine(stack.postgres.dsn("quancheng_api"))
    try:
        async with sessions_of(engine).begin() as db:
            yield db
    finally:
        await engine.dispose()


async def new_person(stack: Stack, unit: UUID, role: Role) -> tuple[str, UUID]:
    """A login nobody else has, and the person's id; the password is PASSWORD."""
    login = f"{role}-{secrets.token_hex(4)}"
    async with api_database(stack) as db:
        return login, await identity.add_person(db, unit, login, f"测试{login[-4:]}", role, PASSWORD)


async def new_unit(stack: Stack, name: str) -> UUID:
    async with api_database(stack) as db:
        return await identity.add_unit(db, name)


async def new_code(stack: Stack, unit: UUID, recorder: UUID) -> str:
    async with api_database(stack) as db:
        return (await recorders.issue_code(db, unit, recorder))[0]


async def new_recorder(stack: Stack, unit: UUID, officer: UUID | None) -> UUID:
    async with api_database(stack) as db:
        return (await recorders.register(db, unit, f"记录仪 {secrets.token_hex(3)}", officer)).id


def browser(stack: Stack, *, address: str | None = None) -> httpx.AsyncClient:
    """A client that keeps cookies and follows no redirect; `address` is where it seems to sit."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(base_url=stack.api_url, transport=transport, timeout=30, trust_env=False)


async def signed_in(stack: Stack, login: str, password: str = PASSWORD) -> httpx.AsyncClient:
    client = browser(stack)
    answer = await client.post("/v1/sessions", json={"login": login, "password": password})
    assert answer.status_code == 201, answer.text
    client.headers["x-csrf-token"] = answer.json()["csrf"]
    return client


def enrolment(key: Ed25519PrivateKey, code: str, **changes: str) -> dict[str, str]:
    proof = key.sign(b"quancheng-enrolment-v1\n" + code.encode())
    message = {
        "code": code,
        "public_key": base64.b64encode(raw_public(key)).decode(),
        "proof": base64.b64encode(proof).decode(),
        "model": "测试终端",
    }
    return message | changes


@dataclass
class Terminal:
    """A terminal that seals the bytes it is given by the six steps."""

    stack: Stack
    recorder: UUID
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    async def enrol(self, unit: UUID) -> None:
        code = await new_code(self.stack, unit, self.recorder)
        async with browser(self.stack) as client:
            answer = await client.post("/v1/enrolments", json=enrolment(self.key, code))
        assert answer.status_code == 201, answer.text

    async def record(self, segments: list[bytes], *, close: bool) -> UUID:
        """The id of a recording with these segments, the first of them taken as the init segment."""
        recording, began = uuid7(), datetime.now(UTC)
        asks = [ask(n, data, began) for n, data in enumerate(segments)]
        async with Api(self.stack.api_url, self.key) as api, httpx.AsyncClient(trust_env=False) as store:
            await api.open(recording, began)
            await _seal(api, store, recording, asks, segments)
            if close:
                await api.close(recording, self._closing(recording, asks, began))
        return recording

    async def add(self, recording: UUID, segments: dict[int, bytes]) -> None:
        """Seal more, by sequence, into a recording that is open."""
        asks = [ask(n, data, datetime.now(UTC)) for n, data in segments.items()]
        async with Api(self.stack.api_url, self.key) as api, httpx.AsyncClient(trust_env=False) as store:
            await _seal(api, store, recording, asks, list(segments.values()))

    def _closing(self, recording: UUID, asks: list[wire.SegmentAsk], began: datetime) -> wire.Envelope:
        payload = {
            "recording": str(recording),
            "count": len(asks),
            "root": root_of((a.sequence, a.sha256, a.size) for a in asks),
            "missing": [],
            "started_at": wire.rfc3339(began),
            "ended_at": wire.rfc3339(began + timedelta(seconds=len(asks))),
            "interrupted": False,
        }
        return signed_closing(payload, self.key)


async def _seal(
    api: Api, store: httpx.AsyncClient, recording: UUID, asks: list[wire.SegmentAsk], segments: list[bytes]
) -> None:
    asked = await api.exchange(recording, wire.ExchangeRequest(asks=asks))
    assert len(asked.tickets) == len(segments), asked.problems
    for ticket, data in zip(asked.tickets, segments, strict=True):
        put = await store.put(ticket.url, content=data, headers=ticket.headers)
        assert put.status_code == 200, put.text
    commits = [wire.SegmentName(sequence=a.sequence, sha256=a.sha256) for a in asks]
    done = await api.exchange(recording, wire.ExchangeRequest(commits=commits))
    assert len(done.sealed) == len(segments), done.problems


def ask(sequence: int, data: bytes, began: datetime) -> wire.SegmentAsk:
    return wire.SegmentAsk(
        sequence=sequence,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        media="media" if sequence else "init",
        started_at=began + timedelta(seconds=sequence),
        duration_ms=1000,
        monotonic_ms=sequence * 1000,
    )


async def new_terminal(stack: Stack, unit: UUID, officer: UUID | None) -> Terminal:
    terminal = Terminal(stack, await new_recorder(stack, unit, officer))
    await terminal.enrol(unit)
    return terminal


def service_key(stack: Stack) -> Ed25519PrivateKey:
    """The api's own key to the vault."""
    pem = (stack.data / "secrets" / "api-service.pem").read_bytes()
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key
