"""The vault's HTTP verbs, thin. Each is allowed to a service by name, verb by verb."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from services.vault import errors, jobs
from services.vault.contract import wire
from services.vault.contract.channel import CHANNEL_SERVICE, ChannelError, verify
from services.vault.log import tiles
from services.vault.log.publish import CHECKPOINT
from services.vault.service import Vault

API_VERBS = frozenset(
    {
        "identity",
        "enrol",
        "revoke-enrolment",
        "open",
        "open-series",
        "exchange",
        "close",
        "close-by-server",
        "manifest",
        "receipt",
        "read-tickets",
        "append",
        "proof",
        "log-state",
        "export",
        "exports",
        "export-state",
        "export-states",
        "bag",
        "alarms",
        "dead-jobs",
        "job-summary",
        "retry-job",
        "term",
        "retention",
        "hold",
        "hold-state",
        "holds",
        "release",
        "tombstone",
        "put-tail",
        "read-tail",
        "remove-tail",
    }
)


@dataclass(frozen=True)
class Caller:
    """A service that may call: its public key and the verbs it is allowed."""

    name: str
    key: Ed25519PublicKey
    verbs: frozenset[str]


def allowed(verb: str) -> Callable[[Request], Coroutine[Any, Any, Vault]]:
    """The vault, for a request that a service signed which may use `verb`."""

    async def check(request: Request) -> Vault:
        callers: dict[str, Caller] = request.app.state.callers
        try:
            body = await request.body()
            key_id = verify(
                request.method,
                str(request.url),
                request.headers,
                body,
                lambda known: callers[known].key if known in callers else None,
                CHANNEL_SERVICE,
            )
        except (ChannelError, ClientDisconnect) as error:
            raise errors.NotAuthenticated from error
        if verb not in callers[key_id].verbs:
            raise errors.VerbNotAllowed
        vault: Vault = request.app.state.vault
        return vault

    return check


private = APIRouter(prefix="/v1")
public = APIRouter()


@private.get("/identity")
async def identity(vault: Annotated[Vault, Depends(allowed("identity"))]) -> wire.VaultIdentity:
    return vault.identity()


@private.post("/enrolments")
async def enrol(message: wire.Enrol, vault: Annotated[Vault, Depends(allowed("enrol"))]) -> wire.Appended:
    try:
        whole = len(base64.b64decode(message.public_key, validate=True)) == 32
    except ValueError as error:
        raise HTTPException(422) from error
    if not whole:
        raise HTTPException(422)
    return await vault.enrolments.enrol(message)


@private.post("/enrolments/{key_id}/revocation")
async def revoke_enrolment(
    key_id: wire.KeyId, message: wire.RevokeEnrolment, vault: Annotated[Vault, Depends(allowed("revoke-enrolment"))]
) -> wire.Appended:
    return await vault.enrolments.revoke(key_id, message)


@private.put("/recordings/{recording}", status_code=204)
async def open_recording(
    recording: UUID, message: wire.OpenRecording, vault: Annotated[Vault, Depends(allowed("open"))]
) -> None:
    await vault.sealing.open(recording, message)


@private.put("/series/{series}", status_code=204)
async def open_series(
    series: UUID, message: wire.OpenSeries, vault: Annotated[Vault, Depends(allowed("open-series"))]
) -> None:
    await vault.sealing.open_series(series, message)


@private.post("/recordings/{recording}/exchange")
async def exchange(
    recording: UUID, message: wire.ExchangeRequest, vault: Annotated[Vault, Depends(allowed("exchange"))]
) -> wire.ExchangeResult:
    return await vault.sealing.exchange(recording, message)


@private.post("/recordings/{recording}/close")
async def close(
    recording: UUID, message: wire.CloseRecording, vault: Annotated[Vault, Depends(allowed("close"))]
) -> wire.ClosedRecording:
    return await vault.closer.close(recording, message)


@private.post("/recordings/{recording}/close-by-server")
async def close_by_server(
    recording: UUID, message: wire.CloseByServer, vault: Annotated[Vault, Depends(allowed("close-by-server"))]
) -> wire.ClosedRecording:
    return await vault.closer.close_by_server(recording, message)


@private.get("/recordings/{recording}/manifests/{number}")
async def manifest(
    recording: UUID,
    number: Annotated[int, Path(ge=0, le=wire.MAX_SUPPLEMENTS)],
    vault: Annotated[Vault, Depends(allowed("manifest"))],
) -> wire.ClosedRecording:
    return await vault.closer.closed(recording, number)


@private.get("/recordings/{recording}/receipts/{sequence}/{sha256}")
async def receipt(
    recording: UUID,
    sequence: Annotated[int, Path(ge=0, le=wire.MAX_SEQUENCE)],
    sha256: wire.Sha256,
    vault: Annotated[Vault, Depends(allowed("receipt"))],
) -> wire.SealedSegment:
    return await vault.sealing.receipt(recording, sequence, sha256)


@private.post("/recordings/{recording}/read-tickets")
async def read_tickets(
    recording: UUID,
    message: wire.ReadTicketsRequest,
    vault: Annotated[Vault, Depends(allowed("read-tickets"))],
) -> wire.ReadTickets:
    return await vault.read_tickets(recording, message)


@private.post("/uploads/{upload}/tails")
async def put_tail(
    upload: UUID, message: wire.PutTail, vault: Annotated[Vault, Depends(allowed("put-tail"))]
) -> wire.TailTicket:
    return vault.tails.put(upload, message)


@private.get("/uploads/{upload}/tails/{name}")
async def read_tail(
    upload: UUID, name: wire.TailName, vault: Annotated[Vault, Depends(allowed("read-tail"))]
) -> wire.TailTicket:
    return vault.tails.read(upload, name)


@private.delete("/uploads/{upload}/tails/{name}", status_code=204)
async def remove_tail(
    upload: UUID, name: wire.TailName, vault: Annotated[Vault, Depends(allowed("remove-tail"))]
) -> None:
    await vault.tails.remove(upload, name)


@private.post("/log/statements")
async def append(message: wire.AppendMany, vault: Annotated[Vault, Depends(allowed("append"))]) -> wire.AppendedMany:
    return await vault.appender.append(message.items)


@private.get("/log/proofs/{act}")
async def proof(act: UUID, vault: Annotated[Vault, Depends(allowed("proof"))]) -> wire.LogProof:
    return await vault.proof(act)


@private.get("/log/state")
async def log_state(vault: Annotated[Vault, Depends(allowed("log-state"))]) -> wire.LogState:
    return await vault.log_state()


@private.get("/alarms")
async def alarms(
    vault: Annotated[Vault, Depends(allowed("alarms"))], limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> wire.Alarms:
    return await vault.alarms.standing(limit)


@private.put("/recordings/{recording}/term", status_code=204)
async def set_term(recording: UUID, message: wire.SetTerm, vault: Annotated[Vault, Depends(allowed("term"))]) -> None:
    await vault.retention.set_term(recording, message)


@private.get("/recordings/{recording}/retention")
async def retention(recording: UUID, vault: Annotated[Vault, Depends(allowed("retention"))]) -> wire.RetentionState:
    return await vault.holds.retention_of(recording)


@private.get("/recordings/{recording}/tombstone")
async def tombstone(recording: UUID, vault: Annotated[Vault, Depends(allowed("tombstone"))]) -> wire.Tombstone:
    return await vault.disposer.tombstone(recording)


@private.put("/holds/{hold}")
async def place_hold(
    hold: UUID, message: wire.PlaceHold, vault: Annotated[Vault, Depends(allowed("hold"))]
) -> wire.Hold:
    return await vault.holds.place(hold, message)


@private.get("/holds/{hold}")
async def hold_state(hold: UUID, vault: Annotated[Vault, Depends(allowed("hold-state"))]) -> wire.Hold:
    return await vault.holds.state(hold)


@private.get("/holds")
async def holds(
    vault: Annotated[Vault, Depends(allowed("holds"))],
    case: UUID | None = None,
    active: bool = False,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> wire.Holds:
    return await vault.holds.listed(case=case, active=active, after=after, limit=limit)


@private.post("/holds/{hold}/release")
async def release(
    hold: UUID, message: wire.Envelope, vault: Annotated[Vault, Depends(allowed("release"))]
) -> wire.Hold:
    return await vault.holds.release(hold, message)


@private.get("/jobs/dead")
async def dead_jobs(
    vault: Annotated[Vault, Depends(allowed("dead-jobs"))],
    after: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> wire.DeadJobs:
    return await jobs.dead(vault.engine, after, limit)


@private.get("/jobs/summary")
async def job_summary(vault: Annotated[Vault, Depends(allowed("job-summary"))]) -> wire.JobSummary:
    return await jobs.summary(vault.engine)


@private.post("/jobs/{job}/retry", status_code=204)
async def retry_job(
    job: Annotated[int, Path(ge=1, le=2**63 - 1)], vault: Annotated[Vault, Depends(allowed("retry-job"))]
) -> None:
    await jobs.retry(vault.engine, job)


@private.post("/exports", status_code=202)
async def begin_export(
    message: wire.ExportRequest, vault: Annotated[Vault, Depends(allowed("export"))]
) -> wire.ExportState:
    return await vault.exports.begin(message)


@private.get("/exports")
async def exports(
    vault: Annotated[Vault, Depends(allowed("exports"))],
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> wire.ExportList:
    return await vault.exports.listed(after=after, limit=limit)


@private.post("/exports/states")
async def export_states(
    message: wire.ExportStatesRequest, vault: Annotated[Vault, Depends(allowed("export-states"))]
) -> wire.ExportStates:
    return await vault.exports.states(message.acts)


@private.get("/exports/{act}")
async def export_state(act: UUID, vault: Annotated[Vault, Depends(allowed("export-state"))]) -> wire.ExportState:
    return await vault.exports.state(act)


@private.get("/exports/{act}/bag", response_class=StreamingResponse)
async def bag(act: UUID, request: Request, vault: Annotated[Vault, Depends(allowed("bag"))]) -> StreamingResponse:
    """The tar or, by `Range` and `If-Range`, a part of it."""
    found = await vault.bags.open(act, request.headers.get("range"), request.headers.get("if-range"))
    return StreamingResponse(found.chunks, found.status, found.headers)


@public.get("/v1/keys")
async def keys(request: Request, response: Response) -> wire.VaultKeys:
    """The vault's own keys, those that sign and those that did, with what leads from each to the next."""
    vault: Vault = request.app.state.vault
    response.headers["cache-control"] = "public, max-age=2"
    response.headers["access-control-allow-origin"] = "*"
    return await vault.keys()


