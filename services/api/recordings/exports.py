"""Exports: logged with their purpose, prepared by the vault, and fetched through here for as long as it keeps them.

Every look at one and every byte of it is for the person who asked for it, while all that is in it is within reach.
What was logged and, by a crash or a lost answer, never begun is begun at the next look.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from sqlalchemy import ColumnElement, Select, not_, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api import outbox
from services.api.database import Sessions
from services.api.errors import NoSuchExport, NoSuchFile, NoSuchRecording, RecordingEmpty
from services.api.identity.principal import Principal
from services.api.recordings.files import queries as file_queries
from services.api.recordings.files.models import ExportedFile, File
from services.api.recordings.models import Export, ExportedRecording, Recording
from services.api.recordings.queries import visible_to
from services.api.recordings.schemas import ExportPage, ExportView, NewExport
from services.vault.contract import wire
from services.vault.contract.client import VaultClient

_BEGUN_WITHIN = timedelta(days=7)
_PASSED_ON = ("content-length", "content-range", "content-type", "etag", "accept-ranges")


async def register(sessions: Sessions, vault: VaultClient, who: Principal, asked: NewExport) -> ExportView:
    """Logged before anything is prepared. Raises NoSuchRecording, NoSuchFile, NotPermitted, RecordingEmpty,
    VaultUnreachable, and VaultRefused where too many are being prepared or copies cannot be made."""
    now, wanted, files = datetime.now(UTC), sorted(set(asked.recordings)), sorted(set(asked.files))
    async with sessions.begin() as db:
        query = select(col(Recording.segments)).where(visible_to(who), col(Recording.id).in_(wanted))
        found = (await db.scalars(query)).all()
        if len(found) != len(wanted):
            raise NoSuchRecording
        sealed = select(col(File.version)).where(file_queries.visible_to(who), col(File.id).in_(files))
        versions = (await db.scalars(sealed)).all()
        if len(versions) != len(files):
            raise NoSuchFile
        who.require("export")
        if not all(found) or not all(versions):
            raise RecordingEmpty
        export = Export(
            id=uuid7(),
            person_id=who.person_id,
            purpose=asked.purpose,
            note=asked.note,
            at=now,
            copies=asked.copies,
        )
        told = _request(export, wanted, files)
        await outbox.enter(
            db, export.id, "export", told.told() | {"purpose": asked.purpose} | asked.note_digest(), now
        )
        await db.flush()
        db.add(export)
        await db.flush()
        for table, name, ids in ((ExportedRecording, "recording_id", wanted), (ExportedFile, "file_id", files)):
            if ids:
                rows = [{"export_id": export.id, name: one} for one in ids]
                await db.execute(insert(table).values(rows))
    await outbox.tell(sessions, vault, export.id)
    return _view(export, await vault.begin_export(told))


async def state(sessions: Sessions, vault: VaultClient, who: Principal, export: UUID) -> ExportView:
    """Raises NoSuchExport, VaultUnreachable; VaultRefused where it cannot be begun."""
    async with sessions() as db:
        kept = await _own(db, who, export)
        recordings = list(await db.scalars(_recordings_of(export)))
        files = list(await db.scalars(_files_of(export)))
    begun = (await vault.export_states([export])).exports
    if begun:
        return _view(kept, begun[0])
    if kept.at + _BEGUN_WITHIN <= datetime.now(UTC):
        return _view(kept, None)
    await outbox.tell(sessions, vault, export)
    return _view(kept, await vault.begin_export(_request(kept, recordings, files)))


async def listed(
    sessions: Sessions,
    vault: VaultClient,
    who: Principal,
    *,
    recording: UUID | None,
    file: UUID | None,
    cursor: str | None,
    limit: int,
) -> ExportPage:
    """This person's own, newest first. A cursor that is not ours is taken as none."""
    query = select(Export).where(col(Export.person_id) == who.person_id, not_(_hidden(who)))
    if recording is not None:
        query = query.join(ExportedRecording, col(ExportedRecording.export_id) == col(Export.id))
        query = query.where(col(ExportedRecording.recording_id) == recording)
    if file is not None:
        query = query.join(ExportedFile, col(ExportedFile.export_id) == col(Export.id))
        query = query.where(col(ExportedFile.file_id) == file)
    if after := _read_cursor(cursor):
        query = query.where(col(Export.id) < after)
    who.require("export")
    async with sessions() as db:
        rows = list(await db.scalars(query.order_by(col(Export.id).desc()).limit(limit + 1)))
    shown = rows[:limit]
    begun = (await vault.export_states([row.id for row in shown])).exports if shown else []
    states = {one.act: one for one in begun}
    more = base64.urlsafe_b64encode(shown[-1].id.bytes).decode() if len(rows) > limit else None
    return ExportPage(items=[_view(row, states.get(row.id)) for row in shown], next_cursor=more)


