"""The job that prepares an export (`__init__` tells all steps): 2 decide, 3 checkpoint, 4 prepare, 5 list.

Every step is repeated from the rows after a crash. An export that does not become ready says why: a segment that is
not what was sealed is named, and an alarm; a store that stays away lets the job die, and the job can be retried.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.media.program import ffmpeg
from services.vault import errors, succession
from services.vault.alarms import Alarms
from services.vault.contract import verify, wire
from services.vault.export import contents, copies, reading, readme
from services.vault.export.laying import Done, File, Source, Stopped, lay, of_bytes
from services.vault.keyring import KeyChanged, Keyring
from services.vault.keys import pem
from services.vault.log import statement, tree
from services.vault.log.checkpoints import Checkpoints
from services.vault.log.note import vkey
from services.vault.log.sequencer import Sequencer, among, tiles_for
from services.vault.models import Export, ExportFile, ExportItem, LogEntry, Manifest
from services.vault.sampling import DIFFERS
from services.vault.stores import staging
from services.vault.stores.port import Store
from services.vault.timestamps import Timestamper

GAVE_UP = "gave-up"
MAX_BYTES = 4 * 1024**4
_BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_VERIFIER = Path(verify.__file__)
_PROOFS = 256
_TOLD_EVERY = 1.0


class Preparer:
    """`scratch`: where copies are made."""

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        staged: staging.Staging,
        keys: Keyring,
        sequencer: Sequencer,
        checkpoints: Checkpoints,
        timestamper: Timestamper,
        alarms: Alarms,
        *,
        scratch: Path | None,
    ):
        self._engine, self._store, self._staging, self._keys = engine, store, staged, keys
        self._sequencer, self._checkpoints, self._timestamper = sequencer, checkpoints, timestamper
        self._alarms, self._scratch = alarms, scratch

    async def prepare(self, subject: str) -> None:
        act = UUID(subject)
        try:
            # 2. Decide.
            export = await self._decided(act)
            # 3. Checkpoint.
            export = await self._checkpointed(export)
            # 4. Item by item.
            await asyncio.to_thread(copies.clear, self._scratch, subject)
            await lay(self._engine, export, [of_bytes("bagit.txt", _BAGIT)], Done())
            while (item := await self._next(act)) is not None:
                await self._prepare_item(export, item)
            # 5. Lists.
            await self._finish(export)
        except Stopped:
            return
        except reading.SegmentDiffers as error:
            await self._differs(act, error)
        except (errors.ExportTooLarge, errors.DisposalUnderway, errors.KeyRotated) as error:
            await self._fail(act, error.slug, error.title)

    async def gave_up(self, subject: str) -> None:
        """The job failed as often as it may. Retried, it goes on where it was."""
        await self._fail(UUID(subject), GAVE_UP, "多次重试仍未能备好证据包，请联系管理员。")

    async def _decided(self, act: UUID) -> Any:
        async with self._engine.begin() as db:
            this = select(Export).where(col(Export.act) == act)
            row = (await db.execute(this.with_for_update())).one_or_none()
            again = row is not None and (row.state, row.reason) == ("failed", GAVE_UP)
            if row is None or not (again or row.state in ("waiting", "preparing")):
                raise Stopped
            values: dict[str, Any] = {"state": "preparing", "reason": None, "detail": None}
            left = select(col(ExportItem.place)).where(col(ExportItem.act) == act).limit(1)
            if await db.scalar(left) is None:
                items = await contents.decide(db, row)
                values["bytes_total"] = await contents.media_bytes(db, row)
                if values["bytes_total"] > MAX_BYTES:
                    raise errors.ExportTooLarge
                for first in range(0, len(items), 1000):
                    await db.execute(insert(ExportItem).values(items[first : first + 1000]))
            values["bytes_done"] = row.bytes_laid
            await db.execute(update(Export).where(col(Export.act) == act).values(values))
        self._sequencer.poke()
        return await self._export(act)

    async def _checkpointed(self, export: Any) -> Any:
        if export.tree_size is not None:
            return export
        async with self._engine.connect() as db:
            query = select(ExportItem).where(col(ExportItem.act) == export.act).order_by(col(ExportItem.place))
            acts = await contents.acts_to_cover(db, export, (await db.execute(query)).all())
        indexes = await self._sequencer.settled_all(list(acts))
        size, checkpoint = await self._checkpoints.covering(max(indexes.values()) + 1)
        this = (col(Export.act) == export.act) & (col(Export.state) == "preparing") & col(Export.tree_size).is_(None)
        async with self._engine.begin() as db:
            await db.execute(update(Export).where(this).values(tree_size=size, checkpoint=checkpoint))
        return await self._export(export.act)

    async def _export(self, act: UUID) -> Any:
        async with self._engine.connect() as db:
            row = (await db.execute(select(Export).where(col(Export.act) == act))).one()
        if row.state != "preparing":
            raise Stopped
        return row

    async def _next(self, act: UUID) -> Any | None:
        query = select(ExportItem).where(col(ExportItem.act) == act, col(ExportItem.done).is_(False))
        async with self._engine.connect() as db:
            return (await db.execute(query.order_by(col(ExportItem.place)).limit(1))).one_or_none()

    async def _prepare_item(self, export: Any, item: Any) -> None:
        part = await contents.Contents(self._engine, export).part(item)
        told = _Told(self._engine, export.act)
        files = []
        for media in part.media:
            sha256 = await reading.digest_of(self._store, media.pieces, told.read)
            size = sum(piece.size for piece in media.pieces)
            source: Source = "segment" if media.alone else "segments"
            sequence = media.pieces[0].sequence if media.alone else None
            files.append(File(media.path, size, sha256, source, recording=media.recording, sequence=sequence))
        if export.copies and part.playable:
            files += await self._copy(export, part.media[0], part.playable)
        files += part.files
        files += await self._proofs(export, part.acts)
        files += (await self._signing(export)).earlier(part.signers)
        await lay(self._engine, export, files, Done(place=item.place))

    async def _copy(self, export: Any, media: contents.Media, of: contents.Playable) -> list[File]:
        """The copy and its note, or a note that says why there is none."""
        program, name = ffmpeg(), of.name
        note: dict[str, Any] = {"copy_of": name, "manifest_sha256": of.manifest_sha256, "is_the_record": False}
        note |= {"tool": copies.version(program) if program else None}
        pieces = [*of.before, *media.pieces]

        async def chunks() -> AsyncIterator[bytes]:
            for piece in pieces:
                async for chunk in reading.whole(self._store, piece):
                    yield chunk

        files = []
        try:
            size = sum(piece.size for piece in pieces)
            async with copies.remuxed(self._scratch, str(export.act), of.format, chunks(), size) as made:
                sha256 = await asyncio.to_thread(staging.digest_of, made)
                length = (await asyncio.to_thread(made.stat)).st_size
                await self._staging.keep(copy_key(export.act, name), made, sha256)
            files.append(File(f"data/copies/{name}.mp4", length, sha256, "staged"))
            note |= {"made": True, "sha256": sha256, "size": length}
        except copies.NoCopy as error:
            note |= {"made": False, "why": str(error)}
        return [*files, of_bytes(f"copies/{name}.json", wire.canonical(note) + b"\n")]

    async def _proofs(self, export: Any, acts: Iterable[UUID]) -> list[File]:
        """One checkpoint for all of them; what they share is read and hashed once for some hundred."""
        wanted, files = sorted(acts), []
        for first in range(0, len(wanted), _PROOFS):
            some = wanted[first : first + _PROOFS]
            async with self._engine.connect() as db:
                entries = (await db.execute(select(LogEntry).where(among(LogEntry.act, some)))).all()
                needed = tree.right_edge(export.tree_size).union(*(tree.path(entry.position) for entry in entries))
                tiles = await tiles_for(db, needed)
            if len(entries) != len(some):
                raise errors.LogUnavailable
            places = [entry.position for entry in entries]
            found = await asyncio.to_thread(tree.inclusion_proofs, places, export.tree_size, tiles.__getitem__)
            for entry, hashes in zip(entries, found, strict=True):
                told = (entry.position, hashes, export.checkpoint, entry.salt, entry.statement)
                files.append(of_bytes(f"proofs/{entry.act}.tlog-proof", statement.proof_text(*told).encode()))
        return files

    async def _finish(self, export: Any) -> None:
        async with self._engine.connect() as db:
            payload = await _listed(db, export.act, data=True)
            tags = await _listed(db, export.act, data=False)
            uncopied = await self._uncopied(db, export.act) if export.copies else []
            positions = list(await db.scalars(_positions(export.act)))
        stamps = await self._timestamper.covering(positions, export.tree_size)
        signing = await self._signing(export)
        files = [*await self._proofs(export, [export.act, *signing.acts]), *await self._stamped(export, stamps)]
        files += [*key_files(signing), *_checkpoint_files(export.checkpoint, signing)]
        files.append(of_bytes("verify.py", await asyncio.to_thread(_VERIFIER.read_bytes)))
        policy = self._checkpoints.policy
        page = readme.page(signing.receipt.key_id, signing.vkey, policy, export.checkpoint, stamps, uncopied)
        files.append(of_bytes("README.md", page))
        files.append(of_bytes("manifest-sha256.txt", payload.lines))
        info = {"Source-Organization": self._keys.origin, "Bagging-Date": export.moment.date().isoformat()}
        info |= {"Payload-Oxum": f"{payload.size}.{payload.files}"}
        files.append(of_bytes("bag-info.txt", "".join(f"{name}: {value}\n" for name, value in info.items()).encode()))
        listing = tags.lines + "".join(f"{file.sha256}  {file.path}\n" for file in files).encode()
        files.append(of_bytes(verify.TAG_LISTING, listing))
        files.append(of_bytes(verify.TAG_SIGNATURE, await self._sign(signing.receipt.key_id, listing)))
        # What is ready never changes, and its listing tells of every file in it.
        etag = hashlib.sha256(export.act.bytes + listing).hexdigest()
        done = Done(etag=etag, ready_at=datetime.now(UTC))

        async def held(db: AsyncConnection) -> None:
            await self._keys.hold(db, "receipt", [signing.receipt.key_id])

        try:
            await lay(self._engine, export, files, done, held)
        except KeyChanged as error:
            raise errors.KeyRotated from error

    async def _signing(self, export: Any) -> Signing:
        """The vault's keys as the tree of the export's checkpoint tells of them."""
        async with self._engine.connect() as db:
            rows = await succession.listed(db)
            told = await contents.logged(db, list(contents.acts_of_keys(rows)), export.tree_size)
        known = sorted((row for row in rows if row.act in told), key=lambda row: told[row.act])
        newest = {row.purpose: row for row in known}
        return Signing(self._keys.origin, known, newest["receipt"], newest["log"], sorted(told))

    async def _sign(self, signer: str, listing: bytes) -> bytes:
        """By the newest key that the checkpoint tells of. Raises KeyRotated where it is not the current one."""
        await self._keys.renew()
        own = self._keys.keys
        if own.receipt_key_id != signer:
            raise errors.KeyRotated
        return own.sign_listing(listing)

    async def _uncopied(self, db: AsyncConnection, act: UUID) -> list[str]:
        paths = col(ExportFile.path)
        mine = select(paths).where(col(ExportFile.act) == act)
        notes = set(await db.scalars(mine.where(paths.like("copies/%"))))
        made = set(await db.scalars(mine.where(paths.like("data/copies/%"))))
        return sorted(n[7:-5] for n in notes if f"data/copies/{n[7:-5]}.mp4" not in made)

    async def _stamped(self, export: Any, stamps: list[Any]) -> list[File]:
        files: dict[str, File] = {}
        for stamp in stamps:
            path = [
                base64.b64encode(one) for one in await self._checkpoints.consistency(stamp.size, export.tree_size)
            ]
            stem = f"timestamps/{stamp.size}"
            for name, data in (
                (f"{stem}.checkpoint", stamp.checkpoint),
                (f"{stem}.tsr", stamp.token),
                (f"{stem}.consistency", b"".join(one + b"\n" for one in path)),
                (f"keys/tsa-{stamp.tsa}.pem", stamp.certificate),
            ):
                files.setdefault(name, of_bytes(name, data))
        return list(files.values())

    async def _differs(self, act: UUID, error: reading.SegmentDiffers) -> None:
        if await reading.disposed(self._engine, error.key):
            await self._fail(act, errors.RecordingDisposed.slug, "准备期间其中的记录已被销毁，请重新导出。")
            return
        await self._alarms.sound(DIFFERS, error.key, f"{error.what}；导出 {act} 因此停止。")
        await self._fail(act, errors.StoredDiffers.slug, f"片段 {error.key}：{error.what}。")

    async def _fail(self, act: UUID, reason: str, detail: str) -> None:
        this = (col(Export.act) == act) & col(Export.state).in_(("waiting", "preparing"))
        async with self._engine.begin() as db:
            values = {"state": "failed", "reason": reason, "detail": detail}
            await db.execute(update(Export).where(this).values(values))


class _Told:
    """Tells the row how much was read, at most once a second. Raises Stopped where nobody waits for it any more."""

    def __init__(self, engine: AsyncEngine, act: UUID):
        self._engine, self._act, self._more, self._at = engine, act, 0, time.monotonic()

    async def read(self, count: int) -> None:
        self._more += count
        if time.monotonic() - self._at < _TOLD_EVERY:
            return
        this = (col(Export.act) == self._act) & (col(Export.state) == "preparing")
        more = update(Export).where(this).values(bytes_done=col(Export.bytes_done) + self._more)
        async with self._engine.begin() as db:
            if not (await db.execute(more)).rowcount:
                raise Stopped
        self._more, self._at = 0, time.monotonic()


def copies_of(act: UUID | None = None) -> str:
    """Where the copies of an export, or of all, lie in the staging bucket."""
    return f"exports/{act}/" if act else "exports/"


def copy_key(act: UUID, name: str) -> str:
    return f"{copies_of(act)}{name}.mp4"


@dataclass(frozen=True)
class Signing:
    """The vault's keys that a checkpoint tells of: all of them, the newest of each purpose, and their acts."""

    origin: str
    known: list[Any]
    receipt: Any
    log: Any
    acts: list[UUID]

    @property
    def vkey(self) -> str:
        return vkey(self.origin, self.log.public_key)

    def earlier(self, signers: set[str]) -> list[File]:
        """The files of the keys among these that do not sign the bag's list."""
        wanted = [row for row in self.known if row.key_id in signers - {self.receipt.key_id}]
        return [of_bytes(f"keys/vault-{row.key_id}.pem", pem(row.public_key).encode()) for row in wanted]


