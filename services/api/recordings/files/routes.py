"""Single files for people: lists, receipts, viewings, what is in them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from services.api.database import Db, Maker
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recordings.files import queries, viewing
from services.api.recordings.files.schemas import FileKind, FileList, FileView, FileViewing, NewFileViewing
from services.api.vault import Vault
from services.vault.contract.wire import Envelope, SegmentName

router = APIRouter(prefix="/v1", tags=["files"])
_PRIVATE = {"cache-control": "private, no-store"}


@router.get("/files")
async def files(
    who: SignedIn,
    db: Db,
    kind: FileKind | None = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_LIMIT)] = 50,
) -> FileList:
    return await queries.files(db, who, kind=kind, cursor=cursor, limit=limit)


@router.get("/files/{file}")
async def file(file: UUID, who: SignedIn, db: Db) -> FileView:
    return await queries.file(db, who, file)


@router.get("/files/{file}/receipts/{version}")
async def receipt(
    file: UUID, version: Annotated[int, Path(ge=1, le=2**31 - 1)], who: SignedIn, sessions: Maker, vault: Vault
) -> Envelope:
    """The vault's signed receipt of one version."""
    async with sessions() as db:
        found = await queries.version(db, who, file, version)
    return (await vault.receipt(file, SegmentName(sequence=version, sha256=found.sha256))).receipt


@router.post("/files/{file}/viewings", status_code=201)
async def register_viewing(
    file: UUID, message: NewFileViewing, who: Acting, sessions: Maker, vault: Vault
) -> FileViewing:
    """Logged before the first byte flows; lasts 30 minutes."""
    return await viewing.register(sessions, vault, who, file, message)


@router.get("/viewings/{viewing_id}/content", response_class=StreamingResponse)
async def content(viewing_id: UUID, who: SignedIn, sessions: Maker, request: Request) -> StreamingResponse:
    """What was sealed, byte for byte, or by `Range` and `If-Range` a part of it."""
    asked, if_range = request.headers.get("range"), request.headers.get("if-range")
    found = await viewing.content(sessions, request.app.state.reader, who, viewing_id, asked, if_range)
    return StreamingResponse(found.chunks, found.status, _PRIVATE | found.headers)
