"""Units, the people in them, and their sessions."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import LargeBinary
from sqlmodel import Field

from services.api.database import Table, Time


class Unit(Table, table=True):
    __tablename__ = "units"
    id: UUID = Field(primary_key=True)
    name: str


class Person(Table, table=True):
    __tablename__ = "people"
    id: UUID = Field(primary_key=True)
    unit_id: UUID
    login: str
    name: str
    role: str
    password_hash: str


class SignIn(Table, table=True):
    """A session, from sign-in to sign-out. The cookie's token is kept only as a digest."""

    __tablename__ = "sessions"
    token_sha256: bytes = Field(primary_key=True, sa_type=LargeBinary)
    person_id: UUID
    csrf: str
    created_at: datetime = Field(sa_type=Time)
    expires_at: datetime = Field(sa_type=Time)


class SignInFailure(Table, table=True):
    __tablename__ = "sign_in_failures"
    id: UUID = Field(primary_key=True)
    login_sha256: bytes = Field(sa_type=LargeBinary)
    address: str
    at: datetime = Field(sa_type=Time)
