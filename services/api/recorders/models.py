"""Sources of recordings (recorders 执法记录仪 and others): enrolment codes, keys, push addresses, heartbeats."""

from __future__ import annotations

import base64
from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, LargeBinary
from sqlmodel import Field

from services.api.database import Table, Time


class Recorder(Table, table=True):
    """A source of recordings, of whatever kind."""

    __tablename__ = "recorders"
    id: UUID = Field(primary_key=True)
    unit_id: UUID
    officer_id: UUID | None = None
    name: str
    kind: str = "recorder"
    created_at: datetime = Field(sa_type=Time)


class EnrolmentCode(Table, table=True):
    """One-time: unused, or used by exactly one key."""

    __tablename__ = "enrolment_codes"
    code_sha256: bytes = Field(primary_key=True, sa_type=LargeBinary)
    recorder_id: UUID
    expires_at: datetime = Field(sa_type=Time)
    used_by: str | None = None


class RecorderKey(Table, table=True):
    """A key made on the terminal. It may sign once the log knows it (`log_index`), until it is revoked; that the log
    knows of that too, `revocation_index` says."""

    __tablename__ = "recorder_keys"
    key_id: str = Field(primary_key=True)
    recorder_id: UUID
    public_key: bytes = Field(sa_type=LargeBinary)
    model: str
    enrolled_at: datetime = Field(sa_type=Time)
    log_index: int | None = None
    revoked_at: datetime | None = Field(default=None, sa_type=Time)
    revoked_code: str | None = None
    revoked_reason: str | None = None
    revocation_index: int | None = None

    def public_text(self) -> str:
        return base64.b64encode(self.public_key).decode()


class PushAddress(Table, table=True):
    """A capability URL of one source: who knows it may push, and nothing else. Only its token's digest is kept."""

    __tablename__ = "push_addresses"
    id: UUID = Field(primary_key=True)
    recorder_id: UUID
    token_sha256: bytes = Field(sa_type=LargeBinary)
    remuxed_by: str | None = None
    """The gateway that takes the media apart and together again before it comes here."""
    made_by: UUID
    made_at: datetime = Field(sa_type=Time)
    expires_at: datetime = Field(sa_type=Time)
    revoked_by: UUID | None = None
    revoked_at: datetime | None = Field(default=None, sa_type=Time)


class Heartbeat(Table, table=True):
    """The newest of each terminal. `run` is its process, and `monotonic_ms` tells which of a run's is the newer."""

    __tablename__ = "heartbeats"
    key_id: str = Field(primary_key=True)
    recorder_id: UUID
    received_at: datetime = Field(sa_type=Time)
    run: UUID
    monotonic_ms: int = Field(sa_type=BigInteger)
    device_time: datetime = Field(sa_type=Time)
    clock_offset_ms: int = Field(sa_type=BigInteger)
    """How far the device's clock is ahead of the server's."""
    noted_offset_ms: int = Field(default=0, sa_type=BigInteger)
    """What `ClockOffset` was last told."""
    state: str
    capturing: bool
    spool_used: int = Field(sa_type=BigInteger)
    spool_limit: int = Field(sa_type=BigInteger)
    spool_full: bool
    unheard: int
    """Recordings that it named and that nobody has opened here yet."""


class ClockOffset(Table, table=True):
    """From `noted_at` on the device's clock was so far off; a row each time that changes by more than the limit."""

    __tablename__ = "clock_offsets"
    id: UUID = Field(primary_key=True)
    recorder_id: UUID
    key_id: str
    noted_at: datetime = Field(sa_type=Time)
    device_time: datetime = Field(sa_type=Time)
    offset_ms: int = Field(sa_type=BigInteger)
