"""Requests for footage and handovers, for officers and supervisors."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from services.api.database import Db
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recordings.footage import queries, service
from services.api.recordings.footage.schemas import (
    HandoverView,
    NewHandover,
    NewRefusal,
    NewRequest,
    RequestDetail,
    RequestPage,
)

router = APIRouter(prefix="/v1", tags=["footage"])


@router.get("/footage-requests")
async def requests(
    who: SignedIn,
    db: Db,
    which: queries.Which = "asked",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_LIMIT)] = 50,
) -> RequestPage:
    """Those that wait for the hall, what lapses first at the top; or those that lapsed, or were answered."""
    return await queries.requests(db, who, which=which, cursor=cursor, limit=limit)


@router.get("/footage-requests/{request}")
async def request(request: UUID, who: SignedIn, db: Db) -> RequestDetail:
    return await queries.request(db, who, request)


@router.put("/footage-requests/{request}")
async def ask(request: UUID, message: NewRequest, who: Acting, db: Db) -> RequestDetail:
    """Ask a hall for footage while it still has it; the id is the caller's, and the same again changes nothing."""
    await service.ask(db, who, request, message)
    return await queries.request(db, who, request)


@router.post("/footage-requests/{request}/refusal")
async def refuse(request: UUID, message: NewRefusal, who: Acting, db: Db) -> RequestDetail:
    """The hall does not hand it over."""
    who.require("ask-footage")
    await service.refuse(db, who, request, message.answer)
    return await queries.request(db, who, request)


@router.put("/handovers/{handover}")
async def hand_over(handover: UUID, message: NewHandover, who: Acting, db: Db) -> HandoverView:
    """Who handed footage over to whoever is signed in. What is imported names it, by whichever door it comes."""
    await service.hand_over(db, who, handover, message)
    return await queries.handover(db, handover)
