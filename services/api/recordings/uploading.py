"""The rows of uploads: who may add to one, how far it has come, and what became of it.

Whoever comes for an upload begins an epoch, and every step is taken only by the epoch that is on: so a request that
is stuck, here or on another replica, takes no further step once somebody else has come.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api import jobs
from services.api.database import Sessions
from services.api.errors import AddressInvalid, NoSuchUpload, PartsUnfit, TooManyUploads, UploadGone, UploadSuperseded
from services.api.recorders import addresses
from services.api.recorders.addresses import Pusher
from services.api.recordings import service
from services.api.recordings.models import Recording, Upload
from services.vault.contract import wire

CLOSE, JOIN, ARRIVE = "close-upload", "join-upload", "file-arrives"
EXPIRE_SECONDS = 10.0
_EXPIRED_AT_ONCE = 100


async def begin(sessions: Sessions, pusher: Pusher, idle: timedelta, *, most: int, **values: Any) -> Upload:
    """A new one; one of no bytes is complete at once and leaves no recording. Raises TooManyUploads, PartsUnfit."""
    now = datetime.now(UTC)
    upload = Upload(id=uuid7(), address_id=pusher.address_id, created_at=now, expires_at=now + idle, **values)
    async with sessions.begin() as db:
        mine = select(func.count()).select_from(Upload).where(col(Upload.address_id) == pusher.address_id)
        if (await db.scalar(mine.where(col(Upload.state) == "open")) or 0) >= most:
            raise TooManyUploads
        if upload.parts is not None:
            upload.length = await _length_of(db, pusher, upload.parts)
        if upload.length == 0 and upload.by_length:
            upload.state, upload.completed_at, upload.closed = "complete", now, True
        db.add(upload)
        if upload.parts is not None and upload.state == "open":
            await jobs.enter(db, JOIN, str(upload.id))
    return upload


async def _length_of(db: AsyncSession, pusher: Pusher, parts: list[UUID]) -> int:
    query = select(Upload).where(col(Upload.id).in_(parts), col(Upload.address_id) == pusher.address_id)
    query = query.where(col(Upload.kind) == "partial", col(Upload.state) == "complete")
    found = {part.id: part.received for part in await db.scalars(query)}
    if set(parts) - found.keys():
        raise PartsUnfit
    return sum(found[part] for part in parts)


async def look(sessions: Sessions, pusher: Pusher, upload: UUID) -> Upload:
    """As it stands, whoever is at it. Raises NoSuchUpload."""
    query = select(Upload).where(col(Upload.id) == upload, col(Upload.address_id) == pusher.address_id)
    async with sessions() as db:
        found = await db.scalar(query)
    if found is None:
        raise NoSuchUpload
    return found


async def claim(sessions: Sessions, upload: UUID) -> Upload:
    """From now on only who holds the answer may add to it. Raises NoSuchUpload, UploadGone."""
    claiming = update(Upload).where(col(Upload.id) == upload).values(epoch=col(Upload.epoch) + 1)
    async with sessions.begin() as db:
        found: Upload | None = await db.scalar(claiming.returning(Upload))
    if found is None:
        raise NoSuchUpload
    require_there(found)
    return found


def require_there(upload: Upload) -> None:
    """Raises UploadGone."""
    if upload.state not in ("open", "complete"):
        raise UploadGone(upload.state)
    if upload.state == "open" and upload.expires_at <= datetime.now(UTC):
        raise UploadGone("expired")


async def require_on(sessions: Sessions, upload: Upload) -> None:
    """Raises UploadSuperseded where another epoch has begun."""
    async with sessions() as db:
        if await db.scalar(select(col(Upload.epoch)).where(col(Upload.id) == upload.id)) != upload.epoch:
            raise UploadSuperseded


async def step(db: AsyncSession, upload: Upload, **values: Any) -> None:
    """Change the row if this epoch is still on, and bring `upload` up to it. Raises UploadSuperseded,
    AddressInvalid."""
    this = (col(Upload.id) == upload.id) & (col(Upload.epoch) == upload.epoch) & (col(Upload.state) == "open")
    stepping = update(Upload).where(this, addresses.valid(upload.address_id)).values(values)
    found = await db.scalar(stepping.returning(Upload).execution_options(populate_existing=True))
    if found is None:
        if await db.scalar(select(addresses.valid(upload.address_id))) is not True:
            raise AddressInvalid
        raise UploadSuperseded
    for name in Upload.model_fields:
        setattr(upload, name, getattr(found, name))


async def intend(sessions: Sessions, upload: Upload, sha256: str, size: int, *, ends: bool, kind: str) -> None:
    """The next segment is about to be sealed. What the file is is said once, by the first bytes that ever came."""
    pending = {"pending_sha256": sha256, "pending_size": size, "pending_ends": ends}
    async with sessions.begin() as db:
        await step(db, upload, format=func.coalesce(col(Upload.format), kind), **pending)


async def index(db: AsyncSession, pusher: Pusher, upload: Upload, sealed: wire.SealedSegment) -> None:
    """The first segment brings the recording into being."""
    values = {
        "id": upload.id,
        "recorder_id": pusher.recorder_id,
        "unit_id": pusher.unit_id,
        "officer_id": pusher.officer_id,
        "state": "open",
        "door": "resumable",
        "container": "file",
        "format": upload.format,
        "started_at": upload.created_at,
        "remuxed_by": pusher.remuxed_by,
        "handover_id": upload.handover_id,
    }
    await db.execute(insert(Recording).values(values).on_conflict_do_nothing())
    await service.index(db, upload.id, [service.columns(sealed)])


async def segment_sealed(
    sessions: Sessions, pusher: Pusher, upload: Upload, idle: timedelta, sealed: wire.SealedSegment
) -> None:
    """What was pending is sealed: it counts, and the tail that went into it no longer does."""
    assert upload.pending_size is not None
    async with sessions.begin() as db:
        await index(db, pusher, upload, sealed)
        whole = upload.sealed + upload.pending_size
        ends = upload.pending_ends or (upload.by_length and upload.length == whole)
        values: dict[str, Any] = {"sealed": whole, "received": whole, "segments": upload.segments + 1}
        values |= {"tail": None, "tail_sha256": None, "pending_sha256": None, "pending_size": None}
        values |= {"expires_at": datetime.now(UTC) + idle, "pending_ends": False}
        await step(db, upload, **values, **(_completed(whole) if ends else {}))
        if ends:
            await jobs.enter(db, CLOSE, str(upload.id))


async def not_sealed(sessions: Sessions, upload: Upload) -> None:
    async with sessions.begin() as db:
        await step(db, upload, pending_sha256=None, pending_size=None, pending_ends=False)


async def tail_kept(sessions: Sessions, upload: Upload, idle: timedelta, name: str, sha256: str, size: int) -> None:
    values = {"tail": name, "tail_sha256": sha256, "received": upload.sealed + size}
    async with sessions.begin() as db:
        await step(db, upload, **values, expires_at=datetime.now(UTC) + idle)


async def complete(sessions: Sessions, upload: Upload) -> None:
    """All of it is sealed already, and its client has said that this is all."""
    async with sessions.begin() as db:
        await step(db, upload, **_completed(upload.sealed))
        await jobs.enter(db, CLOSE, str(upload.id))


async def set_length(sessions: Sessions, upload: Upload, length: int) -> None:
    """An upload that has come whole already is complete with it."""
    async with sessions.begin() as db:
        await step(db, upload, length=length)


async def end(sessions: Sessions, upload: Upload, state: str) -> None:
    """It is given up, or lost: what is sealed stays, and its recording is closed. The same again changes nothing."""
    ending = update(Upload).where(col(Upload.id) == upload.id, col(Upload.state).in_(("open", "complete")))
    ending = ending.values(state=state, epoch=col(Upload.epoch) + 1)
    async with sessions.begin() as db:
        if await db.scalar(ending.returning(col(Upload.id))) is not None:
            await jobs.enter(db, CLOSE, str(upload.id))


async def expire(sessions: Sessions) -> None:
    """What nobody has added to for too long."""
    due = select(col(Upload.id)).where(col(Upload.state) == "open", col(Upload.expires_at) <= datetime.now(UTC))
    due = due.order_by(col(Upload.expires_at)).limit(_EXPIRED_AT_ONCE).with_for_update(skip_locked=True)
    async with sessions.begin() as db:
        for upload in list(await db.scalars(due)):
            expired = update(Upload).where(col(Upload.id) == upload)
            await db.execute(expired.values(state="expired", epoch=col(Upload.epoch) + 1))
            await jobs.enter(db, CLOSE, str(upload))


async def closed(sessions: Sessions, upload: UUID, whole_sha256: str | None) -> None:
    """Where it brings a single file's bytes, they are there now."""
    gone = update(Upload).where(col(Upload.id) == upload)
    values: dict[str, Any] = {"closed": True, "whole_sha256": whole_sha256, "tail": None, "tail_sha256": None}
    values["received"] = col(Upload.sealed)
    async with sessions.begin() as db:
        file = await db.scalar(gone.values(values).returning(col(Upload.file_id)))
        if file is not None and whole_sha256 is not None:
            await jobs.enter(db, ARRIVE, str(upload))


def _completed(length: int) -> dict[str, Any]:
    return {"state": "complete", "length": length, "completed_at": datetime.now(UTC)}
