"""A single file, from what is said of it to its receipt.

1. *Tell.* What it is and who brings it, once and for all under its id; it awaits its bytes.
2. *Take.* All of the bytes, typed by their content and compared with the digest that came with them.
3. *Intend.* Its next version is written down, with everything that the receipt will stand for.
4. *Seal* by the cycle of `holding.py`, as a version of the file's series in the vault.
5. *Count.* The version is sealed, and is the file's newest.

The same bytes again are the same version, whatever broke off in between; other bytes become a version only for who
names the one that they follow.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api.database import Sessions
from services.api.errors import (
    DigestDiffers,
    FileBusy,
    FileDiffers,
    FileEmpty,
    FileIdUnfit,
    FileTypeUnfit,
    FileVersionDiffers,
    NoSuchFile,
    TooManyFiles,
    TooManyVersions,
)
from services.api.identity.principal import Principal
from services.api.recorders.addresses import Pusher
from services.api.recordings.doors import limits
from services.api.recordings.files.facts import facts_of
from services.api.recordings.files.kinds import KINDS, exif_time
from services.api.recordings.files.models import File, FileVersion
from services.api.recordings.files.schemas import NewFile, SealedFile
from services.api.recordings.footage import handovers
from services.api.recordings.holding import SEAL_SECONDS, Holder, Piece, digest
from services.media.single import type_of
from services.vault.contract import wire
from services.vault.contract.client import VaultClient

_BUSY = timedelta(seconds=2 * SEAL_SECONDS)
"""So long bytes that are being sealed as the next version keep others from becoming it."""


@dataclass(frozen=True)
class Bringer:
    """A source by one of its addresses, or a person."""

    unit_id: UUID
    officer_id: UUID | None
    source_id: UUID | None = None
    address_id: UUID | None = None
    person_id: UUID | None = None

    @classmethod
    def of_address(cls, pusher: Pusher) -> Self:
        return cls(pusher.unit_id, pusher.officer_id, source_id=pusher.recorder_id, address_id=pusher.address_id)

    @classmethod
    def of_person(cls, who: Principal) -> Self:
        return cls(who.unit_id, who.person_id, person_id=who.person_id)

    @property
    def way(self) -> UUID:
        """What their requests are counted by."""
        found = self.address_id or self.person_id
        assert found
        return found

    def brought(self) -> ColumnElement[bool]:
        """The files of this source, or of this person."""
        if self.source_id is not None:
            return col(File.source_id) == self.source_id
        return col(File.person_id) == self.person_id


@dataclass(frozen=True)
class Means:
    sessions: Sessions
    vault: VaultClient
    holder: Holder


@dataclass(frozen=True)
class Came:
    """All the bytes that came. `follows` is the version that they are to follow, `sha256` what they should be."""

    data: bytes
    name: str | None = None
    follows: int | None = None
    sha256: str | None = None
    door: str = "simple"


async def tell(
    sessions: Sessions, bringer: Bringer, file: UUID | None, new: NewFile, *, key: str | None = None
) -> File:
    """The file under this id, or under this Idempotency-Key; the same again changes nothing. Raises FileIdUnfit,
    FileDiffers, TooManyFiles, NoSuchHandover."""
    if file is not None and file.version != 7:
        raise FileIdUnfit
    digested = None if key is None else hashlib.sha256(key.encode()).digest()
    same = col(File.id) == file if file is not None else col(File.key_sha256) == digested
    query = select(File).where(same, bringer.brought())
    about = new.said()
    async with sessions.begin() as db:
        kept = await db.scalar(query)
        if kept is None:
            if new.handover is not None:
                await handovers.require(db, bringer.unit_id, bringer.source_id, new.handover)
            waiting = select(func.count()).select_from(File).where(bringer.brought())
            if (await db.scalar(waiting.where(col(File.state) == "awaiting")) or 0) >= limits.AWAITING_FILES:
                raise TooManyFiles
            values = {
                "id": file or uuid7(),
                "unit_id": bringer.unit_id,
                "source_id": bringer.source_id,
                "person_id": bringer.person_id,
                "officer_id": bringer.officer_id,
                "key_sha256": digested,
                "kind": new.kind,
                "about": about,
                "handover_id": new.handover,
                "state": "awaiting",
                "created_at": datetime.now(UTC),
            }
            await db.execute(insert(File).values(values).on_conflict_do_nothing())
            kept = await db.scalar(query)
    if kept is None or (kept.kind, kept.about, kept.handover_id) != (new.kind, about, new.handover):
        raise FileDiffers
    return kept


async def told(sessions: Sessions, bringer: Bringer, file: UUID) -> File:
    """One that was told of before. Raises NoSuchFile."""
    async with sessions() as db:
        kept = await db.scalar(select(File).where(col(File.id) == file, bringer.brought()))
    if kept is None:
        raise NoSuchFile
    return kept


async def take(means: Means, bringer: Bringer, file: File, came: Came) -> tuple[SealedFile, bool]:
    """Steps 2 to 5; and whether it is a version that was not there before. Raises FileEmpty, DigestDiffers,
    FileTypeUnfit, FileDiffers, FileVersionDiffers, FileBusy, TooManyVersions, VaultUnavailable, VaultRefused."""
    if not came.data:
        raise FileEmpty
    sha256 = await digest(came.data)
    if came.sha256 not in (None, sha256):
        raise DigestDiffers
    found = await asyncio.to_thread(type_of, came.data)
    if found is None or found not in KINDS[file.kind].formats:
        raise FileTypeUnfit(KINDS[file.kind].named)
    about = wire.canonical({"kind": file.kind, **file.about, "handover": _text(file.handover_id), "salt": _salt()})
    new = FileVersion(
        file_id=file.id,
        version=0,
        sha256=sha256,
        size=len(came.data),
        format=found,
        name=came.name,
        about=about.decode(),
        about_sha256=hashlib.sha256(about).hexdigest(),
        facts=facts_of(file.about),
        exif_time=await asyncio.to_thread(exif_time, came.data) if file.kind == "photo" else None,
        door=came.door,
        address_id=bringer.address_id,
        person_id=bringer.person_id,
        received_at=datetime.now(UTC),
    )
    version = await _intend(means.sessions, new, came.follows)
    if version.sealed_at is not None:
        name = wire.SegmentName(sequence=version.version, sha256=sha256)
        return _answer(version, (await means.vault.receipt(file.id, name)).receipt), False
    await means.vault.open_series(file.id, wire.OpenSeries(source=file.keeper))
    piece = Piece(came.data, "file", version.received_at, 0, 0, metadata_sha256=version.about_sha256)
    sealed = await means.holder.sealed(file.id, version.version, piece, sha256)
    await _count(means.sessions, version, sealed)
    return _answer(version, sealed.receipt), True


async def _intend(sessions: Sessions, new: FileVersion, follows: int | None) -> FileVersion:
    """What these bytes are sealed as: the version that they are already or were to become, or the next one."""
    mine = col(FileVersion.file_id) == new.file_id
    async with sessions.begin() as db:
        file = (await db.scalars(select(File).where(col(File.id) == new.file_id).with_for_update())).one()
        if (known := await _known(db, file, new.sha256)) is not None:
            return known
        if (follows or 0) != file.version:
            raise FileDiffers if follows is None else FileVersionDiffers(version=file.version)
        last = await db.scalar(select(FileVersion).where(mine).order_by(col(FileVersion.version).desc()).limit(1))
        if last is not None and last.sealed_at is None and new.received_at - last.received_at < _BUSY:
            raise FileBusy
        new.version = last.version + 1 if last is not None else 1
        if new.version > limits.VERSIONS:
            raise TooManyVersions
        db.add(new)
    return new


async def _known(db: AsyncSession, file: File, sha256: str) -> FileVersion | None:
    """A version of these bytes that is sealed, or that somebody has begun to seal as the next."""
    query = select(FileVersion).where(col(FileVersion.file_id) == file.id, col(FileVersion.sha256) == sha256)
    query = query.where(col(FileVersion.sealed_at).is_not(None) | (col(FileVersion.version) > file.version))
    return await db.scalar(query.order_by(col(FileVersion.version).desc()).limit(1))


async def _count(sessions: Sessions, version: FileVersion, sealed: wire.SealedSegment) -> None:
    values: dict[str, Any] = {"sealed_at": sealed.sealed_at, "lock": sealed.lock}
    values["key_id"] = sealed.receipt.signatures[0].keyid
    this = (col(FileVersion.file_id) == version.file_id) & (col(FileVersion.version) == version.version)
    newest = func.greatest(col(File.version), version.version)
    async with sessions.begin() as db:
        await db.execute(update(FileVersion).where(this, col(FileVersion.sealed_at).is_(None)).values(values))
        counted = update(File).where(col(File.id) == version.file_id)
        await db.execute(counted.values(state="sealed", version=newest, trouble=None))


def _answer(version: FileVersion, receipt: wire.Envelope) -> SealedFile:
    names = SealedFile.model_fields.keys() - {"id", "receipt"}
    return SealedFile(id=version.file_id, receipt=receipt, **{name: getattr(version, name) for name in names})


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _salt() -> str:
    return secrets.token_hex(16)
