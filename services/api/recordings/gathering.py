"""An upload on its way into segments: 8 MiB each, and the rest is its tail.

What came counts once it is durable: sealed, or put to the vault's staging bucket as the tail. A tail is put where a
body ends or pauses, and every few seconds of a slow one; it is read again by whoever goes on, on any replica.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import httpx

from services.api.database import Sessions
from services.api.errors import UploadGone, UploadLengthDiffers, UploadTooLarge, VaultUnavailable
from services.api.recorders.addresses import Pusher
from services.api.recordings import uploading
from services.api.recordings.holding import Holder, Piece, digest
from services.api.recordings.models import Upload
from services.api.recordings.reading import Reader
from services.media.kind import kind_of
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable

_log = logging.getLogger("quancheng.uploads")
SEGMENT_BYTES = wire.MAX_TAIL_BYTES
KEEP_SECONDS = 10.0
"""At least so often what came is made durable, however slowly it comes."""
_TRIES, _WAIT = 3, 0.3


class TailLost(Exception):
    """The staging bucket has not, or not whole, what was put there."""


class Tails:
    """`store` is a client for the tickets' addresses."""

    def __init__(self, vault: VaultClient, store: httpx.AsyncClient):
        self._vault, self._store = vault, store

    async def put(self, upload: UUID, data: bytes) -> tuple[str, str]:
        """Its name and its digest. Raises VaultUnavailable."""
        sha256 = await digest(data)
        for left in reversed(range(_TRIES)):
            with suppress(VaultUnreachable, httpx.HTTPError):
                ticket = await self._vault.put_tail(upload, wire.PutTail(sha256=sha256, size=len(data)))
                sent = await self._store.request(ticket.method, ticket.url, headers=ticket.headers, content=data)
                if sent.status_code == 200:
                    return ticket.name, sha256
            if left:
                await asyncio.sleep(_WAIT)
        raise VaultUnavailable

    async def read(self, upload: UUID, name: str, sha256: str) -> bytes:
        """Raises TailLost, VaultUnavailable."""
        try:
            ticket = await self._vault.read_tail(upload, name)
            got = await self._store.request(ticket.method, ticket.url, headers=ticket.headers)
        except httpx.HTTPError as error:
            raise VaultUnavailable from error
        if got.status_code not in (200, 404):
            raise VaultUnavailable(f"the store answered {got.status_code}")
        if got.status_code == 404 or await digest(got.content) != sha256:
            raise TailLost
        return got.content

    async def remove(self, upload: UUID, name: str) -> None:
        """Raises VaultUnreachable, VaultRefused: it lapses anyway."""
        await self._vault.remove_tail(upload, name)


@dataclass(frozen=True)
class Means:
    """What every upload needs. `idle`: how long it waits for its next byte."""

    sessions: Sessions
    vault: VaultClient
    holder: Holder
    reader: Reader
    tails: Tails
    idle: timedelta
    longest: int


