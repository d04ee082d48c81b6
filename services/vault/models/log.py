"""The transparency log: entries, tiles, checkpoints, what witnesses and time authorities said of them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, LargeBinary, SmallInteger
from sqlmodel import Field

from services.vault.models.base import Table, Time


class Rebuild(Table, table=True):
    """The database was made anew from the bucket: what the log had signed from `size` on is lost."""

    __tablename__ = "rebuilds"
    at: datetime = Field(primary_key=True, sa_type=Time)
    size: int = Field(sa_type=BigInteger)
    published_size: int = Field(sa_type=BigInteger)


class LogPending(Table, table=True):
    __tablename__ = "log_pending"
    place: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    act: UUID
    statement: bytes = Field(sa_type=LargeBinary)
    salt: bytes = Field(sa_type=LargeBinary)


class LogEntry(Table, table=True):
    __tablename__ = "log_entries"
    position: int = Field(primary_key=True, sa_type=BigInteger)
    act: UUID
    leaf: bytes = Field(sa_type=LargeBinary)
    salt: bytes = Field(sa_type=LargeBinary)
    statement: bytes = Field(sa_type=LargeBinary)


class LogTile(Table, table=True):
    __tablename__ = "log_tiles"
    level: int = Field(primary_key=True, sa_type=SmallInteger)
    number: int = Field(primary_key=True, sa_type=BigInteger)
    hashes: bytes = Field(sa_type=LargeBinary)


class LogCheckpoint(Table, table=True):
    """A checkpoint that is or will be published. `policy` names the witness policy that it meets, and
    `published_lines` how many cosignatures its public copy bears (None: not public yet)."""

    __tablename__ = "checkpoints"
    size: int = Field(primary_key=True, sa_type=BigInteger)
    note: str
    at: datetime = Field(sa_type=Time)
    policy: str | None = None
    published_lines: int | None = Field(default=None, sa_type=SmallInteger)


class Cosignature(Table, table=True):
    __tablename__ = "cosignatures"
    size: int = Field(primary_key=True, sa_type=BigInteger)
    witness: str = Field(primary_key=True)
    line: str
    at: datetime = Field(sa_type=Time)


class WitnessRecord(Table, table=True):
    """What we know of a witness: the size it cosigned last, since when it is away and why, when to ask again."""

    __tablename__ = "witnesses"
    witness: str = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger)
    away_since: datetime | None = Field(default=None, sa_type=Time)
    reason: str | None = None
    tries: int
    next_try_at: datetime = Field(sa_type=Time)


class AuthorityRecord(Table, table=True):
    """The pinned certificate (PEM) of an authority whose token we hold; it outlives its place in the settings."""

    __tablename__ = "authorities"
    tsa: str = Field(primary_key=True)
    certificate: bytes = Field(sa_type=LargeBinary)
    since: datetime = Field(sa_type=Time)


class Timestamp(Table, table=True):
    """A checkpoint queued for a token, and the token. It waits while it has none and `next_try_at` is set."""

    __tablename__ = "timestamps"
    size: int = Field(primary_key=True, sa_type=BigInteger)
    minute: datetime = Field(sa_type=Time)
    checkpoint: bytes = Field(sa_type=LargeBinary)
    digest: bytes = Field(sa_type=LargeBinary)
    requested_at: datetime = Field(sa_type=Time)
    tries: int
    next_try_at: datetime | None = Field(default=None, sa_type=Time)
    token: bytes | None = Field(default=None, sa_type=LargeBinary)
    tsa: str | None = None
    stamped_at: datetime | None = Field(default=None, sa_type=Time)
    got_at: datetime | None = Field(default=None, sa_type=Time)
    sealed_at: datetime | None = Field(default=None, sa_type=Time)


class LogHead(Table, table=True):
    """One row: the newest signed checkpoint, and how far the public files have come."""

    __tablename__ = "log_head"
    single: bool = Field(default=True, primary_key=True)
    size: int = Field(sa_type=BigInteger)
    root: bytes = Field(sa_type=LargeBinary)
    checkpoint: str
    published_size: int = Field(sa_type=BigInteger)
    pruned_size: int = Field(default=0, sa_type=BigInteger)
    """Of the tree below which no partial tiles are left."""
