"""Reads of single files. Every one goes through `visible_to`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, false, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.errors import NoSuchFile
from services.api.identity.models import Person, Unit
from services.api.identity.principal import Principal
from services.api.recorders.models import Recorder
from services.api.recordings.files.models import File, FileVersion
from services.api.recordings.files.schemas import FileKind, FileList, FileView, VersionView
from services.api.recordings.models import Viewing
from services.api.recordings.worth import worth_of

MAX_LIMIT = 200
_SHOWN = 100


def visible_to(who: Principal) -> ColumnElement[bool]:
    """As with recordings: officers see what they or their own source brought, supervisors their unit's."""
    if not who.may("see-recordings"):
        return false()
    if who.role == "supervisor":
        return col(File.unit_id) == who.unit_id
    if who.role == "officer":
        return col(File.officer_id) == who.person_id
    return false()


async def files(
    db: AsyncSession,
    who: Principal,
    *,
    kind: FileKind | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> FileList:
    """Newest first, each with its newest version. A cursor that is not ours is taken as none."""
    query = _rows().where(visible_to(who)).order_by(col(File.id).desc())
    if kind is not None:
        query = query.where(col(File.kind) == kind)
    if after := _read_cursor(cursor):
        query = query.where(col(File.id) < after)
    limit = min(limit, MAX_LIMIT)
    found = (await db.execute(query.limit(limit + 1))).all()
    rows = found[:limit]
    versions = select(FileVersion).join(File, col(File.id) == col(FileVersion.file_id))
    versions = versions.where(col(File.id).in_([row.File.id for row in rows]))
    newest = {v.file_id: v for v in await db.scalars(versions.where(col(FileVersion.version) == col(File.version)))}
    views = [_view(row, [newest[row.File.id]] if row.File.id in newest else []) for row in rows]
    more = base64.urlsafe_b64encode(rows[-1].File.id.bytes).decode() if len(found) > limit else None
    return FileList(items=views, next_cursor=more)


async def file(db: AsyncSession, who: Principal, file_id: UUID) -> FileView:
    """With all its versions. Raises NoSuchFile, alike for what is not there and for what may not be seen."""
    row = (await db.execute(_rows().where(visible_to(who), col(File.id) == file_id))).one_or_none()
    if row is None:
        raise NoSuchFile
    query = select(FileVersion).where(col(FileVersion.file_id) == file_id, col(FileVersion.sealed_at).is_not(None))
    query = query.order_by(col(FileVersion.version).desc()).limit(_SHOWN)
    return _view(row, list(await db.scalars(query)))


async def version(db: AsyncSession, who: Principal, file_id: UUID, number: int | None) -> FileVersion:
    """One that is sealed: this, or the newest. Raises NoSuchFile."""
    query = select(FileVersion).join(File, col(File.id) == col(FileVersion.file_id))
    query = query.where(visible_to(who), col(File.id) == file_id, col(FileVersion.sealed_at).is_not(None))
    found = await db.scalar(query.where(col(FileVersion.version) == (number or col(File.version))))
    if found is None:
        raise NoSuchFile
    return found


async def viewings(db: AsyncSession, file_id: UUID) -> int:
    return await db.scalar(select(func.count()).where(col(Viewing.file_id) == file_id)) or 0


def _rows() -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = (
        select(
            File,
            col(Recorder.name).label("source"),
            col(Recorder.kind).label("source_kind"),
            col(Person.name).label("person"),
            col(Unit.name).label("unit"),
        )
        .join(Unit, col(Unit.id) == col(File.unit_id))
        .outerjoin(Recorder, col(Recorder.id) == col(File.source_id))
        .outerjoin(Person, col(Person.id) == func.coalesce(col(File.person_id), col(File.officer_id)))
    )
    return query


def _view(row: Row[Any], versions: Sequence[FileVersion]) -> FileView:
    kept: File = row.File
    return FileView(
        id=kept.id,
        kind=kept.kind,  # type: ignore[arg-type]
        state=kept.state,  # type: ignore[arg-type]
        title=kept.about["title"],
        about=kept.about,
        handover=kept.handover_id,
        source=kept.source_id,
        source_name=row.source,
        person_name=row.person,
        unit_name=row.unit,
        created_at=kept.created_at,
        version=kept.version,
        trouble=kept.trouble,
        worth=worth_of("simple", row.source_kind, handed_over=kept.handover_id is not None),
        versions=[VersionView.model_validate(one, from_attributes=True) for one in versions],
    )


def _read_cursor(cursor: str | None) -> UUID | None:
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor)) if cursor else None
    except (ValueError, binascii.Error):
        return None
