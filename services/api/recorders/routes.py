"""Registering recorders (administrators) and enrolling terminals (one-time code)."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from services.api.database import Db, Maker
from services.api.identity.dependencies import Acting, SignedIn
from services.api.recorders import service
from services.api.recorders.schemas import (
    CodeView,
    Enrolled,
    Enrolment,
    NewRecorder,
    RecorderPage,
    RecorderView,
)
from services.api.vault import Vault

router = APIRouter(prefix="/v1", tags=["recorders"])


@router.get("/recorders")
async def recorders(who: SignedIn, db: Db) -> RecorderPage:
    who.require("manage-recorders")
    found = await service.recorders(db, who)
    return RecorderPage(items=[RecorderView.model_validate(row, from_attributes=True) for row in found])


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


@router.post("/enrolments", status_code=201)
async def enrol(message: Enrolment, sessions: Maker, vault: Vault) -> Enrolled:
    return await service.enrol(sessions, vault, message)
