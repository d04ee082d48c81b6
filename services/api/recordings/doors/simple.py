"""The simple door: one photo, sound file, document or result of a test instrument, whole in one request.

What it is comes first: in the query of a PUT, in the first part of a form, or in a request of its own (`…/metadata`),
after which the bytes may come by any door. It is checked before the first byte is taken. The bytes wait in memory,
for what they are decides whether they are sealed; nothing of them ever lies on a disk of the api.

`/v1/files` is for people who are signed in, `/v1/files-by/{token}` for sources by the addresses that they push to.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from services.api.errors import (
    FileSlow,
    FileTooLarge,
    FileTruncated,
    FileUntold,
    KeyMissing,
    NoSuchFile,
    PushIdle,
    SourceUnfit,
    UploadUnsaid,
)
from services.api.identity.dependencies import ActingByHeader
from services.api.identity.principal import Principal
from services.api.recorders import addresses
from services.api.recordings.doors.forms import Form
from services.api.recordings.doors.incoming import Incoming
from services.api.recordings.doors.push import Bodies, Token
from services.api.recordings.doors.speech import number, shown
from services.api.recordings.files import service
from services.api.recordings.files.kinds import KINDS
from services.api.recordings.files.models import File
from services.api.recordings.files.schemas import FileQuery, NewFile, SealedFile, ToldFile
from services.api.recordings.files.service import Bringer, Came, Means

router = APIRouter(prefix="/v1", tags=["simple door"])
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_VERSION = re.compile(r'"(\d{1,6})"')
_SHA256 = re.compile(r"(?:^|[\s,])sha-256=:([A-Za-z0-9+/]{43}=):")


def takes_bytes(method: str, path: str) -> bool:
    """Whether a request brings a file, whose limit is that of its kind."""
    ours = path == "/v1/files" or path.startswith(("/v1/files/", "/v1/files-by/"))
    return ours and method in ("PUT", "POST") and not path.endswith(("/metadata", "/viewings"))


@router.put("/files/{file}", status_code=201, responses={200: {"description": "the same bytes again"}})
async def put_own(
    file: UUID, about: Annotated[FileQuery, Query()], who: ActingByHeader, request: Request, response: Response
) -> SealedFile:
    """A file's bytes as the body; what it is in the query, unless it was told before."""
    return await _put(request, response, await _officer(who), file, about)


@router.put("/files/{file}/metadata")
async def tell_own(file: UUID, about: NewFile, who: ActingByHeader, request: Request, response: Response) -> ToldFile:
    """What a file is. Its bytes may come by any door."""
    return await _tell(request, response, await _officer(who), file, about)


@router.post("/files", status_code=201, responses={200: {"description": "the same bytes again"}})
async def post_own(who: ActingByHeader, request: Request, response: Response) -> SealedFile:
    """A form: `metadata` (JSON, as of `…/metadata`) first, and `file` behind it; with an `Idempotency-Key`."""
    return await _post(request, response, await _officer(who))


@router.put("/files-by/{token}/{file}", status_code=201, responses={200: {"description": "the same bytes again"}})
async def put_by(
    token: Token, file: UUID, about: Annotated[FileQuery, Query()], request: Request, response: Response
) -> SealedFile:
    """The same for a source."""
    return await _put(request, response, await _source(request, token), file, about)


@router.put("/files-by/{token}/{file}/metadata")
async def tell_by(token: Token, file: UUID, about: NewFile, request: Request, response: Response) -> ToldFile:
    """The same for a source."""
    return await _tell(request, response, await _source(request, token), file, about)


@router.post("/files-by/{token}", status_code=201, responses={200: {"description": "the same bytes again"}})
async def post_by(token: Token, request: Request, response: Response) -> SealedFile:
    """The same for a source."""
    return await _post(request, response, await _source(request, token))


async def _officer(who: Principal) -> Bringer:
    who.require("bring-files")
    return Bringer.of_person(who)


async def _source(request: Request, token: str) -> Bringer:
    pusher = await addresses.pusher(_means(request).sessions, token)
    if pusher.kind not in addresses.BRINGS_FILES:
        raise SourceUnfit
    return Bringer.of_address(pusher)


async def _tell(request: Request, response: Response, bringer: Bringer, file: UUID, about: NewFile) -> ToldFile:
    kept = await service.tell(_means(request).sessions, bringer, file, about)
    response.headers["etag"] = f'"{kept.version}"'
    return ToldFile(id=kept.id, state="sealed" if kept.version else "awaiting", version=kept.version)


