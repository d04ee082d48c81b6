"""The signed-in person of a request. Changing requests prove that they come from our own page."""

from __future__ import annotations

import hmac
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from services.api.database import Maker
from services.api.errors import NotSignedIn, RequestForged
from services.api.identity import service
from services.api.identity.principal import Principal

COOKIE = "qc_session"


async def signed_in(request: Request, sessions: Maker) -> Principal:
    """Raises NotSignedIn."""
    token = request.cookies.get(COOKIE)
    if not token:
        raise NotSignedIn
    async with sessions() as db:
        return await service.principal(db, token)


async def acting(request: Request, who: Annotated[Principal, Depends(signed_in)]) -> Principal:
    """For what changes something: the session's CSRF token in `X-CSRF-Token` or the form. RequestForged."""
    same_site(request)
    token = request.headers.get("x-csrf-token")
    if token is None and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        field = (await request.form()).get("csrf")
        token = field if isinstance(field, str) else None
    _require_token(who, token)
    return who


async def acting_by_header(request: Request, who: Annotated[Principal, Depends(signed_in)]) -> Principal:
    """The same where the body is not for reading yet: the token is in the header. RequestForged."""
    same_site(request)
    _require_token(who, request.headers.get("x-csrf-token"))
    return who


def _require_token(who: Principal, token: str | None) -> None:
    if token is None or not hmac.compare_digest(token.encode(), who.csrf.encode()):
        raise RequestForged


def same_site(request: Request) -> None:
    """Refuse what a browser says comes from elsewhere. Raises RequestForged."""
    origin = request.headers.get("origin")
    foreign_origin = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign_origin or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RequestForged


SignedIn = Annotated[Principal, Depends(signed_in)]
Acting = Annotated[Principal, Depends(acting)]
ActingByHeader = Annotated[Principal, Depends(acting_by_header)]
