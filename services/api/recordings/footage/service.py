"""Footage of a service hall: asked for while the hall still has it, handed over or refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.errors import (
    CameraUnfit,
    HandoverDiffers,
    NoSuchRequest,
    RequestAnswered,
    RequestDiffers,
)
from services.api.identity.principal import Principal
from services.api.recorders.models import Recorder
from services.api.recordings.footage.models import FootageRequest, Handover, RequestedCamera
from services.api.recordings.footage.queries import visible_to
from services.api.recordings.footage.schemas import NewHandover, NewRequest


async def ask(db: AsyncSession, who: Principal, request: UUID, new: NewRequest) -> None:
    """The same again changes nothing. Raises NotPermitted, CameraUnfit, RequestDiffers."""
    who.require("ask-footage")
    cameras = sorted(set(new.cameras))
    await _require_cameras(db, who, cameras)
    values: dict[str, Any] = {
        "id": request,
        "unit_id": who.unit_id,
        "asked_by": who.person_id,
        "asked_at": datetime.now(UTC),
        "reason": new.reason,
        "from_at": new.from_at,
        "to_at": new.to_at,
        "kept_until": new.lapses_at(),
        "state": "asked",
    }
    fresh = insert(FootageRequest).values(values).on_conflict_do_nothing().returning(col(FootageRequest.id))
    if await db.scalar(fresh) is not None:
        rows = [{"request_id": request, "source_id": one} for one in cameras]
        await db.execute(insert(RequestedCamera).values(rows))
        return
    kept = await db.get_one(FootageRequest, request)
    same = ("unit_id", "asked_by", "reason", "from_at", "to_at", "kept_until")
    query = select(col(RequestedCamera.source_id)).where(col(RequestedCamera.request_id) == request)
    asked = sorted(await db.scalars(query))
    if any(getattr(kept, name) != values[name] for name in same) or asked != cameras:
        raise RequestDiffers


async def refuse(db: AsyncSession, who: Principal, request: UUID, answer: str) -> None:
    """The hall does not hand it over, and why. The same again changes nothing. Raises NoSuchRequest,
    RequestAnswered."""
    if not await _answer(db, who, request, "refused", answer):
        kept = await _visible(db, who, request)
        if (kept.state, kept.answer) != ("refused", answer):
            raise RequestAnswered


async def hand_over(db: AsyncSession, who: Principal, handover: UUID, new: NewHandover) -> None:
    """Who handed footage over, which answers the request; what came of it may still come in parts. The same again
    changes nothing. Raises NotPermitted, CameraUnfit, NoSuchRequest, RequestAnswered, HandoverDiffers."""
    who.require("ask-footage")
    await _require_cameras(db, who, [new.source])
    if new.request is not None:
        await _visible(db, who, new.request)
    told = new.model_dump(exclude={"source", "request"})
    told |= {
        "source_id": new.source,
        "request_id": new.request,
        "unit_id": who.unit_id,
        "taken_over_by": who.person_id,
    }
    values = {"id": handover, "noted_at": datetime.now(UTC), **told}
    fresh = insert(Handover).values(values).on_conflict_do_nothing().returning(col(Handover.id))
    if await db.scalar(fresh) is None:
        kept = await db.get_one(Handover, handover)
        if any(getattr(kept, name) != value for name, value in told.items()):
            raise HandoverDiffers
        return
    if new.request is None:
        return
    answered = await _answer(db, who, new.request, "handed-over", None)
    asked = (col(RequestedCamera.request_id) == new.request) & (col(RequestedCamera.source_id) == new.source)
    if await db.scalar(select(col(RequestedCamera.source_id)).where(asked)) is None:
        raise CameraUnfit
    if not answered and (await _visible(db, who, new.request)).state != "handed-over":
        raise RequestAnswered


async def _answer(db: AsyncSession, who: Principal, request: UUID, state: str, answer: str | None) -> bool:
    this = (col(FootageRequest.id) == request) & (col(FootageRequest.state) == "asked")
    answering = (
        update(FootageRequest)
        .where(this, visible_to(who))
        .values(state=state, answer=answer, answered_by=who.person_id, answered_at=datetime.now(UTC))
    )
    return await db.scalar(answering.returning(col(FootageRequest.id))) is not None


async def _visible(db: AsyncSession, who: Principal, request: UUID) -> FootageRequest:
    kept = await db.scalar(select(FootageRequest).where(visible_to(who), col(FootageRequest.id) == request))
    if kept is None:
        raise NoSuchRequest
    return kept


async def _require_cameras(db: AsyncSession, who: Principal, cameras: Sequence[UUID]) -> None:
    mine = (col(Recorder.unit_id) == who.unit_id) & (col(Recorder.kind) == "hall-camera")
    query = select(func.count()).select_from(Recorder).where(mine, col(Recorder.id).in_(cameras))
    if await db.scalar(query) != len(cameras):
        raise CameraUnfit
