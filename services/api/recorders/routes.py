"""Registering recorders (administrators) and enrolling terminals (one-time code)."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from services.api.database import Db, Maker
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recorders import revocation, service
from services.api.recorders.schemas import (
    CodeView,
    Enrolled,
    Enrolment,
    KeyView,
    NewRecorder,
    RecorderPage,
    RecorderView,
    Revocation,
)
from services.api.vault import Vault
from services.vault.contract.wire import VaultKeys

router = APIRouter(prefix="/v1", tags=["recorders"])


@router.get("/recorders")
async def recorders(who: SignedIn, db: Db) -> RecorderPage:
    who.require("manage-recorders")
    found = await service.recorders(db, who)
    keys = await service.keys_of(db, [row.id for row in found])
    items = [RecorderView.model_validate(row, from_attributes=True) for row in found]
    return RecorderPage(items=[item.model_copy(update={"keys": keys.get(item.id, [])}) for item in items])


@router.post("/recorders", status_code=201)
async def register(message: NewRecorder, who: Acting, db: Db) -> RecorderView:
    who.require("manage-recorders")
    recorder = await service.register(db, who.unit_id, message.name, message.officer_id)
    return RecorderView.model_validate(recorder, from_attributes=True)


@router.post("/recorders/{recorder}/enrolment-codes", status_code=201)
async def issue_code(recorder: UUID, who: Acting, db: Db) -> CodeView:
    who.require("manage-recorders")
    code, expires_at = await service.issue_code(db, who.unit_id, recorder)
    return CodeView(code=code, expires_at=expires_at)


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
