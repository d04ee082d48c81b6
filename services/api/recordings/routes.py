"""Recordings for people: lists, viewings, exports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import httpx
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from services.api.database import Db, Maker
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recordings import playback, queries, service
from services.api.recordings.schemas import ExportView, NewUse, RecordingList, SegmentList, ViewingView
from services.api.recordings.views import RecordingDetail, State
from services.api.vault import Vault
from services.vault.contract import wire

router = APIRouter(prefix="/v1", tags=["recordings"])
_PRIVATE = {"cache-control": "private, no-store"}


@router.get("/recordings")
async def recordings(
    who: SignedIn,
    db: Db,
    state: State | None = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_LIMIT)] = 50,
) -> RecordingList:
    page = await queries.recordings(db, who, state=state, cursor=cursor, limit=limit)
    return RecordingList(items=page.rows, next_cursor=page.next_cursor)


@router.get("/recordings/{recording}")
async def recording(recording: UUID, who: SignedIn, db: Db) -> RecordingDetail:
    return await queries.recording(db, who, recording)


@router.get("/recordings/{recording}/segments")
async def segments(
    recording: UUID,
    who: SignedIn,
    db: Db,
    after: Annotated[int, Query(ge=-1, le=wire.MAX_SEQUENCE)] = -1,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_LIMIT)] = 100,
) -> SegmentList:
    page = await queries.segments(db, who, recording, after=after, limit=limit)
    return SegmentList(items=page.rows, next_after=page.next_after)


@router.post("/recordings/{recording}/viewings", status_code=201)
async def register_viewing(
    recording: UUID, message: NewUse, who: Acting, sessions: Maker, vault: Vault
) -> ViewingView:
    """Logged before the first byte flows; lasts 30 minutes."""
    viewing = await service.register_viewing(sessions, vault, who, recording, message)
    return ViewingView(id=viewing.id, playlist=f"/v1/viewings/{viewing.id}/index.m3u8", until=viewing.until)


@router.get("/viewings/{viewing}/index.m3u8", response_class=PlainTextResponse)
async def playlist(
    viewing: UUID,
    who: SignedIn,
    sessions: Maker,
    request: Request,
    wait_for: Annotated[int | None, Query(alias="_HLS_msn", ge=0, le=wire.MAX_SEQUENCE)] = None,
) -> Response:
    target = request.app.state.settings.segment_seconds
    text = await playback.playlist(sessions, who, viewing, wait_for=wait_for, target=target)
    return Response(text, media_type="application/vnd.apple.mpegurl", headers=_PRIVATE)


@router.get("/viewings/{viewing}/segments/{name}.{kind}", response_class=StreamingResponse)
async def segment(
    viewing: UUID,
    name: Annotated[str, Path(pattern=r"^\d{1,10}-[0-9a-f]{64}$")],
    kind: Annotated[str, Path(pattern=r"^(m4s|mp4)$")],
    who: SignedIn,
    sessions: Maker,
    vault: Vault,
    request: Request,
) -> StreamingResponse:
    store: httpx.AsyncClient = request.app.state.store
    size, chunks = await playback.segment(sessions, vault, store, who, viewing, name)
    headers = _PRIVATE | {"content-length": str(size)}
    return StreamingResponse(chunks, media_type="video/mp4", headers=headers)


@router.post("/recordings/{recording}/exports", status_code=201)
async def register_export(recording: UUID, message: NewUse, who: Acting, sessions: Maker, vault: Vault) -> ExportView:
    export = await service.register_export(sessions, vault, who, recording, message)
    return ExportView(id=export.id, download=f"/v1/exports/{export.id}/bag.tar")


@router.get("/exports/{export}/bag.tar", response_class=StreamingResponse)
async def download(export: UUID, who: SignedIn, sessions: Maker, vault: Vault) -> StreamingResponse:
    """The evidence bundle (BagIt in a tar), made as it flows."""
    async with sessions() as db:
        kept = await service.export_of(db, who, export)
    asked = wire.ExportRequest(act=kept.id, recordings=[kept.recording_id], person=who.person_id)
    stream = vault.export(asked)
    chunks = await stream.__aenter__()

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await stream.__aexit__(None, None, None)

    name = f'attachment; filename="quancheng-{kept.id}.tar"'
    return StreamingResponse(body(), media_type="application/x-tar", headers=_PRIVATE | {"content-disposition": name})
