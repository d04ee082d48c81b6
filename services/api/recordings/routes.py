"""Recordings for people: lists, viewings, exports."""

from __future__ import annotations

import asyncio
import gzip
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from services.api.database import Db, Maker
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recordings import exports, facts, originals, playback, queries, service
from services.api.recordings import timeline as timelines
from services.api.recordings.renditions.showing import Renditions
from services.api.recordings.schemas import (
    ExportPage,
    ExportView,
    NewExport,
    NewViewing,
    RecordingList,
    SegmentList,
    ViewingView,
)
from services.api.recordings.views import Facts, RecordingDetail, State, Timeline
from services.api.recordings.watching import while_there
from services.api.vault import Vault
from services.media import ffmpeg
from services.vault.contract import wire

router = APIRouter(prefix="/v1", tags=["recordings"])
_PRIVATE = {"cache-control": "private, no-store"}
WaitFor = Annotated[int | None, Query(alias="_HLS_msn", ge=0, le=wire.MAX_SEQUENCE)]
_LARGE = 16 * 1024
"""Bytes of a playlist from which it is worth packing."""


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


@router.get(
    "/recordings/{recording}/timeline",
    response_model=Timeline,
    responses={304: {"description": "as the caller knows it"}},
)
async def timeline(
    recording: UUID, who: SignedIn, db: Db, request: Request, response: Response
) -> Timeline | Response:
    """Where there are pictures and where there are none, by the recorder's clock."""
    found = await timelines.find(db, who, recording)
    headers = {"etag": found.etag, "cache-control": "private, no-cache"}
    if found.etag in (one.strip() for one in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return await timelines.of(db, found.recording)


@router.get("/recordings/{recording}/facts")
async def facts_of(recording: UUID, who: SignedIn, db: Db) -> Facts:
    """Gaps, a stop without a closing, a clock that was off, and stretches that show or tell nothing."""
    return await facts.of(db, who, recording)


@router.post("/recordings/{recording}/viewings", status_code=201)
async def register_viewing(
    recording: UUID, message: NewViewing, who: Acting, sessions: Maker, vault: Vault
) -> ViewingView:
    """Logged before the first byte flows; lasts 30 minutes."""
    viewing, kept = await service.register_viewing(sessions, vault, who, recording, message)
    base, file = f"/v1/viewings/{viewing.id}", kept.container == "file"
    return ViewingView(
        id=viewing.id,
        playlist=None if file else f"{base}/index.m3u8",
        file=f"{base}/file" if file else None,
        rendition=f"{base}/rendition/index.m3u8" if not file or kept.format in ffmpeg.PICTURED else None,
        until=viewing.until,
        original=f"{base}/original" if message.original else None,
    )


@router.get("/viewings/{viewing}/index.m3u8", response_class=PlainTextResponse)
async def playlist(
    viewing: UUID, who: SignedIn, sessions: Maker, request: Request, wait_for: WaitFor = None
) -> Response:
    target = request.app.state.settings.segment_seconds
    return await _listed(request, await playback.playlist(sessions, who, viewing, wait_for=wait_for, target=target))


@router.get("/viewings/{viewing}/rendition/index.m3u8", response_class=PlainTextResponse)
async def rendition(viewing: UUID, who: SignedIn, request: Request, wait_for: WaitFor = None) -> Response:
    """What a browser cannot play, made over while it is watched. To look at, never the record."""
    target = request.app.state.settings.segment_seconds
    asked = _renditions(request).playlist(who, viewing, wait_for=wait_for, target=target)
    return await _listed(request, await while_there(request, asked))


@router.get("/viewings/{viewing}/rendition/init.mp4", response_class=Response)
async def rendition_init(viewing: UUID, who: SignedIn, request: Request) -> Response:
    made = await while_there(request, _renditions(request).init(who, viewing))
    return Response(made, media_type="video/mp4", headers=_PRIVATE)


@router.get("/viewings/{viewing}/rendition/{name}.m4s", response_class=Response)
async def rendition_piece(
    viewing: UUID,
    name: Annotated[str, Path(pattern=r"^\d{1,10}(-[0-9a-f]{64})?$")],
    who: SignedIn,
    request: Request,
) -> Response:
    made = await while_there(request, _renditions(request).piece(who, viewing, name))
    return Response(made, media_type="video/mp4", headers=_PRIVATE)


def _renditions(request: Request) -> Renditions:
    made: Renditions = request.app.state.renditions
    return made


async def _listed(request: Request, text: str) -> Response:
    headers = _PRIVATE | {"vary": "accept-encoding"}
    body = text.encode()
    if len(body) > _LARGE and "gzip" in request.headers.get("accept-encoding", ""):
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers["content-encoding"] = "gzip"
    return Response(body, media_type="application/vnd.apple.mpegurl", headers=headers)


@router.get("/viewings/{viewing}/segments/{name}.{kind}", response_class=StreamingResponse)
async def segment(
    viewing: UUID,
    name: Annotated[str, Path(pattern=r"^\d{1,10}-[0-9a-f]{64}$")],
    kind: Annotated[str, Path(pattern=r"^(m4s|mp4|ts)$")],
    who: SignedIn,
    sessions: Maker,
    request: Request,
) -> StreamingResponse:
    size, chunks = await playback.segment(sessions, request.app.state.reader, who, viewing, name)
    headers = _PRIVATE | {"content-length": str(size)}
    return StreamingResponse(chunks, media_type="video/mp2t" if kind == "ts" else "video/mp4", headers=headers)


@router.get("/viewings/{viewing}/original", response_class=StreamingResponse)
async def original(viewing: UUID, who: SignedIn, sessions: Maker, request: Request) -> StreamingResponse:
    """The sealed segments end to end, byte for byte, or by `Range` and `If-Range` a part of them."""
    asked, if_range = request.headers.get("range"), request.headers.get("if-range")
    found = await originals.download(sessions, request.app.state.reader, who, viewing, asked, if_range)
    return StreamingResponse(found.chunks, found.status, _PRIVATE | found.headers)


@router.get("/viewings/{viewing}/file", response_class=StreamingResponse)
async def file(viewing: UUID, who: SignedIn, sessions: Maker, request: Request) -> StreamingResponse:
    """A single file as it was sealed, to be shown, whole or by `Range`."""
    asked, if_range = request.headers.get("range"), request.headers.get("if-range")
    reader = request.app.state.reader
    found = await originals.download(sessions, reader, who, viewing, asked, if_range, shown=True)
    return StreamingResponse(found.chunks, found.status, _PRIVATE | found.headers)


@router.post("/exports", status_code=202)
async def register_export(
    message: NewExport, who: Acting, sessions: Maker, vault: Vault, response: Response
) -> ExportView:
    """Logged with its purpose, then prepared by a job: look at its state until it is ready, then fetch the bag."""
    made = await exports.register(sessions, vault, who, message)
    response.headers["location"] = f"/v1/exports/{made.id}"
    return made


@router.get("/exports")
async def own_exports(
    who: SignedIn,
    sessions: Maker,
    vault: Vault,
    recording: UUID | None = None,
    file: UUID | None = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_LIMIT)] = 50,
) -> ExportPage:
    return await exports.listed(sessions, vault, who, recording=recording, file=file, cursor=cursor, limit=limit)


@router.get("/exports/{export}")
async def export_state(export: UUID, who: SignedIn, sessions: Maker, vault: Vault) -> ExportView:
    return await exports.state(sessions, vault, who, export)


@router.get("/exports/{export}/bag", response_class=StreamingResponse)
async def bag(export: UUID, who: SignedIn, sessions: Maker, vault: Vault, request: Request) -> StreamingResponse:
    """The evidence bundle (BagIt in a tar) or, by `Range` and `If-Range`, a part of it."""
    asked = {name: request.headers[name] for name in ("range", "if-range") if name in request.headers}
    found = await exports.download(sessions, vault, who, export, asked)
    headers = _PRIVATE | found.headers
    headers["content-disposition"] = f'attachment; filename="quancheng-{export}.tar"'
    return StreamingResponse(found.chunks, found.status, headers)
