"""The api's side of the channel to the vault.

    async with VaultClient(url, service_key) as vault:
        result = await vault.exchange(recording, ExchangeRequest(asks=[...]))

Every verb is idempotent by an id in its message, so a caller that got no answer asks again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ValidationError

from services.vault.contract import wire
from services.vault.contract.channel import CHANNEL_SERVICE, RequestSigner

_T = TypeVar("_T", bound=BaseModel)
_CLOSING_SECONDS = 120.0
"""A day's recording is tens of thousands of segments to settle, list and sign."""
_APPEND_MESSAGES = 2
"""Messages of appends under way at once: one is sequenced while the next is on its way."""


class VaultRefused(Exception):
    """The vault answered with a problem: nothing was done, and `problem` says why."""

    def __init__(self, problem: wire.Problem):
        super().__init__(problem.slug)
        self.problem = problem


class VaultUnreachable(Exception):
    """No answer that can be understood came back: what was asked may or may not have happened. Ask again."""


class VaultClient:
    """A connection pool to one vault; `timeout` is seconds for a whole answer's head."""

    def __init__(self, url: str, key: Ed25519PrivateKey, *, timeout: float = 15.0):
        self._signer = RequestSigner(key, CHANNEL_SERVICE)
        self._http = httpx.AsyncClient(
            base_url=url,
            auth=self._signer,
            timeout=httpx.Timeout(timeout, connect=3.0),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            trust_env=False,
        )
        self._appends: deque[tuple[UUID, str, asyncio.Future[wire.Appended]]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        for _, _, waiting in self._appends:
            _settle(waiting, VaultUnreachable("the client was closed"))
        await self._http.aclose()

    async def identity(self) -> wire.VaultIdentity:
        return await self._call(wire.VaultIdentity, "GET", "/v1/identity")

    async def enrol(self, enrol: wire.Enrol) -> wire.Appended:
        return await self._call(wire.Appended, "POST", "/v1/enrolments", enrol)

    async def revoke_enrolment(self, key: str, message: wire.RevokeEnrolment) -> wire.Appended:
        return await self._call(wire.Appended, "POST", f"/v1/enrolments/{key}/revocation", message)

    async def keys(self) -> wire.VaultKeys:
        return await self._call(wire.VaultKeys, "GET", "/v1/keys")

    async def open(self, recording: UUID, opening: wire.OpenRecording) -> None:
        await self._send("PUT", f"/v1/recordings/{recording}", opening)

    async def open_series(self, series: UUID, opening: wire.OpenSeries) -> None:
        """A document or another single file begins; its versions go through `exchange`."""
        await self._send("PUT", f"/v1/series/{series}", opening)

    async def exchange(self, recording: UUID, exchange: wire.ExchangeRequest) -> wire.ExchangeResult:
        return await self._call(wire.ExchangeResult, "POST", f"/v1/recordings/{recording}/exchange", exchange)

    async def close(self, recording: UUID, closing: wire.CloseRecording) -> wire.ClosedRecording:
        path = f"/v1/recordings/{recording}/close"
        return await self._call(wire.ClosedRecording, "POST", path, closing, seconds=_CLOSING_SECONDS)

    async def close_by_server(self, recording: UUID, closing: wire.CloseByServer) -> wire.ClosedRecording:
        """Where the source cannot sign or has gone. What is closed already is answered as it is."""
        path = f"/v1/recordings/{recording}/close-by-server"
        return await self._call(wire.ClosedRecording, "POST", path, closing, seconds=_CLOSING_SECONDS)

    async def manifest(self, recording: UUID, number: int) -> wire.ClosedRecording:
        return await self._call(wire.ClosedRecording, "GET", f"/v1/recordings/{recording}/manifests/{number}")

    async def receipt(self, recording: UUID, name: wire.SegmentName) -> wire.SealedSegment:
        path = f"/v1/recordings/{recording}/receipts/{name.sequence}/{name.sha256}"
        return await self._call(wire.SealedSegment, "GET", path)

    async def read_tickets(self, recording: UUID, request: wire.ReadTicketsRequest) -> wire.ReadTickets:
        return await self._call(wire.ReadTickets, "POST", f"/v1/recordings/{recording}/read-tickets", request)

    async def put_tail(self, upload: UUID, message: wire.PutTail) -> wire.TailTicket:
        """Each time under a new name; one that nobody keeps to lapses."""
        return await self._call(wire.TailTicket, "POST", f"/v1/uploads/{upload}/tails", message)

    async def read_tail(self, upload: UUID, name: str) -> wire.TailTicket:
        return await self._call(wire.TailTicket, "GET", f"/v1/uploads/{upload}/tails/{name}")

    async def remove_tail(self, upload: UUID, name: str) -> None:
        await self._send("DELETE", f"/v1/uploads/{upload}/tails/{name}")

    async def append(self, append: wire.Append) -> wire.Appended:
        """Returns once the statement stands in a signed checkpoint. What is appended while other appends are
        under way goes with the next message, so that many callers cost one message and one checkpoint."""
        answer: asyncio.Future[wire.Appended] = asyncio.get_running_loop().create_future()
        self._appends.append((append.act, append.model_dump_json(), answer))
        if len(self._senders) < _APPEND_MESSAGES:
            sender = asyncio.create_task(self._send_appends())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await answer

    async def _send_appends(self) -> None:
        while self._appends:
            part = _first_that_fit(self._appends)
            body = f'{{"items":[{",".join(text for _, text, _ in part)}]}}'
            outcomes: dict[UUID, wire.Appended | Exception] = {}
            failed: Exception = VaultUnreachable("no answer for this act")
            try:
                answer = await self._call(wire.AppendedMany, "POST", "/v1/log/statements", body)
                outcomes |= {one.act: one for one in answer.appended}
                outcomes |= {one.act: VaultRefused(one.problem) for one in answer.problems}
            except (VaultRefused, VaultUnreachable) as error:
                failed = error
            finally:
                for act, _, waiting in part:
                    _settle(waiting, outcomes.get(act, failed))

    async def alarms(self, limit: int = 50) -> wire.Alarms:
        """The alarms that stand; `limit` is at most 200."""
        return await self._call(wire.Alarms, "GET", f"/v1/alarms?limit={limit}")

    async def set_term(self, recording: UUID, term: wire.SetTerm) -> None:
        await self._send("PUT", f"/v1/recordings/{recording}/term", term)

    async def retention(self, recording: UUID) -> wire.RetentionState:
        return await self._call(wire.RetentionState, "GET", f"/v1/recordings/{recording}/retention")

    async def tombstone(self, recording: UUID) -> wire.Tombstone:
        return await self._call(wire.Tombstone, "GET", f"/v1/recordings/{recording}/tombstone")

    async def hold(self, hold: UUID, message: wire.PlaceHold) -> wire.Hold:
        """Idempotent by its id; more recordings may be brought under it. The store's flags follow (`hold_state`)."""
        return await self._call(wire.Hold, "PUT", f"/v1/holds/{hold}", message)

    async def hold_state(self, hold: UUID) -> wire.Hold:
        return await self._call(wire.Hold, "GET", f"/v1/holds/{hold}")

    async def holds(
        self, *, case: UUID | None = None, active: bool = False, after: UUID | None = None, limit: int = 50
    ) -> wire.Holds:
        asked = {"case": case, "active": active or None, "after": after, "limit": limit}
        query = "&".join(f"{name}={value}" for name, value in asked.items() if value is not None)
        return await self._call(wire.Holds, "GET", f"/v1/holds?{query}")

    async def release(self, hold: UUID, order: wire.Envelope) -> wire.Hold:
        """`order` is `custody.Release`, signed by two custodians."""
        return await self._call(wire.Hold, "POST", f"/v1/holds/{hold}/release", order)

    async def dead_jobs(self, *, after: int | None = None, limit: int = 50) -> wire.DeadJobs:
        """Jobs that somebody has to look at, newest first; `limit` is at most 200."""
        page = f"&after={after}" if after is not None else ""
        return await self._call(wire.DeadJobs, "GET", f"/v1/jobs/dead?limit={limit}{page}")

    async def retry_job(self, job: int) -> None:
        await self._send("POST", f"/v1/jobs/{job}/retry")

    async def job_summary(self) -> wire.JobSummary:
        return await self._call(wire.JobSummary, "GET", "/v1/jobs/summary")

    async def proof(self, act: UUID) -> wire.LogProof:
        return await self._call(wire.LogProof, "GET", f"/v1/log/proofs/{act}")

    async def log_state(self) -> wire.LogState:
        return await self._call(wire.LogState, "GET", "/v1/log/state")

    async def begin_export(self, request: wire.ExportRequest) -> wire.ExportState:
        """The export act must stand in the log already. The same again is answered as it is by then."""
        return await self._call(wire.ExportState, "POST", "/v1/exports", request)

    async def export_state(self, act: UUID) -> wire.ExportState:
        return await self._call(wire.ExportState, "GET", f"/v1/exports/{act}")

    async def export_states(self, acts: list[UUID]) -> wire.ExportStates:
        request = wire.ExportStatesRequest(acts=acts)
        return await self._call(wire.ExportStates, "POST", "/v1/exports/states", request)

    async def exports(self, *, after: UUID | None = None, limit: int = 50) -> wire.ExportList:
        page = f"&after={after}" if after is not None else ""
        return await self._call(wire.ExportList, "GET", f"/v1/exports?limit={limit}{page}")

    @asynccontextmanager
    async def bag(self, act: UUID, headers: dict[str, str] | None = None) -> AsyncIterator[httpx.Response]:
        """The tar of an export that is ready, as it streams; `headers` may be `Range` and `If-Range`."""
        built = self._http.build_request("GET", f"/v1/exports/{act}/bag", headers=headers or {})
        built.headers["accept-encoding"] = "identity"
        try:
            response = await self._http.send(built, stream=True)
        except httpx.HTTPError as error:
            raise VaultUnreachable(str(error)) from error
        try:
            if response.is_error:
                await response.aread()
                raise _refusal(response)
            yield response
        finally:
            await response.aclose()

    async def _call(
        self,
        answer: type[_T],
        method: str,
        path: str,
        message: BaseModel | str | None = None,
        *,
        seconds: float | None = None,
    ) -> _T:
        response = await self._send(method, path, message, seconds=seconds)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise VaultUnreachable("an answer of the vault was not of its contract") from error

    async def _send(
        self, method: str, path: str, message: BaseModel | str | None = None, *, seconds: float | None = None
    ) -> httpx.Response:
        content = message.model_dump_json() if isinstance(message, BaseModel) else message
        headers = {"content-type": "application/json"} if content else {}
        try:
            waits = self._http.timeout if seconds is None else httpx.Timeout(seconds, connect=3.0)
            response = await self._http.request(method, path, content=content, headers=headers, timeout=waits)
            # A vault whose clock is another finds every signature too old or too new: once more, by its clock.
            if response.status_code == 401 and self._signer.follow(response.headers.get("date")):
                response = await self._http.request(method, path, content=content, headers=headers, timeout=waits)
        except httpx.HTTPError as error:
            raise VaultUnreachable(str(error)) from error
        if response.is_error:
            raise _refusal(response)
        return response


def _settle(waiting: asyncio.Future[wire.Appended], outcome: wire.Appended | Exception) -> None:
    if waiting.done():
        return
    if isinstance(outcome, Exception):
        waiting.set_exception(outcome)
    else:
        waiting.set_result(outcome)


def _first_that_fit(waiting: deque[tuple[UUID, str, asyncio.Future[wire.Appended]]]) -> list[Any]:
    """Take what one message may carry; a single act that is too long for any is the vault's to refuse."""
    part: list[Any] = []
    left = wire.MAX_MESSAGE_BYTES - 1024
    while waiting and len(part) < wire.MAX_APPENDS:
        left -= len(waiting[0][1].encode()) + 1
        if part and left < 0:
            break
        part.append(waiting.popleft())
    return part


def _refusal(response: httpx.Response) -> Exception:
    try:
        return VaultRefused(wire.Problem.model_validate_json(response.content))
    except ValidationError:
        return VaultUnreachable(f"status {response.status_code} without a problem")
