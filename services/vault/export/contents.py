"""What an export consists of, and what stands in the bag for each part of it.

Decided once, under the locks of what is still open; afterwards everything is read by what was decided: a manifest by
its number, what no manifest holds yet and the versions of a series by the tree that the export's checkpoint is of.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors, succession
from services.vault.contract import verify, wire
from services.vault.export.laying import File, of_bytes
from services.vault.keys import pem
from services.vault.log.sequencer import among
from services.vault.minutes import state_segments
from services.vault.models import Enrolment, LogEntry, Manifest, Recording, Segment, Tombstone

_KEPT = ("sealed", "disposed")
_OPEN = text("""
    SELECT s.*, r.format FROM vault.segments AS s JOIN vault.log_entries AS e ON e.act = s.statement_act
    JOIN vault.recordings AS r ON r.id = s.recording_id
    WHERE s.recording_id = :recording AND s.number = :number AND s.state IN ('sealed', 'disposed')
    AND e.position < :size ORDER BY s.sequence, s.sealed_at, s.sha256
""")


@dataclass(frozen=True)
class Piece:
    """One sealed segment, as the store has it."""

    sequence: int
    sha256: str
    size: int
    key: str
    version: str


@dataclass(frozen=True)
class Media:
    """Sealed segments end to end, as one file of the bag."""

    path: str
    pieces: list[Piece]
    recording: UUID
    alone: bool = False
    """One segment as a file of its own."""


@dataclass(frozen=True)
class Playable:
    """Closed media that a copy may be made of: their name, manifest and format, and what goes before them."""

    name: str
    manifest_sha256: str
    format: wire.Format
    before: list[Piece]


@dataclass(frozen=True)
class Part:
    """One item of an export: its media, its other files, and the acts whose proofs belong to it."""

    media: list[Media]
    files: list[File]
    acts: set[UUID]
    signers: set[str]
    """Ids of the vault's keys that signed something of it."""
    playable: Playable | None = None


async def decide(db: AsyncConnection, export: Any) -> list[dict[str, Any]]:
    """The items of an export, in order. What is sealed of an open recording and not told in the log yet is told now.
    Raises DisposalUnderway."""
    asked = [*export.recordings, *export.series]
    these = select(Recording).where(col(Recording.id).in_(asked)).order_by(col(Recording.id))
    still_open = these.where(col(Recording.state) == "open", col(Recording.kind) == "recording")
    locked = (await db.execute(still_open.with_for_update(read=True))).all()
    # What is open stays as it is now; what closed in the moment before is found closed.
    known = {row.id: row for row in [*await db.execute(these), *locked]}
    if any(row.state == "disposing" for row in known.values()):
        raise errors.DisposalUnderway
    numbers: dict[UUID, list[int]] = {}
    manifests = select(col(Manifest.recording_id), col(Manifest.number))
    manifests = manifests.where(col(Manifest.recording_id).in_(export.recordings))
    for row in await db.execute(manifests.order_by(col(Manifest.recording_id), col(Manifest.number))):
        numbers.setdefault(row.recording_id, []).append(row.number)
    items: list[dict[str, Any]] = []

    def add(kind: str, recording: UUID, number: int = 0, *, gone: bool) -> None:
        told = {"act": export.act, "place": len(items), "kind": kind, "recording_id": recording}
        items.append(told | {"number": number, "gone": gone})

    for one in asked:
        row = known[one]
        gone = row.state == "disposed"
        for number in numbers.get(one, ()):
            if not gone:
                await _told(db, one, number)
            add("manifest", one, number, gone=gone)
        if row.kind == "series":
            add("series", one, gone=gone)
        elif row.state == "open" and await _told(db, one, row.number):
            add("open", one, row.number, gone=False)
        if gone:
            add("disposed", one, gone=True)
    return items


