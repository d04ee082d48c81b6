"""Recordings: their segments and manifests, what lies among them, and what stands for none of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from services.vault.models.base import Table, Time


class Recording(Table, table=True):
    """open -> closed, and back to open with the next number where something comes after all. A series stays open.
    Either -> disposing -> disposed."""

    __tablename__ = "recordings"
    id: UUID = Field(primary_key=True)
    source: UUID
    key_id: str | None = None
    started_at: datetime = Field(sa_type=Time)
    opened_at: datetime = Field(sa_type=Time)
    kind: str = "recording"
    format: str = "mp4"
    remuxed_by: str | None = None
    state: str
    number: int = 0
    """Of the manifest that is being collected, or was last: what comes after the closing opens the next."""
    active_at: datetime = Field(sa_type=Time)
    """When the source last asked or committed."""
    keep_until: datetime | None = Field(default=None, sa_type=Time)
    """Until when it is to be kept, where somebody said so; else the default for its kind holds."""
    permanent: bool = False
    renew_at: datetime | None = Field(default=None, sa_type=Time)
    """When its locks are to be looked at next."""
    objects: int = 0
    """How many sealed objects it has; `flagged` of them bear the flag of a hold, and of `doubted` that is open."""
    flagged: int = 0
    doubted: int = 0


class Segment(Table, table=True):
    """asked -> sealed; asked -> lapsed where nothing came in a day, and back by a new ask. The primary key is what
    a receipt is idempotent by. sealed -> disposed by order of two custodians."""

    __tablename__ = "segments"
    recording_id: UUID = Field(primary_key=True)
    sequence: int = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    size: int
    media: str
    started_at: datetime = Field(sa_type=Time)
    duration_ms: int
    monotonic_ms: int = Field(sa_type=BigInteger)
    metadata_sha256: str | None = None
    key: str
    retain_until: datetime = Field(sa_type=Time)
    asked_at: datetime = Field(sa_type=Time)
    state: str
    ticket_at: datetime | None = Field(default=None, sa_type=Time)
    sweep_at: datetime | None = Field(default=None, sa_type=Time)
    version: str | None = None
    sealed_at: datetime | None = Field(default=None, sa_type=Time)
    receipt: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    statement_act: UUID | None = None
    conflict_act: UUID | None = None
    number: int = 0
    """Of the manifest that lists it; it counts from the sealing on."""
    held: bool | None = False
    """Whether the store was last asked to hold it (None: it is being asked, or was when somebody was killed);
    `retain_until` is what it was last asked to lock until."""


class Stray(Table, table=True):
    """An object among a recording's that no receipt and no manifest stands for."""

    __tablename__ = "strays"
    key: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    recording_id: UUID
    size: int = Field(sa_type=BigInteger)
    why: str
    found_at: datetime = Field(sa_type=Time)


class Manifest(Table, table=True):
    """What a closed recording, or a supplement to it, consists of; the envelope's bytes are sealed beside the media.
    Without a closing it was closed by the server."""

    __tablename__ = "manifests"
    recording_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    envelope: bytes = Field(sa_type=LargeBinary)
    sha256: str
    closing: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    segments: int
    media_bytes: int = Field(sa_type=BigInteger)
    ended_at: datetime = Field(sa_type=Time)
    closed_at: datetime = Field(sa_type=Time)
    key: str
    version: str | None = None
    act: UUID
    retain_until: datetime | None = Field(default=None, sa_type=Time)
    held: bool | None = False


class KeptFile(Table, table=True):
    """A sealed file that belongs to no recording and is kept for good."""

    __tablename__ = "kept_files"
    key: str = Field(primary_key=True)
    version: str
    retain_until: datetime = Field(sa_type=Time)
    sha256: str | None = None
    size: int | None = Field(default=None, sa_type=BigInteger)
