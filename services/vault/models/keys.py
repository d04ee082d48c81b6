"""Keys: of the vault itself, of recorders and of custodians."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from services.vault.models.base import Table, Time


class KeyRecord(Table, table=True):
    """A public key of the vault itself. current -> superseded by the next of its purpose -> retired: a receipt key
    signs nothing once it is superseded, a log key signs beside its successor until it is retired. Revoked is
    superseded and retired at once, or any time after."""

    __tablename__ = "keys"
    key_id: str = Field(primary_key=True)
    purpose: str
    public_key: bytes = Field(sa_type=LargeBinary)
    act: UUID
    since: datetime = Field(sa_type=Time)
    replaces: str | None = None
    succession: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    """Signed by the key it replaces and by itself; none where that key was revoked."""
    reason: str = ""
    """Why it was introduced."""
    superseded_at: datetime | None = Field(default=None, sa_type=Time)
    retired_at: datetime | None = Field(default=None, sa_type=Time)
    retired_act: UUID | None = None
    revoked_at: datetime | None = Field(default=None, sa_type=Time)
    revoked_act: UUID | None = None
    revoked_code: str | None = None
    revoked_reason: str | None = None


class Enrolment(Table, table=True):
    __tablename__ = "enrolments"
    key_id: str = Field(primary_key=True)
    recorder: UUID
    public_key: bytes = Field(sa_type=LargeBinary)
    act: UUID
    enrolled_at: datetime = Field(sa_type=Time)
    revoked_at: datetime | None = Field(default=None, sa_type=Time)
    revoked_act: UUID | None = None


class Custodian(Table, table=True):
    __tablename__ = "custodians"
    key_id: str = Field(primary_key=True)
    name: str
    public_key: bytes = Field(sa_type=LargeBinary)
    act: UUID
    enrolled_at: datetime = Field(sa_type=Time)
    removed_at: datetime | None = Field(default=None, sa_type=Time)
    removed_act: UUID | None = None