async def _told(db: AsyncConnection, recording: UUID, number: int) -> bool:
    """Whether something is sealed under this number; what no statement tells of yet is told in this transaction."""
    mine = (col(Segment.recording_id) == recording) & (col(Segment.number) == number)
    mine &= col(Segment.state) == "sealed"
    if await db.scalar(select(col(Segment.sequence)).where(mine).limit(1)) is None:
        return False
    untold = select(Segment).where(mine, col(Segment.statement_act).is_(None)).order_by(col(Segment.sequence))
    await state_segments(db, (await db.execute(untold.with_for_update())).all())
    return True


async def media_bytes(db: AsyncConnection, export: Any) -> int:
    """What is to be read for it."""
    asked = [*export.recordings, *export.series]
    these = col(Segment.recording_id).in_(asked) & (col(Segment.state) == "sealed")
    return int(await db.scalar(select(func.coalesce(func.sum(col(Segment.size)), 0)).where(these)) or 0)


async def acts_to_cover(db: AsyncConnection, export: Any, items: Sequence[Any]) -> set[UUID]:
    """The acts that the export's checkpoint must hold."""
    acts = {export.act, *acts_of_keys(await succession.listed(db))}
    for item in items:
        mine = (col(Segment.recording_id) == item.recording_id) & col(Segment.state).in_(_KEPT)
        if item.kind == "manifest":
            this = (col(Manifest.recording_id) == item.recording_id) & (col(Manifest.number) == item.number)
            acts |= set(await db.scalars(select(col(Manifest.act)).where(this)))
            for row in await db.execute(_enrolment(item.recording_id)):
                acts |= {row.act, row.revoked_act} - {None}
            told = select(col(Segment.statement_act), col(Segment.conflict_act)).distinct()
            for row in await db.execute(told.where(mine, col(Segment.number) == item.number)):
                acts |= {row.statement_act, row.conflict_act} - {None}
        elif item.kind == "disposed":
            this = col(Tombstone.recording_id) == item.recording_id
            acts |= set(await db.scalars(select(col(Tombstone.act)).where(this)))
        else:
            columns = (col(Segment.sequence), col(Segment.sha256), col(Segment.statement_act))
            query = select(*columns, col(Segment.conflict_act)).where(mine)
            rows = (await db.execute(query.where(col(Segment.number) == item.number))).all()
            acts |= {row.conflict_act for row in rows if row.conflict_act}
            if item.kind == "open":
                acts |= {row.statement_act for row in rows if row.statement_act}
            else:
                acts |= {wire.series_act(item.recording_id, row.sequence, row.sha256) for row in rows}
    return acts


def acts_of_keys(rows: Iterable[Any]) -> set[UUID]:
    """What the log tells of the vault's own keys."""
    return {act for row in rows for act in (row.act, row.retired_act, row.revoked_act) if act}


async def logged(db: AsyncConnection, acts: Collection[UUID], size: int) -> dict[UUID, int]:
    """Those of these acts that a tree of this size holds, with their indexes."""
    query = select(col(LogEntry.act), col(LogEntry.position)).where(among(LogEntry.act, acts))
    return {row.act: row.position for row in await db.execute(query.where(col(LogEntry.position) < size))}


def _enrolment(recording: UUID) -> Any:
    query = select(col(Recording.key_id), col(Enrolment.public_key), col(Enrolment.act), col(Enrolment.revoked_act))
    query = query.outerjoin(Enrolment, col(Enrolment.key_id) == col(Recording.key_id))
    return query.where(col(Recording.id) == recording)


