"""The terminal's side of the api: signed requests, and one small tree of what can go wrong with them.

Every call may be repeated: the ids that make it idempotent are in its message.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ValidationError

from services.vault.contract import wire
from services.vault.contract.channel import CHANNEL_TERMINAL, RequestSigner

_T = TypeVar("_T", bound=BaseModel)

CONNECT_SECONDS = 3.0
IDLE_SECONDS = 10.0
CLOSE_SECONDS = 150.0
"""Closing waits for the manifest's log entry."""
HEARTBEAT_SECONDS = 4.0
_CLOCK_TOLERANCE = timedelta(seconds=30)
_MAX_RETRY_AFTER = 60.0


class CallFailed(Exception):
    """The call brought no result; `retry_after` is the seconds the server asked for, else 0."""

    retry_after = 0.0


class Unreachable(CallFailed):
    """No answer that can be understood: it may or may not have happened."""


class Refused(CallFailed):
    """The api answered with a problem."""

    def __init__(self, problem: wire.Problem, retry_after: float):
        super().__init__(f"{problem.title}（{problem.slug}）")
        self.problem, self.retry_after = problem, retry_after


class Backoff:
    """Exponential with full jitter, 0.2 s to 10 s."""

    BASE, CAP = 0.2, 10.0

    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait after one more failure."""
        ceiling = min(self.CAP, self.BASE * 2 ** min(self._failures, 16))
        self._failures += 1
        return max(at_least, random.uniform(0.0, ceiling))  # noqa: S311 - jitter, not a secret


class Api:
    """A connection to one api, signed with the terminal's key.

    Where a signature was refused and the clocks are more than 30 s apart, signatures follow the server's;
    nothing else does."""

    def __init__(self, url: str, key: Ed25519PrivateKey):
        self._signer = RequestSigner(key, CHANNEL_TERMINAL)
        self.server_time = datetime.now(UTC)
        """The server's `Date` when it last answered."""
        self._http = httpx.AsyncClient(
            base_url=url,
            auth=self._signer,
            timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def open(self, recording: UUID, started_at: datetime, file: dict[str, Any] | None = None) -> None:
        """Idempotent: says that this recording exists, when it began, and which finished file it is."""
        about = {"started_at": wire.rfc3339(started_at)} | ({"taken_over": file} if file else {})
        await self._send("PUT", f"/v1/recordings/{recording}", about)

    async def exchange(self, recording: UUID, request: wire.ExchangeRequest) -> wire.ExchangeResult:
        answer = await self._send("POST", f"/v1/recordings/{recording}/exchange", request.model_dump(mode="json"))
        return _parsed(wire.ExchangeResult, answer)

    async def close(self, recording: UUID, closing: wire.Envelope) -> wire.ClosedRecording:
        body = wire.CloseRecording(closing=closing).model_dump(mode="json")
        answer = await self._send("POST", f"/v1/recordings/{recording}/close", body, CLOSE_SECONDS)
        return _parsed(wire.ClosedRecording, answer)

    async def manifest(self, recording: UUID, number: int) -> wire.ClosedRecording | None:
        """None where the recording has no manifest of this number."""
        try:
            answer = await self._send("GET", f"/v1/recordings/{recording}/manifests/{number}", None, CLOSE_SECONDS)
        except Refused as error:
            if error.problem.slug == "no-such-manifest":
                return None
            raise
        return _parsed(wire.ClosedRecording, answer)

    async def heartbeat(self, told: dict[str, Any]) -> None:
        await self._send("PUT", "/v1/recorders/self/heartbeat", told, HEARTBEAT_SECONDS)

    async def keys(self) -> wire.VaultKeys:
        """The vault's own keys. Nothing is believed for being told here: the successions in it are signed."""
        return _parsed(wire.VaultKeys, await self._send("GET", "/v1/keys", None))

    async def _send(
        self, method: str, path: str, body: object | None, seconds: float = IDLE_SECONDS
    ) -> httpx.Response:
        try:
            response = await self._http.request(
                method,
                path,
                content=None if body is None else wire.canonical(body),
                headers={} if body is None else {"content-type": "application/json"},
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
            )
        except httpx.HTTPError as error:
            raise Unreachable(f"连接不上服务器（{type(error).__name__}）") from error
        self._notice_clock(response)
        if response.is_success:
            return response
        raise refusal(response)

    def _notice_clock(self, response: httpx.Response) -> None:
        try:
            self.server_time = parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            self.server_time = datetime.now(UTC) + self._signer.offset
            return
        ahead = self.server_time - datetime.now(UTC)
        if response.status_code == 401 and abs(ahead - self._signer.offset) > _CLOCK_TOLERANCE:
            self._signer.offset = ahead


def refusal(response: httpx.Response) -> CallFailed:
    """The error that an answer other than success stands for."""
    wait = _retry_after(response)
    try:
        return Refused(wire.Problem.model_validate_json(response.content), wait)
    except ValidationError:
        error = Unreachable(f"服务器回答 {response.status_code}")
        error.retry_after = wait
        return error


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    if text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER)
    try:
        until = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except ValueError:
        return 0.0
    return min(max(until, 0.0), _MAX_RETRY_AFTER)


def _parsed(model: type[_T], response: httpx.Response) -> _T:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise Unreachable("服务器的回答不合约定") from error
