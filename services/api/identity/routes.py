"""Sessions over JSON; the console's form uses the same service."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from services.api.database import Db, Maker
from services.api.identity import service
from services.api.identity.dependencies import COOKIE, Acting, same_site
from services.api.identity.schemas import SessionView, SignInRequest

router = APIRouter(prefix="/v1/sessions", tags=["identity"])


def give_cookie(response: Response, signed: service.SignedIn, *, secure: bool) -> None:
    lifetime = int((signed.expires_at - datetime.now(UTC)).total_seconds())
    response.set_cookie(
        COOKIE, signed.token, max_age=lifetime, httponly=True, samesite="lax", secure=secure, path="/"
    )


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


@router.post("", status_code=201)
async def sign_in(message: SignInRequest, request: Request, response: Response, sessions: Maker) -> SessionView:
    same_site(request)
    settings = request.app.state.settings
    signed = await service.sign_in(
        sessions, message.login, message.password, address_of(request), hours=settings.session_hours
    )
    give_cookie(response, signed, secure=settings.secure)
    who = signed.principal
    return SessionView(
        person=who.person_id,
        name=who.name,
        role=who.role,
        unit=who.unit_name,
        csrf=who.csrf,
        expires_at=signed.expires_at,
    )


@router.delete("/current", status_code=204)
async def sign_out(who: Acting, db: Db, response: Response) -> None:
    await service.sign_out(db, who)
    response.delete_cookie(COOKIE, path="/")
