"""Exports: what each is of, and its files as they lie in the tar."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, LargeBinary, Uuid
from sqlmodel import Field

from services.vault.models.base import Table, Time


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
    moment: datetime = Field(sa_type=Time)
    state: str
    requested_at: datetime = Field(sa_type=Time)
    expires_at: datetime = Field(sa_type=Time)
    ready_at: datetime | None = Field(default=None, sa_type=Time)
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