class Contents:
    """Reads the parts of one export."""

    def __init__(self, engine: AsyncEngine, export: Any):
        self._engine, self._export = engine, export

    async def part(self, item: Any) -> Part:
        match item.kind:
            case "manifest":
                return await self._manifest(item.recording_id, item.number, gone=item.gone)
            case "open":
                return await self._open(item.recording_id, item.number)
            case "series":
                return await self._series(item.recording_id, gone=item.gone)
            case _:
                return await self._disposed(item.recording_id)

    async def _manifest(self, recording: UUID, number: int, *, gone: bool) -> Part:
        this = (col(Manifest.recording_id) == recording) & (col(Manifest.number) == number)
        async with self._engine.connect() as db:
            row = (await db.execute(select(Manifest).where(this))).one()
            source = (await db.execute(_enrolment(recording))).one()
            told = await logged(db, [act for act in (source.act, source.revoked_act) if act], self._export.tree_size)
        envelope, manifest = await asyncio.to_thread(_read, row.envelope)
        segments = [_piece(one) for one in manifest["segments"]]
        beside = [_piece({**one, "sequence": one["of_sequence"]}) for one in manifest["beside"]]
        name = f"{recording}.{number}" if number else str(recording)
        receipts, acts, signers = await self._receipts(recording, number, segments + beside)
        signers |= _signers_of(envelope)
        folder = f"recordings/{name}"
        files = [
            *_signed(f"{folder}/manifest", row.envelope, envelope),
            of_bytes(f"{folder}/receipts.jsonl", receipts),
            of_bytes(f"{folder}/offsets.tsv", offsets(segments)),
        ]
        acts |= {row.act}
        if source.key_id:
            files.append(of_bytes(f"keys/terminal-{source.key_id}.pem", pem(source.public_key).encode()))
            acts |= told.keys()
        kind = wire.media_of(manifest)["format"]
        media = [] if gone else _media(f"data/{name}", kind, recording, segments, beside)
        fragments = kind == "mp4" and number > 0
        before = await self._initial(recording) if fragments else []
        plays = not gone and bool(segments) and bool(before or not fragments)
        return Part(media, files, acts, signers, Playable(name, row.sha256, kind, before) if plays else None)

    async def _initial(self, recording: UUID) -> list[Piece]:
        """The initial segment of a recording, without which a supplement does not play."""
        query = select(Segment).where(col(Segment.recording_id) == recording, col(Segment.media) == "init")
        query = query.where(col(Segment.number) == 0, col(Segment.state) == "sealed")
        async with self._engine.connect() as db:
            found = (await db.execute(query.order_by(col(Segment.sealed_at)).limit(1))).one_or_none()
        return [_of_row(found)] if found else []

    async def _open(self, recording: UUID, number: int) -> Part:
        asked = {"recording": recording, "number": number, "size": self._export.tree_size}
        async with self._engine.connect() as db:
            rows = (await db.execute(_OPEN, asked)).all()
        first, beside = _apart(rows)
        segments = [_of_row(row) for row in first]
        folder = f"recordings/{recording}.open"
        files = [
            of_bytes(f"{folder}/receipts.jsonl", await asyncio.to_thread(_lines, first + beside)),
            of_bytes(f"{folder}/offsets.tsv", offsets(segments)),
        ]
        beside_it = [_of_row(row) for row in beside]
        media = _media(f"data/{recording}.open", rows[0].format, recording, segments, beside_it)
        return Part(media, files, _acts(first + beside), _signers(first + beside))

    async def _series(self, series: UUID, *, gone: bool) -> Part:
        mine = (col(Segment.recording_id) == series) & col(Segment.state).in_(_KEPT)
        query = select(Segment).where(mine)
        query = query.order_by(col(Segment.sequence), col(Segment.sealed_at), col(Segment.sha256))
        async with self._engine.connect() as db:
            every = (await db.execute(query)).all()
            acts = {(row.sequence, row.sha256): wire.series_act(series, row.sequence, row.sha256) for row in every}
            there = await logged(db, list(acts.values()), self._export.tree_size)
        rows = [row for row in every if acts[row.sequence, row.sha256] in there]
        first, beside = _apart(rows)
        names = [(row, f"{row.sequence}") for row in first]
        names += [(row, f"{row.sequence}-{row.sha256}") for row in beside]
        names.sort(key=lambda named: (named[0].sequence, named[0].sealed_at, named[0].sha256))
        media = [Media(f"data/series/{series}/{name}", [_of_row(row)], series, alone=True) for row, name in names]
        files = [of_bytes(f"series/{series}/receipts.jsonl", await asyncio.to_thread(_lines, rows))]
        told = {acts[row.sequence, row.sha256] for row in rows} | {row.conflict_act for row in rows}
        return Part([] if gone else media, files, told - {None}, _signers(rows))

    async def _disposed(self, recording: UUID) -> Part:
        async with self._engine.connect() as db:
            this = col(Tombstone.recording_id) == recording
            row = (await db.execute(select(Tombstone).where(this))).one()
            kind = await db.scalar(select(col(Recording.kind)).where(col(Recording.id) == recording))
        envelope = wire.Envelope.model_validate_json(row.envelope)
        folder = f"series/{recording}" if kind == "series" else f"recordings/{recording}"
        files = _signed(f"{folder}/tombstone", row.envelope, envelope)
        return Part([], files, {row.act}, _signers_of(envelope))

    async def _receipts(self, recording: UUID, number: int, pieces: list[Piece]) -> tuple[bytes, set[UUID], set[str]]:
        mine = (col(Segment.recording_id) == recording) & (col(Segment.number) == number)
        query = select(Segment).where(mine, col(Segment.state).in_(_KEPT))
        async with self._engine.connect() as db:
            rows = {(row.sequence, row.sha256): row for row in await db.execute(query)}
        ordered = [rows[piece.sequence, piece.sha256] for piece in pieces]
        return await asyncio.to_thread(_lines, ordered), _acts(ordered), _signers(ordered)