@dataclass(frozen=True)
class Download:
    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]


async def download(
    sessions: Sessions, vault: VaultClient, who: Principal, export: UUID, headers: dict[str, str]
) -> Download:
    """The archive or a part of it, as the vault makes it. Raises NoSuchExport, VaultUnreachable, VaultRefused."""
    async with sessions() as db:
        await _own(db, who, export)
    stream = vault.bag(export, headers)
    response = await stream.__aenter__()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            # The connection ends short of what was announced, and whoever fetches goes on from there.
            raise ConnectionResetError("the vault ended the stream") from error
        finally:
            await stream.__aexit__(None, None, None)

    passed_on = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
    return Download(response.status_code, passed_on, chunks())


async def _own(db: AsyncSession, who: Principal, export: UUID) -> Export:
    """This person's, with all of it within reach. Raises NoSuchExport."""
    query = select(Export).where(col(Export.id) == export, col(Export.person_id) == who.person_id)
    found = await db.scalar(query.where(not_(_hidden(who))))
    if found is None or not who.may("export"):
        raise NoSuchExport
    return found


def _hidden(who: Principal) -> ColumnElement[bool]:
    """Whether a recording or a file of the export is out of this person's reach."""
    query = select(col(ExportedRecording.export_id)).where(col(ExportedRecording.export_id) == col(Export.id))
    query = query.join(Recording, col(Recording.id) == col(ExportedRecording.recording_id))
    files = select(col(ExportedFile.export_id)).where(col(ExportedFile.export_id) == col(Export.id))
    files = files.join(File, col(File.id) == col(ExportedFile.file_id))
    files = files.where(not_(file_queries.visible_to(who)))
    recordings = query.where(not_(visible_to(who))).correlate(Export).exists()
    return or_(recordings, files.correlate(Export).exists())


def _recordings_of(export: UUID) -> Select[UUID]:
    query = select(col(ExportedRecording.recording_id)).where(col(ExportedRecording.export_id) == export)
    return query.order_by(col(ExportedRecording.recording_id))


def _files_of(export: UUID) -> Select[UUID]:
    query = select(col(ExportedFile.file_id)).where(col(ExportedFile.export_id) == export)
    return query.order_by(col(ExportedFile.file_id))


def _request(export: Export, recordings: list[UUID], files: list[UUID]) -> wire.ExportRequest:
    return wire.ExportRequest(
        act=export.id, recordings=recordings, series=files, person=export.person_id, copies=export.copies
    )


def _view(export: Export, begun: wire.ExportState | None) -> ExportView:
    ready = begun is not None and begun.state == "ready"
    lapsed = begun is None and export.at + _BEGUN_WITHIN <= datetime.now(UTC)
    return ExportView(
        id=export.id,
        state=begun.state if begun else "lapsed" if lapsed else "waiting",
        purpose=export.purpose,
        at=export.at,
        expires_at=begun.expires_at if begun else None,
        copies=export.copies,
        bytes_done=begun.bytes_done if begun else 0,
        bytes_total=begun.bytes_total if begun else 0,
        size=begun.size if begun and ready else 0,
        reason=begun.reason if begun else None,
        detail=begun.detail if begun else None,
        download=f"/v1/exports/{export.id}/bag" if ready else None,
    )


def _read_cursor(cursor: str | None) -> UUID | None:
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor)) if cursor else None
    except (ValueError, binascii.Error):
        return None
