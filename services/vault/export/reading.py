"""Sealed segments on their way out of the store: each is held against its receipt."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.export.contents import Piece
from services.vault.models import Recording
from services.vault.stores.port import Store

Progress = Callable[[int], Awaitable[None]]
_TRIES = 3
_AGAIN_SECONDS = 0.5


class SegmentDiffers(Exception):
    """What lies under `key` is not what was sealed; `what` says in Chinese how it differs."""

    def __init__(self, key: str, what: str):
        super().__init__(f"{key}: {what}")
        self.key, self.what = key, what


async def whole(store: Store, piece: Piece) -> AsyncIterator[bytes]:
    """All of one segment. Raises SegmentDiffers at its end, or as soon as it is longer, and StoreUnavailable."""
    digest, got = hashlib.sha256(), 0
    try:
        async for chunk in store.read(piece.key, piece.version):
            await asyncio.to_thread(digest.update, chunk)
            got += len(chunk)
            if got > piece.size:
                break
            yield chunk
    except errors.NotInStore as error:
        raise SegmentDiffers(piece.key, "存储中已没有这一版本") from error
    if (got, digest.hexdigest()) != (piece.size, piece.sha256):
        raise SegmentDiffers(piece.key, "存储中的内容与封存时不符")


async def digest_of(store: Store, pieces: Sequence[Piece], progress: Progress) -> str:
    """SHA-256 over these segments end to end, each checked; `progress` is told the bytes of each chunk. Raises
    SegmentDiffers, also for one that a store which answers cannot read, and StoreUnavailable."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest = await _further(digest, store, piece, progress)
    return digest.hexdigest()


async def _further(digest: hashlib._Hash, store: Store, piece: Piece, progress: Progress) -> hashlib._Hash:
    tries = 1
    while True:
        further = digest.copy()
        try:
            async for chunk in whole(store, piece):
                await asyncio.to_thread(further.update, chunk)
                await progress(len(chunk))
            return further
        except errors.StoreUnavailable as error:
            # A store that tells of it is not away.
            if await store.head(piece.key, piece.version) is None or tries == _TRIES:
                raise SegmentDiffers(piece.key, "存储无法完整读出这一版本") from error
            tries += 1
            await asyncio.sleep(_AGAIN_SECONDS)


async def disposed(engine: AsyncEngine, key: str) -> bool:
    """Whether what lay under this key is disposed of, or about to be: then it is no wonder that it is not there."""
    this = col(Recording.id) == UUID(key.split("/")[1])
    async with engine.connect() as db:
        return await db.scalar(select(col(Recording.state)).where(this)) in ("disposing", "disposed")


async def look(store: Store, piece: Piece) -> None:
    """Raises SegmentDiffers where it is not what was sealed, StoreUnavailable where that cannot be told."""

    async def nobody(_: int) -> None:
        return

    await digest_of(store, [piece], nobody)