class Gathering:
    """One request's turn at an upload, in the epoch it claimed. `told` hears of each offset that is durable. Raises
    UploadSuperseded, AddressInvalid, VaultUnavailable from whichever call meets them."""

    def __init__(self, means: Means, pusher: Pusher, upload: Upload, told: Callable[[int], None] = lambda _: None):
        self._means, self._pusher, self._told = means, pusher, told
        self.upload = upload
        self._buffer, self._kept = bytearray(), 0
        self._kept_at = time.monotonic()

    async def settle(self) -> None:
        """Know what became of a segment that somebody before was sealing."""
        upload = self.upload
        if upload.state != "open" or upload.pending_sha256 is None:
            return
        sealed = await sealed_already(self._means.vault, upload)
        if sealed is None:
            await uploading.not_sealed(self._means.sessions, upload)
        else:
            await self._count(sealed)

    async def load(self) -> None:
        """Take up the tail. Raises UploadGone where it is lost: an offset never goes back."""
        upload = self.upload
        self._buffer = bytearray()
        if upload.tail is not None and upload.tail_sha256 is not None:
            try:
                self._buffer += await self._means.tails.read(upload.id, upload.tail, upload.tail_sha256)
            except TailLost:
                _log.error("the tail of upload %s is lost", upload.id)
                await uploading.end(self._means.sessions, upload, "lost")
                raise UploadGone("lost") from None
        self._kept = len(self._buffer)

    async def take(self, data: bytes) -> None:
        """Raises UploadTooLarge."""
        longest = self._means.longest if self.upload.length is None else self.upload.length
        if self._total + len(data) > longest:
            raise UploadTooLarge
        self._buffer += data
        while len(self._buffer) >= SEGMENT_BYTES:
            await self._seal(SEGMENT_BYTES)
        if time.monotonic() - self._kept_at > KEEP_SECONDS:
            await self.keep()

    async def keep(self) -> None:
        """Make durable what came."""
        if len(self._buffer) == self._kept:
            return
        upload, data = self.upload, bytes(self._buffer)
        if upload.by_length and upload.length == self._total:
            await self._seal(len(data))
            return
        before = upload.tail
        name, sha256 = await self._means.tails.put(upload.id, data)
        await uploading.tail_kept(self._means.sessions, upload, self._means.idle, name, sha256, len(data))
        self._kept, self._kept_at = len(data), time.monotonic()
        await self._forget(before)
        self._told(upload.received)

    async def finish(self, *, complete: bool) -> None:
        """The body has come whole. `complete`: so has the upload. Raises UploadLengthDiffers."""
        upload = self.upload
        if upload.by_length:
            complete = upload.length == self._total
        if complete and upload.length not in (None, self._total):
            await self.keep()
            raise UploadLengthDiffers
        if not complete:
            await self.keep()
        elif self._buffer:
            await self._seal(len(self._buffer), ends=True)
        elif upload.state == "open":
            await uploading.complete(self._means.sessions, upload)

    @property
    def _total(self) -> int:
        return self.upload.sealed + len(self._buffer)

    async def _seal(self, size: int, *, ends: bool = False) -> None:
        upload, means = self.upload, self._means
        with memoryview(self._buffer) as view:
            data = bytes(view[:size])
        sha256 = await digest(data)
        await uploading.intend(means.sessions, upload, sha256, size, ends=ends, kind=kind_of(data))
        if upload.segments == 0:
            await means.vault.open(upload.id, opening_of(self._pusher, upload))
        piece = Piece(data, "media", upload.created_at, 0, 0)
        sealed = await means.holder.sealed(upload.id, upload.segments, piece, sha256)
        before = upload.tail
        await self._count(sealed)
        del self._buffer[:size]
        self._kept, self._kept_at = 0, time.monotonic()
        await self._forget(before)

    async def _count(self, sealed: wire.SealedSegment) -> None:
        await uploading.segment_sealed(self._means.sessions, self._pusher, self.upload, self._means.idle, sealed)
        self._told(self.upload.received)

    async def _forget(self, tail: str | None) -> None:
        if tail is not None:
            with suppress(VaultUnreachable, VaultRefused):
                await self._means.tails.remove(self.upload.id, tail)


def opening_of(pusher: Pusher, upload: Upload) -> wire.OpenRecording:
    return wire.OpenRecording(
        source=pusher.recorder_id,
        key_id=None,
        started_at=upload.created_at,
        format=cast(Any, upload.format),
        remuxed_by=pusher.remuxed_by,
    )


async def sealed_already(vault: VaultClient, upload: Upload) -> wire.SealedSegment | None:
    """The pending segment, if it was put whole; where that cannot be known now, raises VaultUnavailable."""
    assert upload.pending_sha256
    name = wire.SegmentName(sequence=upload.segments, sha256=upload.pending_sha256)
    try:
        result = await vault.exchange(upload.id, wire.ExchangeRequest(commits=[name]))
    except VaultRefused as error:
        if error.problem.slug == "no-such-recording":
            return None
        raise
    if any(problem.slug not in ("not-asked", "not-stored") for problem in result.problems):
        raise VaultUnavailable
    return result.sealed[0] if result.sealed else None