def offsets(pieces: Sequence[Piece]) -> bytes:
    lines, offset = [verify.OFFSETS_HEADER], 0
    for piece in pieces:
        lines.append(f"{piece.sequence}\t{offset}\t{piece.size}\t{piece.sha256}\n")
        offset += piece.size
    return "".join(lines).encode()


def _read(stored: bytes) -> tuple[wire.Envelope, dict[str, Any]]:
    envelope = wire.Envelope.model_validate_json(stored)
    return envelope, envelope.decoded()


def _signed(stem: str, stored: bytes, envelope: wire.Envelope) -> list[File]:
    """A DSSE envelope, and what stock openssl checks of it."""
    return [
        of_bytes(f"{stem}.dsse.json", stored),
        of_bytes(f"{stem}.pae", verify.pae(envelope.payloadType, base64.b64decode(envelope.payload))),
        of_bytes(f"{stem}.sig", base64.b64decode(envelope.signatures[0].sig)),
    ]


def _media(stem: str, kind: str, recording: UUID, segments: list[Piece], beside: list[Piece]) -> list[Media]:
    whole = Media(f"{stem}.{kind}", segments, recording)
    apart = [
        Media(f"{stem}.beside/{each.sequence:010d}-{each.sha256}", [each], recording, alone=True) for each in beside
    ]
    return [whole, *apart]


def _apart(rows: Sequence[Row[Any]]) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """Of each sequence what was sealed first, and the rest."""
    first: list[Row[Any]] = []
    beside: list[Row[Any]] = []
    seen: set[int] = set()
    for row in rows:
        (beside if row.sequence in seen else first).append(row)
        seen.add(row.sequence)
    return first, beside


def _acts(rows: Sequence[Row[Any]]) -> set[UUID]:
    return ({row.statement_act for row in rows} | {row.conflict_act for row in rows}) - {None}


def _signers(rows: Sequence[Row[Any]]) -> set[str]:
    return {signature["keyid"] for row in rows for signature in row.receipt["signatures"]}


def _signers_of(envelope: wire.Envelope) -> set[str]:
    return {signature.keyid for signature in envelope.signatures}


def _lines(rows: Sequence[Row[Any]]) -> bytes:
    return b"".join(wire.canonical(row.receipt) + b"\n" for row in rows)


def _piece(listed: dict[str, Any]) -> Piece:
    return Piece(listed["sequence"], listed["sha256"], listed["size"], listed["key"], listed["version"])


def _of_row(row: Row[Any]) -> Piece:
    return Piece(row.sequence, row.sha256, row.size, row.key, row.version)
