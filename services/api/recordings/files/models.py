"""Single files 单个文件 and their versions; each is a series in the vault, under the same id."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, LargeBinary, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from services.api.database import Table, Time


class File(Table, table=True):
    """`awaiting` its first bytes, or `sealed` with the newest of its versions. A source brought it, or a person."""

    __tablename__ = "files"
    id: UUID = Field(primary_key=True)
    unit_id: UUID
    source_id: UUID | None = None
    person_id: UUID | None = None
    officer_id: UUID | None = None
    key_sha256: bytes | None = Field(default=None, sa_type=LargeBinary)
    """Of the Idempotency-Key under which it was made."""
    kind: str
    about: dict[str, Any] = Field(sa_type=JSONB)
    handover_id: UUID | None = None
    state: str = "awaiting"
    version: int = 0
    trouble: str | None = None
    """Why the bytes that came last by the resumable door were not taken."""
    created_at: datetime = Field(sa_type=Time)

    @property
    def keeper(self) -> UUID:
        """Who its series is of in the vault."""
        found = self.source_id or self.person_id
        assert found
        return found


class FileVersion(Table, table=True):
    """What is sealed, or about to be: until it is, it counts for nothing and whoever comes next finishes it."""

    __tablename__ = "file_versions"
    file_id: UUID = Field(primary_key=True)
    version: int = Field(primary_key=True)
    sha256: str
    size: int
    format: str
    name: str | None = None
    """As whoever brought it called it: shown, never believed."""
    about: str
    """The bytes that the receipt has the digest of, with a salt."""
    about_sha256: str
    facts: list[str] = Field(sa_type=ARRAY(String))
    exif_time: str | None = None
    """When the photo says that it was taken; nobody has checked that."""
    door: str
    address_id: UUID | None = None
    person_id: UUID | None = None
    received_at: datetime = Field(sa_type=Time)
    sealed_at: datetime | None = Field(default=None, sa_type=Time)
    lock: str | None = None
    key_id: str | None = None


class ExportedFile(Table, table=True):
    __tablename__ = "exported_files"
    export_id: UUID = Field(primary_key=True)
    file_id: UUID = Field(primary_key=True)
