"""Recordings 音像记录, their segments 片段 as the api knows them, gaps, viewings and exports."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, LargeBinary, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from services.api.database import Table, Time


class Recording(Table, table=True):
    """Counters are moved in the transaction that indexes a sealed segment."""

    __tablename__ = "recordings"
    id: UUID = Field(primary_key=True)
    recorder_id: UUID
    unit_id: UUID
    officer_id: UUID | None = None
    key_id: str | None = None
    """Whose signature closes it; a source that pushes has none."""
    state: str
    door: str = "direct"
    container: str = "fmp4"
    """How it is cut and played; a `file` is cut anywhere and not played."""
    format: str = "mp4"
    started_at: datetime = Field(sa_type=Time)
    ended_at: datetime | None = Field(default=None, sa_type=Time)
    last_segment_at: datetime | None = Field(default=None, sa_type=Time)
    segments: int = 0
    bytes: int = Field(default=0, sa_type=BigInteger)
    duration_ms: int = Field(default=0, sa_type=BigInteger)
    lock: str | None = None
    manifest_sha256: str | None = None
    manifest_act: UUID | None = None
    closed_by: str | None = None
    close_reason: str | None = None
    """Why the server closed it."""
    supplements: int = 0
    tried_at: datetime | None = Field(default=None, sa_type=Time)
    """When the server last tried in vain to close it in its terminal's stead."""
    watched_until: datetime | None = Field(default=None, sa_type=Time)
    remuxed_by: str | None = None
    handover_id: UUID | None = None
    """Of an import: who handed it over."""
    address_id: UUID | None = None
    rendition: str = ""
    """Of a push that brings several streams side by side (DASH), which one."""
    init_sha256: str | None = None
    next_sequence: int = 0
    """The next that the server gives to what is pushed."""
    push_epoch: int = 0
    """How often the source began anew: whoever pushes for an earlier epoch has been superseded."""
    push_until: datetime | None = Field(default=None, sa_type=Time)
    """When the server closes it, if nothing comes."""


class Segment(Table, table=True):
    """What the vault has sealed; the receipt itself stays with the vault."""

    __tablename__ = "segments"
    recording_id: UUID = Field(primary_key=True)
    sequence: int = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    size: int
    media: str
    started_at: datetime = Field(sa_type=Time)
    duration_ms: int
    received_at: datetime = Field(sa_type=Time)
    sealed_at: datetime = Field(sa_type=Time)
    lock: str
    key_id: str
    beside: bool = False
    """Sealed, and not of those that the closing speaks of: kept and shown, never played as the recording."""
    begins_anew: bool = False
    """The source began again here, and its media's own clock with it."""


class PushedName(Table, table=True):
    """What a source has put under a name, so that the same again is the same, and another is told apart."""

    __tablename__ = "pushed_names"
    recording_id: UUID = Field(primary_key=True)
    epoch: int = Field(primary_key=True)
    name_sha256: bytes = Field(primary_key=True, sa_type=LargeBinary)
    sequence: int
    sha256: str
    started_at: datetime = Field(sa_type=Time)
    begins_anew: bool = False


class Upload(Table, table=True):
    """A file that comes in pieces. What came is `received` bytes: those `sealed`, and a tail in the staging bucket.

    `pending_*` is the segment that is being sealed: whoever comes next asks the vault what became of it.
    """

    __tablename__ = "uploads"
    id: UUID = Field(primary_key=True)
    """Its recording's too, once anything is sealed."""
    address_id: UUID
    kind: str = "single"
    parts: list[UUID] | None = Field(default=None, sa_type=ARRAY(Uuid))
    """Of a `final` one, the `partial` ones that it is made of."""
    state: str = "open"
    by_length: bool
    """Complete once its length has come (tus), not when its client says so (IETF)."""
    length: int | None = Field(default=None, sa_type=BigInteger)
    received: int = Field(default=0, sa_type=BigInteger)
    sealed: int = Field(default=0, sa_type=BigInteger)
    segments: int = 0
    epoch: int = 0
    """How often somebody came for it: whoever came before has been superseded."""
    tail: str | None = None
    tail_sha256: str | None = None
    pending_sha256: str | None = None
    pending_size: int | None = None
    pending_ends: bool = False
    format: str | None = None
    file_name: str | None = None
    content_type: str | None = None
    metadata_: str | None = Field(default=None, sa_column_kwargs={"name": "metadata"})
    """As the client gave it, to be given back."""
    file_id: UUID | None = None
    """The single file that it brings the bytes of."""
    handover_id: UUID | None = None
    created_at: datetime = Field(sa_type=Time)
    expires_at: datetime = Field(sa_type=Time)
    completed_at: datetime | None = Field(default=None, sa_type=Time)
    whole_sha256: str | None = None
    closed: bool = False
    """Its tail is gone and its recording closed."""


