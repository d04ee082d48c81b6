"""Wire types of recordings, viewings and exports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, StringConstraints

from services.api.recordings.views import RecordingRow, SegmentRow
from services.vault.contract.wire import Moment

Purpose = Literal["case-handling", "spot-check", "training", "other"]
Note = Annotated[str, StringConstraints(max_length=500, strip_whitespace=True)]


class NewRecording(BaseModel):
    """The id is in the path: a UUIDv7 that the terminal made, offline if need be."""

    started_at: Moment


class RecordingView(BaseModel):
    id: UUID
    state: str


class RecordingList(BaseModel):
    items: list[RecordingRow]
    next_cursor: str | None


class SegmentList(BaseModel):
    items: list[SegmentRow]
    next_after: int | None


class NewUse(BaseModel):
    """Why somebody looks or takes a copy; `other` needs a note."""

    purpose: Purpose
    note: Note | None = None


class ViewingView(BaseModel):
    id: UUID
    playlist: str
    until: datetime


class ExportView(BaseModel):
    id: UUID
    download: str
