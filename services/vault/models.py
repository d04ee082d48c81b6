"""The vault's tables (schema `vault`, its own role). Migrations are the truth; these mirror them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CHAR, BigInteger, DateTime, LargeBinary, SmallInteger, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, MetaData, SQLModel

_Time: Any = DateTime(timezone=True)


class Table(SQLModel):
    metadata = MetaData(schema="vault")


class KeyRecord(Table, table=True):
    """A public key of the vault itself. current -> superseded by the next of its purpose -> retired: a receipt key
    signs nothing once it is superseded, a log key signs beside its successor until it is retired. Revoked is
    superseded and retired at once, or any time after."""

    __tablename__ = "keys"
    key_id: str = Field(primary_key=True)
    purpose: str
    public_key: bytes = Field(sa_type=LargeBinary)
    act: UUID
    since: datetime = Field(sa_type=_Time)
    replaces: str | None = None
    succession: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    """Signed by the key it replaces and by itself; none where that key was revoked."""
    reason: str = ""
    """Why it was introduced."""
    superseded_at: datetime | None = Field(default=None, sa_type=_Time)
    retired_at: datetime | None = Field(default=None, sa_type=_Time)
    retired_act: UUID | None = None
    revoked_at: datetime | None = Field(default=None, sa_type=_Time)
    revoked_act: UUID | None = None
    revoked_code: str | None = None
    revoked_reason: str | None = None


class Enrolment(Table, table=True):
    __tablename__ = "enrolments"
    key_id: str = Field(primary_key=True)
    recorder: UUID
    public_key: bytes = Field(sa_type=LargeBinary)
    act: UUID
    enrolled_at: datetime = Field(sa_type=_Time)
    revoked_at: datetime | None = Field(default=None, sa_type=_Time)
    revoked_act: UUID | None = None


class Recording(Table, table=True):
    """open -> closed, and back to open with the next number where something comes after all. A series stays open.
    Either -> disposing -> disposed."""

    __tablename__ = "recordings"
    id: UUID = Field(primary_key=True)
    source: UUID
    key_id: str | None = None
    started_at: datetime = Field(sa_type=_Time)
    opened_at: datetime = Field(sa_type=_Time)
    kind: str = "recording"
    state: str
    number: int = 0
    """Of the manifest that is being collected, or was last: what comes after the closing opens the next."""
    active_at: datetime = Field(sa_type=_Time)
    """When the source last asked or committed."""
    keep_until: datetime | None = Field(default=None, sa_type=_Time)
    """Until when it is to be kept, where somebody said so; else the default for its kind holds."""
    permanent: bool = False
    renew_at: datetime | None = Field(default=None, sa_type=_Time)
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
    started_at: datetime = Field(sa_type=_Time)
    duration_ms: int
    monotonic_ms: int = Field(sa_type=BigInteger)
    metadata_sha256: str | None = None
    key: str
    retain_until: datetime = Field(sa_type=_Time)
    asked_at: datetime = Field(sa_type=_Time)
    state: str
    ticket_at: datetime | None = Field(default=None, sa_type=_Time)
    sweep_at: datetime | None = Field(default=None, sa_type=_Time)
    version: str | None = None
    sealed_at: datetime | None = Field(default=None, sa_type=_Time)
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
    found_at: datetime = Field(sa_type=_Time)


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
    ended_at: datetime = Field(sa_type=_Time)
    closed_at: datetime = Field(sa_type=_Time)
    key: str
    version: str | None = None
    act: UUID
    retain_until: datetime | None = Field(default=None, sa_type=_Time)
    held: bool | None = False


class KeptFile(Table, table=True):
    """A sealed file that belongs to no recording and is kept for good."""

    __tablename__ = "kept_files"
    key: str = Field(primary_key=True)
    version: str
    retain_until: datetime = Field(sa_type=_Time)
    sha256: str | None = None
    size: int | None = Field(default=None, sa_type=BigInteger)


class Term(Table, table=True):
    """Until when a recording is to be kept, and by what rule: the last one holds. None: for good."""

    __tablename__ = "terms"
    place: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    recording_id: UUID
    keep_until: datetime | None = Field(default=None, sa_type=_Time)
    basis: str
    schedule: str | None = None
    at: datetime = Field(sa_type=_Time)
    act: UUID | None = None


class Custodian(Table, table=True):
    __tablename__ = "custodians"
    key_id: str = Field(primary_key=True)
    name: str
    public_key: bytes = Field(sa_type=LargeBinary)
    act: UUID
    enrolled_at: datetime = Field(sa_type=_Time)
    removed_at: datetime | None = Field(default=None, sa_type=_Time)
    removed_act: UUID | None = None


class Order(Table, table=True):
    """What two custodians signed and the vault carried out."""

    __tablename__ = "orders"
    id: UUID = Field(primary_key=True)
    act: str
    envelope: dict[str, Any] = Field(sa_type=JSONB)
    custodians: list[str] = Field(sa_type=ARRAY(CHAR(64)))
    at: datetime = Field(sa_type=_Time)


class Hold(Table, table=True):
    """active -> released."""

    __tablename__ = "holds"
    id: UUID = Field(primary_key=True)
    case_id: UUID
    reason: str
    state: str
    placed_at: datetime = Field(sa_type=_Time)
    released_at: datetime | None = Field(default=None, sa_type=_Time)
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
    began_at: datetime = Field(sa_type=_Time)
    envelope: bytes | None = Field(default=None, sa_type=LargeBinary)
    key: str | None = None
    version: str | None = None


class Rebuild(Table, table=True):
    """The database was made anew from the bucket: what the log had signed from `size` on is lost."""

    __tablename__ = "rebuilds"
    at: datetime = Field(primary_key=True, sa_type=_Time)
    size: int = Field(sa_type=BigInteger)
    published_size: int = Field(sa_type=BigInteger)


class Export(Table, table=True):
    """waiting -> preparing -> ready | failed; any -> lapsed. `moment` is when its act was logged; `size` is the
    tar's, as far as it is laid out."""

    __tablename__ = "exports"
    act: UUID = Field(primary_key=True)
    person: UUID
    case_id: UUID | None = None
    recordings: list[UUID] = Field(sa_type=ARRAY(Uuid))
    series: list[UUID] = Field(sa_type=ARRAY(Uuid))
    copies: bool
    moment: datetime = Field(sa_type=_Time)
    state: str
    requested_at: datetime = Field(sa_type=_Time)
    expires_at: datetime = Field(sa_type=_Time)
    ready_at: datetime | None = Field(default=None, sa_type=_Time)
    tree_size: int | None = Field(default=None, sa_type=BigInteger)
    checkpoint: str | None = None
    bytes_total: int = Field(default=0, sa_type=BigInteger)
    bytes_done: int = Field(default=0, sa_type=BigInteger)
    """Of media, read; `bytes_laid` of them are in files that are laid out."""
    bytes_laid: int = Field(default=0, sa_type=BigInteger)
    files: int = 0
    size: int = Field(default=0, sa_type=BigInteger)
    etag: str | None = None
    reason: str | None = None
    detail: str | None = None
    cleared: bool = False