class Takeover(Table, table=True):
    """A finished file that a terminal took over from a recorder, and so was not live. The terminal signs at closing
    what stands here, but for `note` and `file_name`, which may name people."""

    __tablename__ = "takeovers"
    recording_id: UUID = Field(primary_key=True)
    at: datetime = Field(sa_type=Time)
    reason: str
    note: str | None = None
    file_name: str
    format: str
    size: int = Field(sa_type=BigInteger)
    sha256: str
    modified_at: datetime | None = Field(default=None, sa_type=Time)
    created_at: datetime | None = Field(default=None, sa_type=Time)
    root: str | None = None
    """Of the segments whose bytes the server read and found to be the file, at `checked_at`."""
    checked_at: datetime | None = Field(default=None, sa_type=Time)
    differs: bool = False
    """What is sealed is not the file that the terminal names."""


class Gap(Table, table=True):
    """A stretch of time before a segment in which nothing was sealed, and why."""

    __tablename__ = "gaps"
    id: UUID = Field(primary_key=True)
    recording_id: UUID
    kind: str
    before_sequence: int
    from_at: datetime = Field(sa_type=Time)
    to_at: datetime = Field(sa_type=Time)
    noted_at: datetime = Field(sa_type=Time)


class Detection(Table, table=True):
    """A closing, or a supplement, was looked at; `not_looked` says why not, or not all of it."""

    __tablename__ = "detections"
    recording_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    done_at: datetime = Field(sa_type=Time)
    detector: str | None = None
    not_looked: str | None = None
    found: int


class Stretch(Table, table=True):
    """Of what is played something that shows or tells nothing: by the recorder's clock, where there is one."""

    __tablename__ = "stretches"
    id: UUID = Field(primary_key=True)
    recording_id: UUID
    number: int
    kind: str
    from_at: datetime | None = Field(default=None, sa_type=Time)
    to_at: datetime | None = Field(default=None, sa_type=Time)
    from_ms: int = Field(sa_type=BigInteger)
    to_ms: int = Field(sa_type=BigInteger)


class Held(Table, table=True):
    """What its terminal last said that it has recorded of a recording, and has no receipts for."""

    __tablename__ = "held_recordings"
    recording_id: UUID = Field(primary_key=True)
    told_at: datetime = Field(sa_type=Time)
    live: bool
    """It is being recorded still."""
    next_sequence: int
    pending: int
    pending_bytes: int = Field(sa_type=BigInteger)
    pending_ms: int = Field(sa_type=BigInteger)
    oldest_at: datetime | None = Field(default=None, sa_type=Time)
    skipped: int
    """Segments that found no room in the spool and were not kept."""


class Viewing(Table, table=True):
    """Person, object, purpose, at most 30 minutes. It has effect once its act stands in the log."""

    __tablename__ = "viewings"
    id: UUID = Field(primary_key=True)
    recording_id: UUID | None = None
    file_id: UUID | None = None
    """It is of a version of a single file, and not of a recording."""
    file_version: int | None = None
    person_id: UUID
    purpose: str
    note: str | None = None
    at: datetime = Field(sa_type=Time)
    until: datetime = Field(sa_type=Time)
    first_sequence: int
    passed: list[list[int]] = Field(default_factory=list, sa_type=JSONB)
    """The sequences, each from and to, that were missing while it was live and that it went on past. It never lists
    them, though they arrive: a playlist is only ever added to."""


class Export(Table, table=True):
    """Prepared and kept by the vault, under this id as its act."""

    __tablename__ = "exports"
    id: UUID = Field(primary_key=True)
    person_id: UUID
    purpose: str
    note: str | None = None
    at: datetime = Field(sa_type=Time)
    copies: bool = False


class ExportedRecording(Table, table=True):
    __tablename__ = "exported_recordings"
    export_id: UUID = Field(primary_key=True)
    recording_id: UUID = Field(primary_key=True)
