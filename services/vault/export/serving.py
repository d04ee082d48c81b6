"""Any range of an export's tar, made from its rows: alike each time, whichever process does it (step 6)."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.alarms import Alarms
from services.vault.contract import ranges
from services.vault.export import reading, tar
from services.vault.export.contents import Piece
from services.vault.export.laying import PIECE
from services.vault.export.preparing import copy_key
from services.vault.models import Export, ExportFile, ExportItem, ExportPiece, Recording, Segment
from services.vault.sampling import DIFFERS
from services.vault.stores.port import Store
from services.vault.stores.staging import Staging

_FILES, _SEGMENTS = 128, 256
_SMALL = 64 * 1024
_UNREADY = {
    "waiting": errors.ExportNotReady,
    "preparing": errors.ExportNotReady,
    "failed": errors.ExportFailed,
    "lapsed": errors.ExportLapsed,
}


@dataclass(frozen=True)
class Bag:
    """What answers a request for the tar, or for a range of it."""

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]


class Server:
    def __init__(self, engine: AsyncEngine, store: Store, staged: Staging, alarms: Alarms):
        self._engine, self._store, self._staging, self._alarms = engine, store, staged, alarms

    async def open(self, act: UUID, range_header: str | None, if_range: str | None) -> Bag:
        """Raises NoSuchExport, ExportNotReady, ExportFailed, ExportLapsed, RecordingDisposed, RangeUnsatisfiable. A
        segment that is not what was sealed ends the stream."""
        async with self._engine.connect() as db:
            export = (await db.execute(select(Export).where(col(Export.act) == act))).one_or_none()
            gone = select(col(ExportItem.recording_id)).where(col(ExportItem.act) == act)
            gone = gone.where(col(ExportItem.gone).is_(False), col(ExportItem.kind) != "disposed")
            gone = gone.join(Recording, col(Recording.id) == col(ExportItem.recording_id))
            gone = gone.where(col(Recording.state).in_(("disposing", "disposed"))).limit(1)
            disposed = await db.scalar(gone)
        if export is None:
            raise errors.NoSuchExport
        if export.expires_at <= datetime.now(UTC):
            raise errors.ExportLapsed
        if refused := _UNREADY.get(export.state):
            raise refused(export.detail)
        if disposed is not None:
            raise errors.RecordingDisposed(recordings=[str(disposed)])
        etag, size = f'"{export.etag}"', export.size
        headers = {"etag": etag, "accept-ranges": "bytes", "content-type": "application/x-tar"}
        try:
            part = ranges.asked(range_header, if_range, etag, size)
        except ranges.Unsatisfiable as error:
            raise errors.RangeUnsatisfiable(size=size) from error
        first, end = part or (0, size)
        headers["content-length"] = str(end - first)
        if part:
            headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
        return Bag(206 if part else 200, headers, self._stream(export, first, end))

    async def _stream(self, export: Any, first: int, end: int) -> AsyncIterator[bytes]:
        at = first
        async for row, small in self._files(export.act, first, end):
            body = row.start + len(row.header)
            if at < body:
                yield (part := row.header[at - row.start : end - row.start])
                at += len(part)
            if at < min(end, body + row.size):
                async for chunk in self._body(row, small, at - body, min(end - body, row.size)):
                    yield chunk
                at = min(end, body + row.size)
            blank = min(end, body + row.size + tar.padding(row.size)) - at
            if blank > 0:
                yield bytes(blank)
                at += blank
            if at >= end:
                return
        if at < end:
            yield tar.END[len(tar.END) - (export.size - at) :][: end - at]

    async def _files(self, act: UUID, first: int, end: int) -> AsyncIterator[tuple[Any, bytes | None]]:
        """The files from the one that `first` lies in, a batch at a time, the small ones with their bytes."""
        mine = col(ExportFile.act) == act
        query = select(col(ExportFile.ordinal)).where(mine, col(ExportFile.start) <= first)
        async with self._engine.connect() as db:
            ordinal = await db.scalar(query.order_by(col(ExportFile.start).desc()).limit(1)) or 0
        while True:
            some = mine & (col(ExportFile.ordinal) >= ordinal) & (col(ExportFile.ordinal) < ordinal + _FILES)
            some &= col(ExportFile.start) < end
            async with self._engine.connect() as db:
                rows = (await db.execute(select(ExportFile).where(some).order_by(col(ExportFile.ordinal)))).all()
                little = [row.ordinal for row in rows if row.source == "pieces" and row.size <= _SMALL]
                pieces = select(ExportPiece).where(col(ExportPiece.act) == act, col(ExportPiece.ordinal).in_(little))
                small = {piece.ordinal: zlib.decompress(piece.data) for piece in await db.execute(pieces)}
            for row in rows:
                yield row, small.get(row.ordinal, b"" if row.ordinal in little else None)
            if len(rows) < _FILES:
                return
            ordinal += _FILES

    def _body(self, row: Any, small: bytes | None, first: int, end: int) -> AsyncIterator[bytes]:
        if small is not None:
            return _one(small[first:end])
        if row.source == "pieces":
            return self._pieces(row.act, row.ordinal, first, end)
        if row.source == "staged":
            return self._copy(row, first, end)
        return self._sealed(row, first, end)

    async def _pieces(self, act: UUID, ordinal: int, first: int, end: int) -> AsyncIterator[bytes]:
        this = (col(ExportPiece.act) == act) & (col(ExportPiece.ordinal) == ordinal)
        for place in range(first // PIECE, (end + PIECE - 1) // PIECE):
            query = select(col(ExportPiece.data)).where(this, col(ExportPiece.place) == place)
            async with self._engine.connect() as db:
                data = await db.scalar(query)
            if data is None:
                raise errors.ExportLapsed
            begin = place * PIECE
            yield zlib.decompress(data)[max(0, first - begin) : end - begin]

    async def _copy(self, row: Any, first: int, end: int) -> AsyncIterator[bytes]:
        key, digest = copy_key(row.act, row.path.rpartition("/")[2].removesuffix(".mp4")), hashlib.sha256()
        async for chunk in self._staging.read(key, (first, end)):
            digest.update(chunk)
            yield chunk
        if (first, end) == (0, row.size) and digest.hexdigest() != row.sha256:
            raise errors.StoredDiffers(f"the copy {key} is not what was made")

    async def _sealed(self, row: Any, first: int, end: int) -> AsyncIterator[bytes]:
        batch: list[tuple[int, int, str, int]] = []
        async for listed in self._segments(row, first, end):
            batch.append(listed)
            if len(batch) == _SEGMENTS:
                async for chunk in self._batch(row.recording_id, batch, first, end):
                    yield chunk
                batch = []
        async for chunk in self._batch(row.recording_id, batch, first, end):
            yield chunk

    async def _segments(self, row: Any, first: int, end: int) -> AsyncIterator[tuple[int, int, str, int]]:
        """Offset, sequence, digest and size of each sealed segment of a file that the range touches."""
        if row.source == "segment":
            yield 0, row.sequence, row.sha256, row.size
            return
        folder = row.path.removeprefix("data/").rpartition(".")[0]
        this = (col(ExportFile.act) == row.act) & (col(ExportFile.path) == f"recordings/{folder}/offsets.tsv")
        async with self._engine.connect() as db:
            listing = (await db.execute(select(ExportFile).where(this))).one_or_none()
        if listing is None:
            raise errors.ExportLapsed
        rest = b""
        async for part in self._pieces(row.act, listing.ordinal, 0, listing.size):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                sequence, offset, size, sha256 = line.decode().split("\t")
                if sequence == "sequence" or int(offset) + int(size) <= first:
                    continue
                if int(offset) >= end:
                    return
                yield int(offset), int(sequence), sha256, int(size)

    async def _batch(
        self, recording: UUID, listed: Sequence[tuple[int, int, str, int]], first: int, end: int
    ) -> AsyncIterator[bytes]:
        names = [(sequence, sha256) for _, sequence, sha256, _ in listed]
        key = tuple_(col(Segment.sequence), col(Segment.sha256))
        query = select(col(Segment.sequence), col(Segment.sha256), col(Segment.key), col(Segment.version))
        query = query.where(col(Segment.recording_id) == recording, key.in_(names))
        async with self._engine.connect() as db:
            found = {(row.sequence, row.sha256): row for row in await db.execute(query)}
        for offset, sequence, sha256, size in listed:
            row = found[sequence, sha256]
            piece = Piece(sequence, sha256, size, row.key, row.version)
            begin, stop = max(0, first - offset), min(size, end - offset)
            async for chunk in self._piece(piece, begin, stop):
                yield chunk

    async def _piece(self, piece: Piece, first: int, end: int) -> AsyncIterator[bytes]:
        if (first, end) != (0, piece.size):
            async for chunk in self._store.read(piece.key, piece.version, (first, end)):
                yield chunk
            return
        try:
            try:
                async for chunk in reading.whole(self._store, piece):
                    yield chunk
            except errors.StoreUnavailable:
                await reading.look(self._store, piece)
                raise
        except reading.SegmentDiffers as error:
            if await reading.disposed(self._engine, error.key):
                raise errors.RecordingDisposed from error
            await self._alarms.sound(DIFFERS, error.key, f"{error.what}；一次下载因此中断。")
            raise errors.StoredDiffers(f"{error.key} is not what was sealed") from error


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
