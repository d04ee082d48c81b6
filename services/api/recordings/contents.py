"""What the sealed segments of a recording are as one file."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlmodel import col

from services.api.database import Sessions
from services.api.errors import VaultUnavailable
from services.api.recordings.models import Segment
from services.api.recordings.reading import Reader
from services.vault.contract import wire
from services.vault.contract.verify import merkle_root, segment_leaf


async def segments_of(sessions: Sessions, recording: UUID) -> list[Row[Any]]:
    query = select(col(Segment.sequence), col(Segment.sha256), col(Segment.size))
    query = query.where(col(Segment.recording_id) == recording, col(Segment.beside).is_(False))
    async with sessions() as db:
        return list(await db.execute(query.order_by(col(Segment.sequence))))


async def whole_of(sessions: Sessions, reader: Reader, recording: UUID) -> wire.Whole:
    """Every segment is read once from the store. Raises NoSuchSegment, VaultUnavailable."""
    digest, rows = hashlib.sha256(), await segments_of(sessions, recording)
    for row in rows:
        data = await reader.whole(recording, name_of(row))
        if not await asyncio.to_thread(_joined, digest, data, row.sha256):
            raise VaultUnavailable(f"segment {row.sequence} of {recording} was read with other bytes")
    return wire.Whole(sha256=digest.hexdigest(), size=sum(row.size for row in rows), root=root_of(rows))


def root_of(rows: Iterable[Any]) -> str:
    return merkle_root(segment_leaf(row.sequence, row.sha256, row.size) for row in rows).hex()


def name_of(row: Row[Any]) -> wire.SegmentName:
    return wire.SegmentName(sequence=row.sequence, sha256=row.sha256)


def _joined(digest: hashlib._Hash, data: bytes, sha256: str) -> bool:
    """Whether these are the bytes that were sealed; they join the digest of the whole."""
    digest.update(data)
    return hashlib.sha256(data).hexdigest() == sha256
