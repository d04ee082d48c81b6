"""The resumable door: a file comes in pieces to an address, by tus 1.0.0 or by the IETF's resumable uploads.

The same addresses as those that are pushed to: `/v1/uploads/{token}` creates an upload, and has each below it. Any
replica goes on with it; whoever comes with HEAD or PATCH ends whoever came before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.errors import (
    ApiError,
    PushIdle,
    UploadComplete,
    UploadElsewhere,
    UploadLengthDiffers,
    UploadOfParts,
    UploadProtocol,
    UploadTooLarge,
    UploadUnsaid,
)
from services.api.recorders import addresses
from services.api.recorders.addresses import Pusher
from services.api.recordings import uploading
from services.api.recordings.doors import drafts, limits, tus
from services.api.recordings.doors.incoming import Incoming
from services.api.recordings.doors.push import Bodies, Token
from services.api.recordings.doors.speech import Added, Speech, has_body, number
from services.api.recordings.files import arriving
from services.api.recordings.footage import handovers
from services.api.recordings.gathering import Gathering, Means
from services.api.recordings.models import Upload
from services.api.server import INFORM

router = APIRouter(prefix="/v1/uploads", tags=["resumable door"])
_LIMIT = f"max-size={limits.UPLOAD_BYTES}"


@router.options("/{token}")
@router.options("/{token}/{upload}")
async def abilities(token: Token, request: Request) -> Response:
    """What both protocols can do here."""
    await addresses.pusher(_means(request).sessions, token)
    patches = f"{drafts.PIECE}, application/offset+octet-stream"
    return Response(status_code=200, headers={**tus.ABILITIES, "accept-patch": patches, "upload-limit": _LIMIT})


@router.post("/{token}", status_code=201)
async def create(token: Token, request: Request) -> Response:
    """Begin an upload, with its first bytes where they come at once."""
    return await _answered(request, lambda speech: _create(request, token, speech))


@router.head("/{token}/{upload}")
async def state(token: Token, upload: UUID, request: Request) -> Response:
    """How far it has come. Whoever was at it before is ended."""
    return await _answered(request, lambda speech: _state(request, token, upload, speech))


@router.patch("/{token}/{upload}", status_code=204)
async def append(token: Token, upload: UUID, request: Request) -> Response:
    """The next bytes of it."""
    return await _answered(request, lambda speech: _append(request, token, upload, speech))


@router.delete("/{token}/{upload}", status_code=204)
async def terminate(token: Token, upload: UUID, request: Request) -> Response:
    """It is given up: what is sealed stays, and is marked so; nothing more is taken."""
    return await _answered(request, lambda speech: _terminate(request, token, upload, speech))


@router.post("/{token}/{upload}", status_code=204)
async def override(token: Token, upload: UUID, request: Request) -> Response:
    """For who can send nothing but POST: `X-HTTP-Method-Override` says which of the three is meant."""
    meant = {"PATCH": _append, "DELETE": _terminate, "HEAD": _state}
    does = meant.get(request.headers.get("x-http-method-override", "").upper())

    async def act(speech: Speech) -> Response:
        if does is None:
            raise UploadUnsaid("x-http-method-override")
        return await does(request, token, upload, speech)

    return await _answered(request, act)


async def _answered(request: Request, act: Callable[[Speech], Awaitable[Response]]) -> Response:
    speech: Speech = tus.Tus()
    try:
        speech = _speech(request)
        response = await act(speech)
    except ApiError as error:
        response = speech.refused(error)
    for name, value in speech.every().items():
        response.headers[name] = value
    return response


def _speech(request: Request) -> Speech:
    """Raises UploadProtocol."""
    version = request.headers.get("tus-resumable")
    if version is not None:
        if version != tus.VERSION:
            raise UploadProtocol
        return tus.Tus()
    interop = request.headers.get(drafts.INTEROP)
    if request.method == "POST" and "upload-complete" not in request.headers:
        raise UploadProtocol
    return drafts.Draft(interop)


async def _create(request: Request, token: str, speech: Speech) -> Response:
    means = _means(request)
    pusher = await addresses.pusher(means.sessions, token)
    new = speech.new(request.headers, request.query_params, token)
    if new.file is not None:
        if new.kind == "partial":
            raise UploadUnsaid("upload-metadata")
        await arriving.require_awaiting(means.sessions, pusher, new.file, new.length)
    if new.handover is not None:
        async with means.sessions() as db:
            await handovers.require(db, pusher.unit_id, pusher.recorder_id, new.handover)
    with _bodies(request).one(pusher.address_id):
        upload = await uploading.begin(
            means.sessions,
            pusher,
            means.idle,
            most=limits.OPEN_UPLOADS,
            by_length=speech.by_length,
            kind=new.kind,
            parts=new.parts,
            length=new.length,
            file_name=new.file_name,
            content_type=new.content_type,
            metadata_=new.metadata,
            file_id=new.file,
            handover_id=new.handover,
        )
        where = f"{request.app.state.settings.public_url}/v1/uploads/{token}/{upload.id}"
        told = {"location": where}
        if isinstance(speech, drafts.Draft):
            told["upload-limit"] = speech.limit(upload)
        _inform(request, speech, told)
        try:
            if new.body and upload.state == "open":
                added = speech.with_new(request.headers)
                await _take(request, pusher, Gathering(means, pusher, upload, _telling(request, speech)), added)
        except ApiError as error:
            response = speech.refused(error)
            response.headers["location"] = where
            return response
    return speech.created(upload, where)


async def _state(request: Request, token: str, upload_id: UUID, speech: Speech) -> Response:
    means = _means(request)
    pusher = await addresses.pusher(means.sessions, token)
    upload = await _found(means, pusher, upload_id, speech)
    if upload.kind != "final" and upload.state == "open":
        upload = await _claimed(means, pusher, upload)
    return speech.state(upload, token)


async def _append(request: Request, token: str, upload_id: UUID, speech: Speech) -> Response:
    means = _means(request)
    pusher = await addresses.pusher(means.sessions, token)
    upload = await _found(means, pusher, upload_id, speech)
    if upload.kind == "final":
        raise UploadOfParts
    added = speech.added(request.headers)
    with _bodies(request).one(pusher.address_id):
        if upload.state == "open":
            upload = await _claimed(means, pusher, upload)
        if added.offset != upload.received:
            raise UploadElsewhere(offset=upload.received, given=added.offset)
        if upload.state == "complete":
            if has_body(request.headers) or not (speech.by_length or added.complete):
                raise UploadTooLarge if speech.by_length else UploadComplete
            return speech.appended(upload)
        if added.length is not None and added.length != upload.length:
            if upload.length is not None or added.length < upload.received:
                raise UploadLengthDiffers
            await uploading.set_length(means.sessions, upload, added.length)
        gathering = Gathering(means, pusher, upload, _telling(request, speech))
        await _take(request, pusher, gathering, added)
    return speech.appended(upload)


async def _terminate(request: Request, token: str, upload_id: UUID, speech: Speech) -> Response:
    means = _means(request)
    pusher = await addresses.pusher(means.sessions, token)
    await uploading.end(means.sessions, await _found(means, pusher, upload_id, speech), "cancelled")
    return Response(status_code=204)


async def _found(means: Means, pusher: Pusher, upload: UUID, speech: Speech) -> Upload:
    """Raises NoSuchUpload, UploadGone, UploadProtocol."""
    found = await uploading.look(means.sessions, pusher, upload)
    if found.by_length != speech.by_length:
        raise UploadProtocol
    uploading.require_there(found)
    return found


async def _claimed(means: Means, pusher: Pusher, upload: Upload) -> Upload:
    claimed = await uploading.claim(means.sessions, upload.id)
    await Gathering(means, pusher, claimed).settle()
    return claimed


async def _take(request: Request, pusher: Pusher, gathering: Gathering, added: Added) -> None:
    """All of the body; whatever ends it, what came before is kept. With a checksum: all of it or nothing."""
    upload, settings = gathering.upload, request.app.state.settings
    coming = number(request.headers, "content-length") or 0
    if upload.length is not None and upload.received + coming > upload.length:
        raise UploadTooLarge
    incoming = Incoming(
        request, mbit_per_second=settings.upload_mbit_per_second, silence=settings.push_silence_seconds
    )
    await gathering.load()
    if added.checksum is not None:
        data = await incoming.whole(limits.CHECKED_BYTES)
        if incoming.broken_off:
            return
        tus.require_checksum(added.checksum, data)
        await gathering.take(data)
    else:
        try:
            await _stream(request, gathering, incoming)
        except PushIdle:
            await gathering.keep()
            raise
        if incoming.broken_off:
            await gathering.keep()
            return
    await gathering.finish(complete=added.complete)


async def _stream(request: Request, gathering: Gathering, incoming: Incoming) -> None:
    async with aclosing(incoming.chunks()) as chunks:
        async for chunk in chunks:
            if chunk:
                await gathering.take(chunk)
            else:
                await gathering.keep()
                await uploading.require_on(_means(request).sessions, gathering.upload)


def _inform(request: Request, speech: Speech, headers: dict[str, str]) -> None:
    interim, way = speech.interim(headers), request.scope.get("extensions", {}).get(INFORM)
    if interim is not None and way is not None:
        way["send"](104, "Upload Resumption Supported", interim)


def _telling(request: Request, speech: Speech) -> Callable[[int], None]:
    return lambda offset: _inform(request, speech, {"upload-offset": str(offset)})


def _means(request: Request) -> Means:
    means: Means = request.app.state.upload_means
    return means


def _bodies(request: Request) -> Bodies:
    bodies: Bodies = request.app.state.upload_bodies
    return bodies
