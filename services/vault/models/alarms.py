"""Alarms, standing and cleared."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field

from services.vault.models.base import Table, Time


class Alarm(Table, table=True):
    """Something is otherwise than it should be: it stands until `cleared_at`, one row a kind and subject."""

    __tablename__ = "alarms"
    place: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    kind: str
    subject: str
    detail: str
    first_seen: datetime = Field(sa_type=Time)
    last_seen: datetime = Field(sa_type=Time)
    cleared_at: datetime | None = Field(default=None, sa_type=Time)