def key_files(signing: Signing) -> list[File]:
    """The vault's public keys that sign now."""
    return [
        of_bytes("keys/vault.pem", pem(signing.receipt.public_key).encode()),
        of_bytes("keys/log.pem", pem(signing.log.public_key).encode()),
        of_bytes("keys/log.vkey", signing.vkey.encode() + b"\n"),
    ]


def _checkpoint_files(checkpoint: str, signing: Signing) -> list[File]:
    note, log = verify.parse_note(checkpoint), verify.parse_vkey(signing.vkey)
    signature = next(line.signature for line in note.signatures if line.of(log))
    parts = {"checkpoint": checkpoint.encode(), "checkpoint.body": note.text.encode(), "checkpoint.sig": signature}
    return [of_bytes(name, data) for name, data in parts.items()]


def _positions(act: UUID) -> Select[int]:
    """Where the log tells of what an authority's token is wanted for: the manifests."""
    query = select(col(LogEntry.position)).join(Manifest, col(Manifest.act) == col(LogEntry.act))
    this = (col(ExportItem.recording_id) == col(Manifest.recording_id)) & (
        col(ExportItem.number) == col(Manifest.number)
    )
    query = query.join(ExportItem, this)
    return query.where(col(ExportItem.act) == act, col(ExportItem.kind) == "manifest")


@dataclass(frozen=True)
class _Listed:
    lines: bytes
    files: int
    size: int


async def _listed(db: AsyncConnection, act: UUID, *, data: bool) -> _Listed:
    """The lines of a bag's list for what is laid out, made where the rows are."""
    query = text(f"""
        SELECT coalesce(string_agg(sha256 || '  ' || path || chr(10), '' ORDER BY path COLLATE "C"), '') AS lines,
            count(*) AS files, coalesce(sum(size), 0) AS size
        FROM vault.export_files WHERE act = :act AND path {"" if data else "NOT"} LIKE 'data/%'
    """)  # noqa: S608
    row = (await db.execute(query, {"act": act})).one()
    return _Listed(row.lines.encode(), row.files, int(row.size))
