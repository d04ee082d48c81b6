"""The pages of requests for footage: what a hall was asked for, what lapses first, who handed it over."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ValidationError
from uuid_utils.compat import uuid7

from services.api.console.pages import render
from services.api.database import STORABLE, Db
from services.api.identity.dependencies import Acting, SignedIn
from services.api.moments import SHANGHAI
from services.api.recordings.footage import queries, service
from services.api.recordings.footage.schemas import NewHandover, NewRefusal, NewRequest

router = APIRouter(prefix="/footage", include_in_schema=False)
_PAGE = 50
_Message = TypeVar("_Message", bound=BaseModel)
Line = Annotated[str, Form(max_length=128, pattern=STORABLE)]
Words = Annotated[str, Form(max_length=500, pattern=STORABLE)]
Local = Annotated[str, Form(max_length=32, pattern=STORABLE)]
"""A time of the page, by the bureau's clock."""


@router.get("")
async def requests(
    request: Request,
    who: SignedIn,
    db: Db,
    which: Annotated[queries.Which, Query()] = "asked",
    cursor: Annotated[str | None, Query(max_length=200, pattern=STORABLE)] = None,
) -> HTMLResponse:
    who.require("ask-footage")
    page = render(
        "footage.html",
        principal=who,
        room="footage",
        store_lock=request.app.state.store_lock,
        page=await queries.requests(db, who, which=which, cursor=cursor, limit=_PAGE),
        which=which,
        cursor=cursor,
        lapsing=await queries.lapsing(db, who),
        cameras=await queries.cameras(db, who),
        new_id=uuid7(),
    )
    return HTMLResponse(page)


@router.post("")
async def ask(
    who: Acting,
    db: Db,
    request_id: Annotated[UUID, Form()],
    cameras: Annotated[list[UUID], Form()],
    from_at: Local,
    to_at: Local,
    reason: Words,
    kept_until: Local = "",
) -> Response:
    said = {"cameras": cameras, "from_at": _moment(from_at), "to_at": _moment(to_at), "reason": reason}
    await service.ask(db, who, request_id, _read(NewRequest, said | {"kept_until": _moment(kept_until)}))
    return RedirectResponse(f"/footage/{request_id}", 303)


@router.get("/{request_id}")
async def one(request_id: UUID, request: Request, who: SignedIn, db: Db) -> HTMLResponse:
    who.require("ask-footage")
    page = render(
        "footage_request.html",
        principal=who,
        room="footage",
        store_lock=request.app.state.store_lock,
        asked=await queries.request(db, who, request_id),
        new_id=uuid7(),
    )
    return HTMLResponse(page)


@router.post("/{request_id}/refusal")
async def refuse(request_id: UUID, who: Acting, db: Db, answer: Words) -> Response:
    who.require("ask-footage")
    await service.refuse(db, who, request_id, _read(NewRefusal, {"answer": answer}).answer)
    return RedirectResponse(f"/footage/{request_id}", 303)


@router.post("/{request_id}/handovers")
async def hand_over(
    request_id: UUID,
    who: Acting,
    db: Db,
    handover_id: Annotated[UUID, Form()],
    source: Annotated[UUID, Form()],
    hall: Line,
    system: Line,
    camera: Line,
    from_at: Local,
    to_at: Local,
    handed_over_by: Line,
    taken_over_at: Local,
    export_sha256: Line = "",
) -> Response:
    said = {
        "request": request_id,
        "source": source,
        "hall": hall,
        "system": system,
        "camera": camera,
        "from_at": _moment(from_at),
        "to_at": _moment(to_at),
        "handed_over_by": handed_over_by,
        "taken_over_at": _moment(taken_over_at),
        "export_sha256": export_sha256.strip().lower() or None,
    }
    await service.hand_over(db, who, handover_id, _read(NewHandover, said))
    return RedirectResponse(f"/footage/{request_id}", 303)


def _moment(text: str) -> datetime | str | None:
    """A time of the page; what is none is left for the message to refuse."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI) if text else None
    except ValueError:
        return text


def _read(message: type[_Message], said: dict[str, Any]) -> _Message:
    try:
        return message.model_validate(said)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
