"""The push door, for encoders and gateways: one long body of fragmented MP4 or MPEG-TS, or HLS segments by name.

What came is told by its bytes; a name only tells a segment that comes whole (its number) from a stream. A playlist is
no commit: it is taken and forgotten, but for its saying that the source is done. DELETE is answered and does nothing,
since nothing sealed can be removed, and other bytes under a name that is taken are kept beside the first and answered
with 409 (DASH-IF Live Media Ingest demands overwriting; evidence forbids it).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from services.api.errors import (
    MediaBroken,
    MediaUnknown,
    PushIdle,
    PushTooLarge,
    PushTooMany,
)
from services.api.recorders import addresses
from services.api.recorders.addresses import Pusher
from services.api.recordings.doors import limits
from services.api.recordings.doors.feeding import Feed, Means, take_whole
from services.api.recordings.footage import handovers
from services.media.cut import CutError
from services.media.fmp4 import Cutter
from services.media.ts import PACKET, TsCutter

_log = logging.getLogger("quancheng.push")
router = APIRouter(prefix="/v1/push", tags=["push door"])
Token = Annotated[str, Path(min_length=43, max_length=43, pattern=r"^[A-Za-z0-9_-]+$")]
Name = Annotated[str, Path(max_length=limits.NAME_CHARACTERS)]
_NUMBERED = re.compile(r"\d\.(ts|m4s|mp4|m4v|m4a|cmfv|cmfa)$", re.IGNORECASE)
_RENDITION = re.compile(r"(?:^|/)(?:init|chunk)-(stream\w{1,32}?)[-.]")
_FRAGMENT_BOXES = {b"styp", b"moof", b"sidx", b"emsg", b"prft", b"mdat"}
_ENDED = re.compile(rb"^#EXT-X-ENDLIST|<MPD[^>]* type=\"static\"", re.MULTILINE)
_SNIFFED = PACKET + 1


class Bodies:
    """How many are open at once: `most` of all."""

    def __init__(self, most: int):
        self._most, self._open = most, Counter[UUID]()

    @contextlib.contextmanager
    def one(self, address: UUID) -> Iterator[None]:
        """Raises PushTooMany."""
        if self._open[address] >= limits.BODIES_OF_ADDRESS or self._open.total() >= self._most:
            raise PushTooMany
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


class Body:
    """The bytes of one request as they come. Raises PushIdle where none do, ClientDisconnect where it breaks off."""

    def __init__(self, request: Request):
        settings = request.app.state.settings
        self._chunks = aiter(request.stream())
        self._rate, self._silence = settings.push_mbit_per_second * 125_000, settings.push_silence_seconds
        self._began, self._taken = time.monotonic(), 0
        self.broken_off = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    chunk = await anext(self._chunks, None)
            except TimeoutError as error:
                raise PushIdle from error
            except ClientDisconnect:
                self.broken_off = True
                return
            if chunk is None:
                return
            if chunk:
                await self._pace(len(chunk))
                yield chunk

    async def _pace(self, size: int) -> None:
        """Faster than its rate a source is made to wait, after a burst of four seconds."""
        self._taken += size
        ahead = self._taken / self._rate - (time.monotonic() - self._began)
        if ahead > limits.BURST_SECONDS:
            await asyncio.sleep(ahead - limits.BURST_SECONDS)


@router.put("/{token}/{name:path}", status_code=201)
@router.post("/{token}/{name:path}", status_code=201)
async def push(
    token: Token, name: Name, request: Request, handover: Annotated[UUID | None, Query()] = None
) -> Response:
    """Push media to an address: 200 with the recording it went to, once all of it is sealed. An import names the
    `handover` that it came with."""
    means: Means = request.app.state.push_means
    bodies: Bodies = request.app.state.push_bodies
    pusher = await addresses.pusher(means.sessions, token)
    if handover is not None:
        async with means.sessions() as db:
            await handovers.require(db, pusher.unit_id, pusher.recorder_id, handover)
        pusher = replace(pusher, handover_id=handover)
    with bodies.one(pusher.address_id):
        recording = await _take(means, pusher, name, Body(request), request)
    return JSONResponse({"recording": str(recording) if recording else None}, 200)


@router.delete("/{token}/{name:path}", status_code=204)
async def delete(token: Token, name: Name, request: Request) -> Response:
    """Answered, and nothing is removed: what is sealed stays."""
    pusher = await addresses.pusher(request.app.state.push_means.sessions, token)
    _log.info("a source would have removed a segment: address=%s", pusher.address_id)
    return Response(status_code=204)


async def _take(means: Means, pusher: Pusher, name: str, body: Body, request: Request) -> UUID | None:
    head, rest = await _head(body)
    rendition = found[1] if (found := _RENDITION.search(name)) else ""
    kind = _kind(head)
    if kind is None:
        return None
    if kind == "playlist":
        if _ENDED.search(await _playlist(head, rest)):
            await means.done_soon(pusher)
        return None
    target = float(request.app.state.settings.segment_seconds)
    if kind == "fragment" or (kind == "ts" and _NUMBERED.search(name)):
        data, more = await _whole(head, rest, endless=kind == "ts")
        if more is None:
            if body.broken_off:
                # Of a transport stream whole packets are worth keeping; half a fragment is nothing.
                data = data[: len(data) - len(data) % PACKET] if kind == "ts" else b""
            if not data:
                return None
            return await take_whole(means, pusher, rendition, name, data, ts=kind == "ts")
        head, rest = data, more
    cutter: Cutter | TsCutter = (
        TsCutter(target_seconds=target, max_bytes=limits.JOINED_BYTES, longest_seconds=limits.LONGEST_SECONDS)
        if kind == "ts"
        else Cutter(
            target_seconds=target,
            max_bytes=limits.WHOLE_BYTES,
            patient=True,
            joined_bytes=limits.JOINED_BYTES,
            longest_seconds=limits.LONGEST_SECONDS,
        )
    )
    return await _stream(Feed(means, pusher, rendition), cutter, head, rest, body)


async def _stream(
    feed: Feed, cutter: Cutter | TsCutter, head: bytes, rest: AsyncIterator[bytes], body: Body
) -> UUID | None:
    """Cut and seal as it comes, in shorter segments while somebody watches. Whatever ends it, what was whole before
    is sealed first."""
    target = cutter.target_seconds
    trouble: Exception | None = None
    try:
        try:
            await _feed(feed, cutter, _after(head, rest), target)
        except (CutError, PushIdle) as error:
            trouble = MediaBroken(str(error)) if isinstance(error, CutError) else error
        try:
            for cut in cutter.finish():
                await feed.take(cut)
        except CutError as error:
            trouble = trouble or MediaBroken(str(error))
        await feed.finish(done=trouble is None and not body.broken_off)
    finally:
        await feed.give_up()
    if trouble is not None:
        raise trouble
    return feed.recording


async def _feed(feed: Feed, cutter: Cutter | TsCutter, chunks: AsyncIterator[bytes], target: float) -> None:
    """Raises CutError, and PushIdle where no segment becomes whole."""
    last = time.monotonic()
    async for chunk in chunks:
        for cut in cutter.feed(chunk):
            last = time.monotonic()
            await feed.take(cut)
            cutter.target_seconds = 1.0 if feed.watched else target
        if time.monotonic() - last > limits.FRAGMENT_SECONDS:
            raise PushIdle


async def _head(body: Body) -> tuple[bytes, AsyncIterator[bytes]]:
    """Enough of the body to know what it is, and the rest of it."""
    head, rest = b"", aiter(body)
    while len(head) < _SNIFFED:
        chunk = await anext(rest, b"")
        if not chunk:
            break
        head += chunk
    return head, rest


def _kind(head: bytes) -> str | None:
    """None for an empty body, which some encoders send to see whether anybody is there. Raises MediaUnknown."""
    if not head:
        return None
    if head.startswith((b"#EXTM3U", b"<?xml", b"<MPD")):
        return "playlist"
    if head[0] == 0x47 and head[PACKET : PACKET + 1] in (b"", b"G"):
        return "ts"
    box = head[4:8]
    if box == b"ftyp":
        return "mp4"
    if box in _FRAGMENT_BOXES:
        return "fragment"
    raise MediaUnknown


async def _playlist(head: bytes, rest: AsyncIterator[bytes]) -> bytes:
    text = bytearray(head)
    async for chunk in rest:
        text += chunk
        if len(text) > limits.PLAYLIST_BYTES:
            raise PushTooLarge
    return bytes(text)


async def _whole(
    head: bytes, rest: AsyncIterator[bytes], *, endless: bool
) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """The body whole; or, where an `endless` one goes on for longer than a segment does, what came and the rest."""
    data, began = bytearray(head), time.monotonic()
    async for chunk in rest:
        data += chunk
        if endless and time.monotonic() - began > limits.WHOLE_SECONDS:
            return bytes(data), rest
        if len(data) > limits.WHOLE_BYTES:
            raise PushTooLarge
    return bytes(data), None


async def _after(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
