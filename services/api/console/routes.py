"""The console's pages. They call services and queries, and own nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, HTTPException, Path, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from services.api import jobs, problems
from services.api.console.pages import STATIC, render
from services.api.database import STORABLE, Db, Engine, Maker
from services.api.errors import NoSuchSegment, SignInFailed, TooManyFailures
from services.api.identity import service as identity
from services.api.identity.dependencies import COOKIE, Acting, SignedIn, same_site
from services.api.identity.routes import address_of, give_cookie
from services.api.recordings import facts, queries
from services.api.recordings.footage import queries as footage
from services.api.recordings.views import State
from services.api.vault import Vault
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused, VaultUnreachable

router = APIRouter(include_in_schema=False)
_PAGE = 50
_SEGMENTS = 100


def speaks_to(request: Request) -> bool:
    """Whether an error of this request is answered by a page: programs get problems."""
    path = request.url.path
    ours = path in ("/", "/sign-in", "/sign-out") or path.startswith(
        ("/recordings", "/sources", "/files", "/footage")
    )
    return ours or (not path.startswith("/v1/") and "text/html" in request.headers.get("accept", ""))


def problem_page(request: Request, problem: Response, *, signed_out: bool = False) -> Response:
    """What a browser sees of a problem: the sign-in where that is what is missing, else a page that says it."""
    if signed_out and request.headers.get("hx-request"):
        problem.headers["hx-redirect"] = "/sign-in"
        return problem
    if signed_out:
        return RedirectResponse("/sign-in", 303)
    told = json.loads(bytes(problem.body))
    page = render(
        "problem.html",
        status=told["status"],
        title=told["title"],
        detail=told.get("detail"),
        trace_id=told.get("trace_id"),
    )
    kept = {name: problem.headers[name] for name in ("allow", "retry-after") if name in problem.headers}
    return HTMLResponse(page, problem.status_code, kept)


@router.get("/")
async def home(who: SignedIn) -> Response:
    """Where each begins: an administrator reads no recordings."""
    return RedirectResponse("/recordings" if who.may("see-recordings") else "/sources", 303)


@router.get("/sign-in")
async def sign_in_page(request: Request) -> HTMLResponse:
    return HTMLResponse(render("sign_in.html", error=None, login="", demo=request.app.state.settings.demo))


@router.post("/sign-in")
async def sign_in(
    request: Request,
    sessions: Maker,
    login: Annotated[str, Form(max_length=64, pattern=STORABLE)],
    password: Annotated[str, Form(max_length=identity.MAX_PASSWORD)],
) -> Response:
    same_site(request)
    settings = request.app.state.settings
    try:
        signed = await identity.sign_in(sessions, login, password, address_of(request), hours=settings.session_hours)
    except (SignInFailed, TooManyFailures) as error:
        status, _, title = problems.PROBLEMS[type(error)]
        return HTMLResponse(render("sign_in.html", error=title, login=login, demo=settings.demo), status)
    response = RedirectResponse("/", 303)
    give_cookie(response, signed, secure=settings.secure)
    return response


@router.post("/sign-out")
async def sign_out(who: Acting, db: Db) -> Response:
    await identity.sign_out(db, who)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


@router.get("/recordings")
async def recordings(
    request: Request,
    who: SignedIn,
    db: Db,
    engine: Engine,
    state: Annotated[State | None, Query()] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    page = await queries.recordings(db, who, state=state, cursor=cursor, limit=_PAGE)
    name = "recordings_rows.html" if request.headers.get("hx-request") else "recordings.html"
    lock = request.app.state.store_lock
    dead = who.may("tend-jobs") and await jobs.dead(engine, after=None, limit=1)
    told = {"page": page, "state": state, "cursor": cursor, "dead_jobs": bool(dead)}
    return HTMLResponse(render(name, principal=who, store_lock=lock, **told))


@router.get("/recordings/{recording}")
async def recording(recording: UUID, request: Request, who: SignedIn, sessions: Maker, vault: Vault) -> HTMLResponse:
    async with sessions() as db:
        detail = await queries.recording(db, who, recording)
        act = await queries.manifest_act(db, who, recording)
        page = await queries.segments(db, who, recording, limit=_SEGMENTS)
        known = await facts.of(db, who, recording)
        handover = await footage.handover(db, detail.handover) if detail.handover else None
    if act is not None:
        try:
            detail = replace(detail, manifest_log_index=(await vault.proof(act)).index)
        except (VaultUnreachable, VaultRefused):
            detail = replace(detail, manifest_log_index=None)
    return HTMLResponse(
        render(
            "recording.html",
            principal=who,
            detail=detail,
            facts=known,
            handover=handover,
            segments=page.rows,
            next_after=page.next_after,
            recording_id=recording,
            store_lock=request.app.state.store_lock,
        )
    )


@router.get("/recordings/{recording}/segments")
async def segments(
    recording: UUID, who: SignedIn, db: Db, after: Annotated[int, Query(ge=-1, le=wire.MAX_SEQUENCE)] = -1
) -> HTMLResponse:
    page = await queries.segments(db, who, recording, after=after, limit=_SEGMENTS)
    return HTMLResponse(
        render("segments_rows.html", segments=page.rows, next_after=page.next_after, recording_id=recording)
    )


@router.get("/recordings/{recording}/receipts/{sequence}/{sha256}")
async def receipt(
    recording: UUID,
    sequence: Annotated[int, Path(ge=0, le=wire.MAX_SEQUENCE)],
    sha256: wire.Sha256,
    who: SignedIn,
    sessions: Maker,
    vault: Vault,
) -> HTMLResponse:
    async with sessions() as db:
        await queries.recording(db, who, recording)
    try:
        sealed = await vault.receipt(recording, wire.SegmentName(sequence=sequence, sha256=sha256))
    except VaultRefused as error:
        raise NoSuchSegment from error
    signature = sealed.receipt.signatures[0]
    payload = sealed.receipt.decoded()
    return HTMLResponse(render("receipt.html", payload=payload, key_id=signature.keyid, signature=signature.sig))


@router.get("/static/{path:path}")
async def static(path: str) -> Response:
    """Addresses carry a part of the file's digest, so an answer may be kept for ever."""
    try:
        file = (STATIC / PurePosixPath(path)).resolve()
        found = file.is_relative_to(STATIC.resolve()) and file.is_file()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise HTTPException(404) from error
    if not found:
        raise HTTPException(404)
    return FileResponse(file, headers={"cache-control": "public, max-age=31536000, immutable"})
