"""Registering recorders (administrators) and enrolling terminals (one-time code)."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from services.api.database import Db, Maker
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recorders import addresses, revocation, service
from services.api.recorders.schemas import (
    AddressView,
    CodeView,
    Enrolled,
    Enrolment,
    KeyView,
    MadeAddress,
    NewAddress,
    NewRecorder,
    RecorderPage,
    RecorderView,
    Revocation,
)
from services.api.vault import Vault
from services.vault.contract.wire import VaultKeys

router = APIRouter(prefix="/v1", tags=["recorders"])


@router.get("/recorders")
async def recorders(
    who: SignedIn,
    db: Db,
    before: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=service.MAX_LIMIT)] = 50,
) -> RecorderPage:
    """The newest first; `next_before` leads on to older ones."""
    who.require("manage-recorders")
    found = await service.recorders(db, who, before=before, limit=limit)
    keys = await service.keys_of(db, [row.id for row in found])
    pushes = await addresses.newest(db, [row.id for row in found])
    heard = await service.heartbeats_of(db, [row.id for row in found])
    items = []
    for row in found:
        view = RecorderView.model_validate(row, from_attributes=True)
        shown = [AddressView.model_validate(each, from_attributes=True) for each in pushes.get(row.id, [])]
        more = {"keys": keys.get(row.id, []), "addresses": shown, "heartbeat": heard.get(row.id)}
        items.append(view.model_copy(update=more))
    return RecorderPage(items=items, next_before=found[-1].id if len(found) == limit else None)


@router.post("/recorders", status_code=201)
async def register(message: NewRecorder, who: Acting, db: Db) -> RecorderView:
    who.require("manage-recorders")
    recorder = await service.register(db, who.unit_id, message.name, message.officer_id, message.kind)
    return RecorderView.model_validate(recorder, from_attributes=True)


@router.post("/recorders/{recorder}/enrolment-codes", status_code=201)
async def issue_code(recorder: UUID, who: Acting, db: Db) -> CodeView:
    who.require("manage-recorders")
    code, expires_at = await service.issue_code(db, who.unit_id, recorder)
    return CodeView(code=code, expires_at=expires_at)


@router.post("/recorders/{recorder}/push-addresses", status_code=201)
async def make_address(
    recorder: UUID, message: NewAddress, who: Acting, db: Db, request: Request, response: Response
) -> MadeAddress:
    who.require("manage-recorders")
    token, made = await addresses.make(db, who, recorder, days=message.days, remuxed_by=message.remuxed_by)
    response.headers["cache-control"] = "no-store"
    view = AddressView.model_validate(made, from_attributes=True)
    api = f"{request.app.state.settings.public_url}/v1"
    kind = (await service.recorder(db, who, recorder)).kind
    files = addresses.files_url(api, kind, token)
    return MadeAddress(**view.model_dump(), url=f"{api}/push/{token}/", uploads=f"{api}/uploads/{token}", files=files)


@router.post("/recorders/{recorder}/push-addresses/{address}/revocation")
async def revoke_address(recorder: UUID, address: UUID, who: Acting, db: Db) -> AddressView:
    """From the next segment on nothing comes in by it; repeat until answered."""
    who.require("manage-recorders")
    return AddressView.model_validate(await addresses.revoke(db, who, recorder, address), from_attributes=True)


@router.post("/recorders/{recorder}/revocation")
async def revoke(recorder: UUID, message: Revocation, who: Acting, sessions: Maker, vault: Vault) -> KeyView:
    """Revoke one key of a recorder; repeat until answered. It is refused at once, whenever the vault is told."""
    who.require("manage-recorders")
    return await revocation.revoke(sessions, vault, who.unit_id, recorder, message)


@router.get("/keys")
async def keys(vault: Vault, response: Response) -> VaultKeys:
    """The vault's own keys, for terminals and verifiers: those that sign and those that did, and the successions that
    lead from each to the next."""
    told = await vault.keys()
    response.headers["cache-control"] = "public, max-age=2"
    return told


@router.post("/enrolments", status_code=201)
async def enrol(message: Enrolment, sessions: Maker, vault: Vault) -> Enrolled:
    return await service.enrol(sessions, vault, message)