@public.get("/log/checkpoint", response_class=PlainTextResponse)
async def checkpoint(request: Request) -> Response:
    """The newest published checkpoint (C2SP tlog-tiles). It moves, so caches keep it for a moment only."""
    return await _published(request, CHECKPOINT, "text/plain; charset=utf-8", "public, max-age=2")


@public.get("/log/tile/{path:path}", response_class=Response)
async def tile(request: Request, path: str) -> Response:
    """Tiles `<L>/<N>[.p/<W>]` and entry bundles `entries/<N>[.p/<W>]`. What lies under such a name never changes.

    Bundles are not compressed: an entry is a digest of 32 bytes, which no compression makes shorter.
    """
    if len(path) > 64 or not tiles.PATH.fullmatch(f"tile/{path}"):
        raise errors.NotPublished
    return await _published(
        request, f"tile/{path}", "application/octet-stream", "public, max-age=31536000, immutable"
    )


async def _published(request: Request, path: str, kind: str, caching: str) -> Response:
    vault: Vault = request.app.state.vault
    data = await vault.store.published(path)
    if data is None:
        raise errors.NotPublished
    # Anyone may read the log from anywhere, a page in a browser too.
    headers = {"cache-control": caching, "access-control-allow-origin": "*", "x-content-type-options": "nosniff"}
    return Response(data, media_type=kind, headers=headers)