async def _put(request: Request, response: Response, bringer: Bringer, file: UUID, about: FileQuery) -> SealedFile:
    sessions = _means(request).sessions
    if about.model_fields_set - {"name"}:
        kept = await service.tell(sessions, bringer, file, _whole(about))
    else:
        try:
            kept = await service.told(sessions, bringer, file)
        except NoSuchFile as error:
            raise FileUntold from error
    follows, sha256 = _follows(request), _digest(request)
    if (number(request.headers, "content-length") or 0) > KINDS[kept.kind].bytes:
        raise _too_large(kept)
    with _bodies(request).one(bringer.way):
        async with aclosing(_bytes(request)) as chunks:
            data = await _all(kept, chunks)
        return await _answered(request, response, bringer, kept, Came(data, about.name, follows, sha256))


async def _post(request: Request, response: Response, bringer: Bringer) -> SealedFile:
    key = request.headers.get("idempotency-key", "")
    if not _KEY.fullmatch(key):
        raise KeyMissing
    follows, sha256 = _follows(request), _digest(request)
    with _bodies(request).one(bringer.way):
        async with aclosing(_bytes(request)) as chunks:
            form = Form(request.headers.get("content-type", ""), chunks)
            try:
                about = NewFile.model_validate_json(await form.about())
            except ValidationError as error:
                raise RequestValidationError(error.errors()) from error
            kept = await service.tell(_means(request).sessions, bringer, None, about, key=key)
            async with aclosing(form.chunks()) as parts:
                data = await _all(kept, parts)
        name = about.name or shown(form.file_name or "")
        return await _answered(request, response, bringer, kept, Came(data, name, follows, sha256))


async def _answered(request: Request, response: Response, bringer: Bringer, file: File, came: Came) -> SealedFile:
    sealed, fresh = await service.take(_means(request), bringer, file, came)
    response.status_code = 201 if fresh else 200
    response.headers["etag"] = f'"{sealed.version}"'
    return sealed


async def _bytes(request: Request) -> AsyncGenerator[bytes]:
    """The body as it comes. Raises FileSlow, and FileTruncated where it breaks off."""
    settings, began = request.app.state.settings, time.monotonic()
    incoming = Incoming(
        request, mbit_per_second=settings.upload_mbit_per_second, silence=settings.push_silence_seconds
    )
    try:
        async with aclosing(incoming.chunks()) as chunks:
            async for chunk in chunks:
                if time.monotonic() - began > settings.file_seconds:
                    raise FileSlow
                if chunk:
                    yield chunk
    except PushIdle as error:
        raise FileSlow from error
    if incoming.broken_off:
        raise FileTruncated


async def _all(file: File, chunks: AsyncIterator[bytes]) -> bytes:
    """Raises FileTooLarge."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > KINDS[file.kind].bytes:
            raise _too_large(file)
    return bytes(data)


def _too_large(file: File) -> FileTooLarge:
    return FileTooLarge(limit=KINDS[file.kind].bytes)


def _whole(about: FileQuery) -> NewFile:
    try:
        return NewFile.model_validate(about.model_dump(exclude_unset=True))
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _follows(request: Request) -> int | None:
    """The version that these bytes are to follow. Raises UploadUnsaid."""
    told = request.headers.get("if-match")
    if told is None:
        return None
    if not (found := _VERSION.fullmatch(told.strip())):
        raise UploadUnsaid("if-match")
    return int(found[1])


def _digest(request: Request) -> str | None:
    """What the bytes should be, by whichever of the two headers says it. Raises UploadUnsaid."""
    told = {_sha256(request.headers[name]) for name in ("content-digest", "repr-digest") if name in request.headers}
    told.discard(None)
    if len(told) > 1:
        raise UploadUnsaid("content-digest")
    return told.pop() if told else None


def _sha256(header: str) -> str | None:
    """None where it names other algorithms alone."""
    if "sha-256=" not in header:
        return None
    if not (found := _SHA256.search(header)):
        raise UploadUnsaid("content-digest")
    return base64.b64decode(found[1]).hex()


def _means(request: Request) -> Means:
    means: Means = request.app.state.file_means
    return means


def _bodies(request: Request) -> Bodies:
    bodies: Bodies = request.app.state.file_bodies
    return bodies
