"""Files of a bag take their places in the tar, each as a row; what is not media lies beside it in deflated pieces."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.export import tar
from services.vault.models import Export, ExportFile, ExportItem, ExportPiece

PIECE = 1024 * 1024
MAX_FILES = 250_000
_ROWS = 500
Source = Literal["pieces", "segments", "segment", "staged"]
MEDIA: tuple[Source, ...] = ("segments", "segment")


class Stopped(Exception):
    """The export is not being prepared any more: it lapsed, or another decided."""


@dataclass(frozen=True)
class File:
    """One file of the bag. `data` where it is kept in pieces; else the store or the staging bucket has the bytes:
    the segments that `offsets.tsv` beside it lists, one segment of this sequence and digest, or a copy."""

    path: str
    size: int
    sha256: str
    source: Source = "pieces"
    data: bytes = b""
    recording: UUID | None = None
    sequence: int | None = None


def of_bytes(path: str, data: bytes) -> File:
    return File(path, len(data), hashlib.sha256(data).hexdigest(), data=data)


@dataclass(frozen=True)
class Done:
    """What becomes of the export when these files are laid out: an item is done, or all of it."""

    place: int | None = None
    etag: str | None = None
    ready_at: datetime | None = None


async def lay(
    engine: AsyncEngine,
    export: Any,
    files: Sequence[File],
    done: Done,
    first: Callable[[AsyncConnection], Awaitable[None]] | None = None,
) -> None:
    """One transaction, however many files, begun with `first`. A path that is there already is not laid out twice.
    Raises Stopped, ExportTooLarge where there are more files than a bag may have, and what `first` raises."""
    pieces = await asyncio.to_thread(lambda: [list(_pieces(file)) for file in files])
    heads = [tar.header(export.act, file.path, file.size, export.moment) for file in files]
    async with engine.begin() as db:
        if first:
            await first(db)
        this = (col(Export.act) == export.act) & (col(Export.state) == "preparing")
        row = (await db.execute(select(Export).where(this).with_for_update())).one_or_none()
        if row is None:
            raise Stopped
        there = await _there(db, export.act, [file.path for file in files])
        rows, kept, at, count = [], [], row.size, row.files
        for file, head, parts in zip(files, heads, pieces, strict=True):
            if file.path in there:
                continue
            there.add(file.path)
            rows.append(_row(export.act, count, at, file, head))
            kept += [{"act": export.act, "ordinal": count, "place": n, "data": part} for n, part in enumerate(parts)]
            at, count = at + tar.span(head, file.size), count + 1
        if count > MAX_FILES:
            raise errors.ExportTooLarge(f"more than {MAX_FILES} files")
        for part in _parts(rows):
            await db.execute(insert(ExportFile).values(part))
        for part in _parts(kept):
            await db.execute(insert(ExportPiece).values(part))
        media = row.bytes_laid + sum(one["size"] for one in rows if one["source"] in MEDIA)
        values: dict[str, Any] = {"size": at, "files": count, "bytes_laid": media, "bytes_done": media}
        if done.place is not None:
            item = (col(ExportItem.act) == export.act) & (col(ExportItem.place) == done.place)
            await db.execute(update(ExportItem).where(item).values(done=True))
        if done.etag is not None:
            values |= {"state": "ready", "etag": done.etag, "ready_at": done.ready_at, "size": at + len(tar.END)}
        await db.execute(update(Export).where(this).values(values))


async def _there(db: AsyncConnection, act: UUID, paths: list[str]) -> set[str]:
    found: set[str] = set()
    for first in range(0, len(paths), _ROWS):
        some = col(ExportFile.path).in_(paths[first : first + _ROWS])
        found |= set(await db.scalars(select(col(ExportFile.path)).where(col(ExportFile.act) == act, some)))
    return found


def _row(act: UUID, ordinal: int, start: int, file: File, head: bytes) -> dict[str, Any]:
    return {
        "act": act,
        "ordinal": ordinal,
        "path": file.path,
        "header": head,
        "start": start,
        "size": file.size,
        "sha256": file.sha256,
        "source": file.source,
        "recording_id": file.recording,
        "sequence": file.sequence,
    }


def _pieces(file: File) -> Iterator[bytes]:
    for at in range(0, len(file.data), PIECE):
        yield zlib.compress(file.data[at : at + PIECE], 1)


def _parts(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As many rows as one statement may carry, and of pieces no more than a few megabytes."""
    part: list[dict[str, Any]] = []
    weight = 0
    for row in rows:
        weight += len(row.get("data", b""))
        if part and (len(part) >= _ROWS or weight > 8 * PIECE):
            yield part
            part, weight = [], len(row.get("data", b""))
        part.append(row)
    if part:
        yield part
