"""How long recordings are kept: terms, holds, orders, tombstones."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CHAR, BigInteger, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from services.vault.models.base import Table, Time


class Term(Table, table=True):
    """Until when a recording is to be kept, and by what rule: the last one holds. None: for good."""

    __tablename__ = "terms"
    place: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    recording_id: UUID
    keep_until: datetime | None = Field(default=None, sa_type=Time)
    basis: str
    schedule: str | None = None
    at: datetime = Field(sa_type=Time)
    act: UUID | None = None


class Order(Table, table=True):
    """What two custodians signed and the vault carried out."""

    __tablename__ = "orders"
    id: UUID = Field(primary_key=True)
    act: str
    envelope: dict[str, Any] = Field(sa_type=JSONB)
    custodians: list[str] = Field(sa_type=ARRAY(CHAR(64)))
    at: datetime = Field(sa_type=Time)


class Hold(Table, table=True):
    """active -> released."""

    __tablename__ = "holds"
    id: UUID = Field(primary_key=True)
    case_id: UUID
    reason: str
    state: str
    placed_at: datetime = Field(sa_type=Time)
    released_at: datetime | None = Field(default=None, sa_type=Time)
    order_id: UUID | None = None


class HeldRecording(Table, table=True):
    __tablename__ = "held_recordings"
    recording_id: UUID = Field(primary_key=True)
    hold_id: UUID = Field(primary_key=True)
    act: UUID


class Tombstone(Table, table=True):
    """A disposal that has begun, and what is left of the recording once it has ended."""

    __tablename__ = "tombstones"
    recording_id: UUID = Field(primary_key=True)
    order_id: UUID
    act: UUID
    began_at: datetime = Field(sa_type=Time)
    envelope: bytes | None = Field(default=None, sa_type=LargeBinary)
    key: str | None = None
    version: str | None = None
