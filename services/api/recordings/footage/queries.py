"""Reads of requests for footage and handovers. Every list goes through `visible_to`."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, false, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from services.api.errors import NoSuchRequest
from services.api.identity.models import Person
from services.api.identity.principal import Principal
from services.api.recorders.models import Recorder
from services.api.recordings import queries
from services.api.recordings.files import queries as file_queries
from services.api.recordings.files.models import File
from services.api.recordings.footage.models import FootageRequest, Handover, RequestedCamera
from services.api.recordings.footage.schemas import (
    KEPT_FOR,
    LAPSES_SOON,
    Camera,
    HandoverView,
    RequestDetail,
    RequestPage,
    RequestView,
)
from services.api.recordings.models import Recording

MAX_LIMIT = 200
_IMPORTED = 200
Which = Literal["asked", "lapsed", "answered"]


def visible_to(who: Principal) -> ColumnElement[bool]:
    """Officers see what they asked for themselves, supervisors what their unit asked for."""
    if not who.may("ask-footage"):
        return false()
    if who.role == "supervisor":
        return col(FootageRequest.unit_id) == who.unit_id
    return col(FootageRequest.asked_by) == who.person_id


async def requests(
    db: AsyncSession, who: Principal, *, which: Which = "asked", cursor: str | None = None, limit: int = 50
) -> RequestPage:
    """Those that wait, what lapses first at the top; or what has lapsed or was answered, the newest first."""
    now = datetime.now(UTC)
    query = _rows().where(visible_to(who), col(FootageRequest.unit_id) == who.unit_id)
    asked = col(FootageRequest.state) == "asked"
    at: Any = col(FootageRequest.kept_until)
    if which == "answered":
        query, at = query.where(~asked), col(FootageRequest.answered_at)
    else:
        query = query.where(asked, at > now if which == "asked" else at <= now)
    place, after = tuple_(at, col(FootageRequest.id)), _read_cursor(cursor)
    if which == "asked":
        query = query.order_by(at, col(FootageRequest.id))
        query = query.where(place > after) if after else query
    else:
        query = query.order_by(at.desc(), col(FootageRequest.id).desc())
        query = query.where(place < after) if after else query
    limit = min(limit, MAX_LIMIT)
    found = (await db.execute(query.limit(limit + 1))).all()
    rows = found[:limit]
    cameras = await _cameras(db, [row.FootageRequest.id for row in rows])
    items = [_view(row, cameras, now) for row in rows]
    last = rows[-1].FootageRequest if len(found) > limit else None
    return RequestPage(items=items, next_cursor=_cursor(last, which) if last else None)


async def lapsing(db: AsyncSession, who: Principal) -> int:
    """How many lapse within seven days, two hundred at the most."""
    now = datetime.now(UTC)
    query = select(col(FootageRequest.id)).where(visible_to(who), col(FootageRequest.unit_id) == who.unit_id)
    query = query.where(col(FootageRequest.state) == "asked", col(FootageRequest.kept_until) > now)
    query = query.where(col(FootageRequest.kept_until) <= now + LAPSES_SOON)
    return len((await db.scalars(query.limit(MAX_LIMIT))).all())


async def request(db: AsyncSession, who: Principal, request_id: UUID) -> RequestDetail:
    """Raises NoSuchRequest, alike for what is not there and for what may not be seen."""
    row = (await db.execute(_rows().where(visible_to(who), col(FootageRequest.id) == request_id))).one_or_none()
    if row is None:
        raise NoSuchRequest
    view = _view(row, await _cameras(db, [request_id]), datetime.now(UTC))
    query = _handovers().where(col(Handover.request_id) == request_id).order_by(col(Handover.id)).limit(_IMPORTED)
    given = [_handover(one) for one in await db.execute(query)]
    ids = [one.id for one in given]
    recordings = select(col(Recording.id)).where(col(Recording.handover_id).in_(ids), queries.visible_to(who))
    files = select(col(File.id)).where(col(File.handover_id).in_(ids), file_queries.visible_to(who))
    return RequestDetail(
        **view.model_dump(),
        handovers=given,
        recordings=list(await db.scalars(recordings.order_by(col(Recording.id)).limit(_IMPORTED))),
        files=list(await db.scalars(files.order_by(col(File.id)).limit(_IMPORTED))),
    )


async def handover(db: AsyncSession, handover_id: UUID) -> HandoverView:
    """Of something that may be seen."""
    return _handover((await db.execute(_handovers().where(col(Handover.id) == handover_id))).one())


async def newest_handovers(db: AsyncSession, who: Principal) -> list[HandoverView]:
    """Those that this person took over, to name with what was imported."""
    query = _handovers().where(col(Handover.taken_over_by) == who.person_id)
    return [_handover(one) for one in await db.execute(query.order_by(col(Handover.id).desc()).limit(20))]


async def cameras(db: AsyncSession, who: Principal) -> list[Recorder]:
    """The hall cameras of the unit."""
    query = select(Recorder).where(col(Recorder.unit_id) == who.unit_id, col(Recorder.kind) == "hall-camera")
    return list(await db.scalars(query.order_by(col(Recorder.name)).limit(MAX_LIMIT)))


def _rows() -> Select[*tuple[Any, ...]]:
    answering = aliased(Person)
    query: Select[*tuple[Any, ...]] = select(
        FootageRequest, col(Person.name).label("asked_by"), col(answering.name).label("answered_by")
    )
    query = query.join(Person, col(Person.id) == col(FootageRequest.asked_by))
    return query.outerjoin(answering, col(answering.id) == col(FootageRequest.answered_by))


def _handovers() -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = select(
        Handover, col(Recorder.name).label("source_name"), col(Person.name).label("taken_over_by")
    )
    query = query.join(Recorder, col(Recorder.id) == col(Handover.source_id))
    return query.join(Person, col(Person.id) == col(Handover.taken_over_by))


async def _cameras(db: AsyncSession, asked: Sequence[UUID]) -> dict[UUID, list[Camera]]:
    query: Select[*tuple[Any, ...]] = select(col(RequestedCamera.request_id), col(Recorder.id), col(Recorder.name))
    query = query.join(Recorder, col(Recorder.id) == col(RequestedCamera.source_id))
    found = defaultdict(list)
    for request_id, camera, name in await db.execute(
        query.where(col(RequestedCamera.request_id).in_(asked)).order_by(col(Recorder.name))
    ):
        found[request_id].append(Camera(id=camera, name=name))
    return found


def _view(row: Row[Any], cameras: dict[UUID, list[Camera]], now: datetime) -> RequestView:
    kept: FootageRequest = row.FootageRequest
    lapsed = kept.state == "asked" and kept.kept_until <= now
    return RequestView(
        id=kept.id,
        state="lapsed" if lapsed else kept.state,  # type: ignore[arg-type]
        lapses_soon=kept.state == "asked" and now < kept.kept_until <= now + LAPSES_SOON,
        below_floor=kept.kept_until < kept.from_at + KEPT_FOR,
        cameras=cameras[kept.id],
        from_at=kept.from_at,
        to_at=kept.to_at,
        kept_until=kept.kept_until,
        reason=kept.reason,
        asked_by=row.asked_by,
        asked_at=kept.asked_at,
        answered_by=row.answered_by,
        answered_at=kept.answered_at,
        answer=kept.answer,
    )


def _handover(row: Row[Any]) -> HandoverView:
    kept: Handover = row.Handover
    same = ("id", "hall", "system", "camera", "from_at", "to_at", "handed_over_by", "taken_over_at", "export_sha256")
    return HandoverView(
        source=kept.source_id,
        source_name=row.source_name,
        request=kept.request_id,
        taken_over_by=row.taken_over_by,
        **{name: getattr(kept, name) for name in same},
    )


def _cursor(last: FootageRequest, which: Which) -> str:
    at = last.answered_at if which == "answered" else last.kept_until
    assert at
    return base64.urlsafe_b64encode(f"{at.isoformat()} {last.id}".encode()).decode()


def _read_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """One that is not ours is taken as none."""
    try:
        at, _, last = base64.urlsafe_b64decode(cursor or "").decode().partition(" ")
        moment = datetime.fromisoformat(at)
        return (moment, UUID(last)) if moment.tzinfo else None
    except (ValueError, binascii.Error):
        return None
