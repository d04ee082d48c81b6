"""The pages of an administrator for sources: what they are, their keys, codes and push addresses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import segno
from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from services.api.console.pages import render
from services.api.database import STORABLE, Db
from services.api.identity.dependencies import Acting, SignedIn
from services.api.identity.principal import Principal
from services.api.recorders import addresses, service
from services.api.recorders.schemas import Kind

router = APIRouter(prefix="/sources", include_in_schema=False)
_PAGE = 50
_SECRET = {"cache-control": "no-store"}
DAYS = {1: "1 天", 7: "7 天", 30: "30 天", 90: "90 天", 366: "一年"}


@router.get("")
async def sources(
    request: Request, who: SignedIn, db: Db, before: Annotated[UUID | None, Query()] = None
) -> Response:
    who.require("manage-recorders")
    found = await service.recorders(db, who, before=before, limit=_PAGE + 1)
    shown = found[:_PAGE]
    page = render(
        "sources.html",
        principal=who,
        room="sources",
        store_lock=request.app.state.store_lock,
        sources=shown,
        officers=await service.officers(db, who),
        addresses=await addresses.newest(db, [one.id for one in shown]),
        keys=await service.keys_of(db, [one.id for one in shown]),
        now=datetime.now(UTC),
        before=before,
        next_before=shown[-1].id if len(found) > _PAGE else None,
    )
    return HTMLResponse(page)


@router.post("")
async def register(
    who: Acting,
    db: Db,
    name: Annotated[str, Form(min_length=1, max_length=64, pattern=STORABLE)],
    kind: Annotated[Kind, Form()] = "recorder",
    officer: Annotated[UUID | Literal[""], Form()] = "",
) -> Response:
    who.require("manage-recorders")
    made = await service.register(db, who.unit_id, name.strip() or name, officer or None, kind)
    return RedirectResponse(f"/sources/{made.id}", 303)


@router.get("/{source}")
async def source(source: UUID, request: Request, who: SignedIn, db: Db) -> Response:
    who.require("manage-recorders")
    return await _page(request, who, db, source)


@router.post("/{source}/push-addresses")
async def make_address(
    source: UUID,
    request: Request,
    who: Acting,
    db: Db,
    days: Annotated[int, Form(ge=1, le=366)],
    remuxed_by: Annotated[str, Form(max_length=64, pattern=STORABLE)] = "",
) -> Response:
    """The page with the new address on it, which is never shown again."""
    who.require("manage-recorders")
    token, _ = await addresses.make(db, who, source, days=days, remuxed_by=remuxed_by.strip() or None)
    api = f"{request.app.state.settings.public_url}/v1"
    url, uploads = f"{api}/push/{token}/", f"{api}/uploads/{token}"
    files = addresses.files_url(api, (await service.recorder(db, who, source)).kind, token)
    return await _page(request, who, db, source, url=url, uploads=uploads, files=files, qr=_qr(f"{url}live.mp4"))


@router.post("/{source}/push-addresses/{address}/revocation")
async def revoke_address(source: UUID, address: UUID, who: Acting, db: Db) -> Response:
    who.require("manage-recorders")
    await addresses.revoke(db, who, source, address)
    return RedirectResponse(f"/sources/{source}", 303)


@router.post("/{source}/enrolment-codes")
async def issue_code(source: UUID, request: Request, who: Acting, db: Db) -> Response:
    """The page with a one-time code on it, which is never shown again."""
    who.require("manage-recorders")
    code, _ = await service.issue_code(db, who.unit_id, source)
    return await _page(request, who, db, source, code=code)


async def _page(
    request: Request,
    who: Principal,
    db: Db,
    source: UUID,
    *,
    url: str | None = None,
    uploads: str | None = None,
    files: str | None = None,
    qr: str | None = None,
    code: str | None = None,
) -> Response:
    found = await service.recorder(db, who, source)
    page = render(
        "source.html",
        principal=who,
        room="sources",
        store_lock=request.app.state.store_lock,
        source=found,
        keys=(await service.keys_of(db, [source])).get(source, []),
        addresses=(await addresses.newest(db, [source])).get(source, []),
        now=datetime.now(UTC),
        days=DAYS,
        url=url,
        uploads=uploads,
        files=files,
        qr=qr,
        code=code,
        api_url=request.app.state.settings.public_url,
    )
    return HTMLResponse(page, headers=_SECRET if url or code else None)


def _qr(text: str) -> str:
    """A picture for an `img`, as a data address."""
    return segno.make(text, error="m", micro=False).svg_data_uri(scale=5, border=4, dark="#000", light="#fff")
