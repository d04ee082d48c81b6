"""Wire types of sign-in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from services.api.database import STORABLE


class SignInRequest(BaseModel):
    login: Annotated[str, Field(min_length=1, max_length=64, pattern=STORABLE)]
    password: Annotated[str, Field(min_length=1, max_length=256)]


class SessionView(BaseModel):
    """`csrf` goes into `X-CSRF-Token` of every changing request made with the session's cookie."""

    person: UUID
    name: str
    role: str
    unit: str
    csrf: str
    expires_at: datetime