class ExportItem(Table, table=True):
    """A part of an export, decided once; `gone`: it was disposed of, and comes without its media."""

    __tablename__ = "export_items"
    act: UUID = Field(primary_key=True)
    place: int = Field(primary_key=True)
    kind: str
    recording_id: UUID
    number: int
    gone: bool
    done: bool = False


class ExportFile(Table, table=True):
    """One file of the bag; `start` is where its header begins in the tar, `source` where its bytes come from."""

    __tablename__ = "export_files"
    act: UUID = Field(primary_key=True)
    ordinal: int = Field(primary_key=True)
    path: str
    header: bytes = Field(sa_type=LargeBinary)
    start: int = Field(sa_type=BigInteger)
    size: int = Field(sa_type=BigInteger)
    sha256: str
    source: str
    recording_id: UUID | None = None
    sequence: int | None = None


class ExportPiece(Table, table=True):
    """A mebibyte of a file, deflated; the last of a file may be less."""

    __tablename__ = "export_pieces"
    act: UUID = Field(primary_key=True)
    ordinal: int = Field(primary_key=True)
    place: int = Field(primary_key=True)
    data: bytes = Field(sa_type=LargeBinary)


class Alarm(Table, table=True):
    """Something is otherwise than it should be: it stands until `cleared_at`, one row a kind and subject."""

    __tablename__ = "alarms"
    place: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    kind: str
    subject: str
    detail: str
    first_seen: datetime = Field(sa_type=_Time)
    last_seen: datetime = Field(sa_type=_Time)
    cleared_at: datetime | None = Field(default=None, sa_type=_Time)


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
    at: datetime = Field(sa_type=_Time)
    policy: str | None = None
    published_lines: int | None = Field(default=None, sa_type=SmallInteger)


class Cosignature(Table, table=True):
    __tablename__ = "cosignatures"
    size: int = Field(primary_key=True, sa_type=BigInteger)
    witness: str = Field(primary_key=True)
    line: str
    at: datetime = Field(sa_type=_Time)


class WitnessRecord(Table, table=True):
    """What we know of a witness: the size it cosigned last, since when it is away and why, when to ask again."""

    __tablename__ = "witnesses"
    witness: str = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger)
    away_since: datetime | None = Field(default=None, sa_type=_Time)
    reason: str | None = None
    tries: int
    next_try_at: datetime = Field(sa_type=_Time)


class AuthorityRecord(Table, table=True):
    """The pinned certificate (PEM) of an authority whose token we hold; it outlives its place in the settings."""

    __tablename__ = "authorities"
    tsa: str = Field(primary_key=True)
    certificate: bytes = Field(sa_type=LargeBinary)
    since: datetime = Field(sa_type=_Time)


class Timestamp(Table, table=True):
    """A checkpoint queued for a token, and the token. It waits while it has none and `next_try_at` is set."""

    __tablename__ = "timestamps"
    size: int = Field(primary_key=True, sa_type=BigInteger)
    minute: datetime = Field(sa_type=_Time)
    checkpoint: bytes = Field(sa_type=LargeBinary)
    digest: bytes = Field(sa_type=LargeBinary)
    requested_at: datetime = Field(sa_type=_Time)
    tries: int
    next_try_at: datetime | None = Field(default=None, sa_type=_Time)
    token: bytes | None = Field(default=None, sa_type=LargeBinary)
    tsa: str | None = None
    stamped_at: datetime | None = Field(default=None, sa_type=_Time)
    got_at: datetime | None = Field(default=None, sa_type=_Time)
    sealed_at: datetime | None = Field(default=None, sa_type=_Time)


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
