"""Requests for footage 调取 and handovers 移交 of a service hall's footage."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlmodel import Field

from services.api.database import Table, Time


class FootageRequest(Table, table=True):
    """`asked`, until it is `handed-over` or `refused`. Once `kept_until` has passed without either it has lapsed:
    that is told from the time and not written."""

    __tablename__ = "footage_requests"
    id: UUID = Field(primary_key=True)
    unit_id: UUID
    asked_by: UUID
    asked_at: datetime = Field(sa_type=Time)
    reason: str
    from_at: datetime = Field(sa_type=Time)
    to_at: datetime = Field(sa_type=Time)
    kept_until: datetime = Field(sa_type=Time)
    state: str = "asked"
    answered_by: UUID | None = None
    answered_at: datetime | None = Field(default=None, sa_type=Time)
    answer: str | None = None


class RequestedCamera(Table, table=True):
    __tablename__ = "requested_cameras"
    request_id: UUID = Field(primary_key=True)
    source_id: UUID = Field(primary_key=True)


class Handover(Table, table=True):
    """The custody origin of an import: from which hall's system and camera, which stretch, from whom to whom."""

    __tablename__ = "handovers"
    id: UUID = Field(primary_key=True)
    unit_id: UUID
    source_id: UUID
    request_id: UUID | None = None
    hall: str
    system: str
    camera: str
    from_at: datetime = Field(sa_type=Time)
    to_at: datetime = Field(sa_type=Time)
    handed_over_by: str
    taken_over_by: UUID
    taken_over_at: datetime = Field(sa_type=Time)
    export_sha256: str | None = None
    noted_at: datetime = Field(sa_type=Time)
