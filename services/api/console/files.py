"""The pages of single files: what was brought, by whom, what it is worth, and a look at it under a viewing."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from services.api.console.pages import render
from services.api.database import STORABLE, Db, Maker
from services.api.identity.dependencies import SignedIn
from services.api.recordings.files import queries
from services.api.recordings.files.kinds import KINDS as LIMITS
from services.api.recordings.files.kinds import SHOWN
from services.api.recordings.files.schemas import FileKind
from services.api.recordings.footage import queries as footage
from services.api.vault import Vault
from services.vault.contract.wire import MAX_SEQUENCE, SegmentName

router = APIRouter(prefix="/files", include_in_schema=False)
_PAGE = 50


@router.get("")
async def files(
    request: Request,
    who: SignedIn,
    db: Db,
    kind: Annotated[FileKind | None, Query()] = None,
    cursor: Annotated[str | None, Query(max_length=200, pattern=STORABLE)] = None,
) -> HTMLResponse:
    page = await queries.files(db, who, kind=kind, cursor=cursor, limit=_PAGE)
    brings = who.may("bring-files")
    told: dict[str, object] = {"page": page, "kind": kind, "cursor": cursor, "brings": brings, "limits": LIMITS}
    told["handovers"] = await footage.newest_handovers(db, who) if brings else []
    lock = request.app.state.store_lock
    return HTMLResponse(render("files.html", principal=who, room="files", store_lock=lock, **told))


@router.get("/{file}")
async def file(file: UUID, request: Request, who: SignedIn, db: Db) -> HTMLResponse:
    found = await queries.file(db, who, file)
    page = render(
        "file.html",
        principal=who,
        room="files",
        store_lock=request.app.state.store_lock,
        file=found,
        handover=await footage.handover(db, found.handover) if found.handover else None,
        viewings=await queries.viewings(db, file),
        shown=SHOWN,
    )
    return HTMLResponse(page)


@router.get("/{file}/receipts/{version}")
async def receipt(
    file: UUID,
    version: Annotated[int, Path(ge=1, le=MAX_SEQUENCE)],
    who: SignedIn,
    sessions: Maker,
    vault: Vault,
) -> HTMLResponse:
    async with sessions() as db:
        found = await queries.version(db, who, file, version)
    sealed = await vault.receipt(file, SegmentName(sequence=version, sha256=found.sha256))
    signature = sealed.receipt.signatures[0]
    payload = sealed.receipt.decoded()
    return HTMLResponse(render("receipt.html", payload=payload, key_id=signature.keyid, signature=signature.sig))
