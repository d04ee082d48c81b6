"""Sealed segments on their way out of the store: each is held against its receipt."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from services.vault import errors
from services.vault.export.contents import Piece
from services.vault.stores.port import Store

Progress = Callable[[int], Awaitable[None]]


class SegmentDiffers(Exception):
    """`key` is not what was sealed, or is not there."""

    def __init__(self, key: str, missing: bool):
        super().__init__(key)
        self.key, self.missing = key, missing


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
        raise SegmentDiffers(piece.key, True) from error
    if (got, digest.hexdigest()) != (piece.size, piece.sha256):
        raise SegmentDiffers(piece.key, False)


async def digest_of(store: Store, pieces: Sequence[Piece], progress: Progress) -> str:
    """SHA-256 over these segments end to end, each checked; `progress` is told the bytes of each chunk."""
    digest = hashlib.sha256()
    for piece in pieces:
        async for chunk in whole(store, piece):
            await asyncio.to_thread(digest.update, chunk)
            await progress(len(chunk))
    return digest.hexdigest()
