"""Wire types of recordings, viewings and exports."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.api.database import STORABLE
from services.api.recordings.views import RecordingRow, SegmentRow
from services.vault.contract.wire import MAX_EXPORTED, MAX_SEQUENCE, ExportPhase, Moment, TakenOver

Purpose = Literal["case-handling", "spot-check", "training", "other"]
Note = Annotated[str, StringConstraints(max_length=500, strip_whitespace=True, pattern=STORABLE)]


class NewTakeover(TakenOver):
    """The name is the file's within its folder; `other` needs a note. Neither is signed or logged."""

    file_name: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=STORABLE)]
    note: Note | None = None

    @model_validator(mode="after")
    def _other_is_explained(self) -> Self:
        if self.reason == "other" and not self.note:
            raise ValueError("reason `other` needs a note")
        return self


class NewRecording(BaseModel):
    """The id is in the path: a UUIDv7 that the terminal made, offline if need be. A file that was recorded before
    and is only now `taken_over` begins at the time of its take-over."""

    started_at: Moment
    taken_over: NewTakeover | None = None


class RecordingView(BaseModel):
    id: UUID
    state: str


MAX_HELD = 50
Count = Annotated[int, Field(ge=0, le=MAX_SEQUENCE)]
Much = Annotated[int, Field(ge=0, le=2**53)]


class HeldRecording(BaseModel):
    """A recording that the terminal has not closed. `pending` segments wait for their receipts, the oldest since
    `oldest_at` by the device's clock; `skipped` ones found no room and were not kept. `live`: it goes on."""

    id: UUID
    live: bool
    next_sequence: Count
    pending: Count
    pending_bytes: Much
    pending_ms: Much
    oldest_at: Moment | None = None
    skipped: Count = 0


class NewHeartbeat(BaseModel):
    """Every five seconds, and at once where something changes; one that is lost is not made up for. `run` is made
    anew by each process of the terminal, and `capturing` says whether pictures come from the camera."""

    run: UUID
    monotonic_ms: Much
    device_time: Moment
    state: Literal["recording", "draining", "stopped"]
    capturing: bool
    spool_used: Much
    spool_limit: Much
    spool_full: bool
    recordings: Annotated[list[HeldRecording], Field(max_length=MAX_HELD)] = []


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

    @model_validator(mode="after")
    def _other_is_explained(self) -> Self:
        if self.purpose == "other" and not self.note:
            raise ValueError("purpose `other` needs a note")
        return self

    def note_digest(self) -> dict[str, str]:
        """What the log says of the note: it may name people, so its digest alone."""
        return {"note_sha256": hashlib.sha256(self.note.encode()).hexdigest()} if self.note else {}


class NewViewing(NewUse):
    """With `original` the sealed bytes may be taken along as well."""

    original: bool = False


class ViewingView(BaseModel):
    """`playlist` plays the sealed segments as they are, `file` shows a single file as it is; `rendition` plays what
    is made of either for a browser that cannot play it. `original` is where the sealed bytes are fetched, for a
    viewing that was registered so."""

    id: UUID
    playlist: str | None
    file: str | None
    rendition: str | None
    until: datetime
    original: str | None


class NewExport(NewUse):
    """What is taken along, and why; `files` with all their versions. With `copies` a plain MP4 of each closed
    recording is added."""

    model_config = ConfigDict(extra="forbid")

    recordings: Annotated[list[UUID], Field(max_length=MAX_EXPORTED)] = []
    files: Annotated[list[UUID], Field(max_length=MAX_EXPORTED)] = []
    copies: bool = False

    @model_validator(mode="after")
    def _is_of_something(self) -> Self:
        if not self.recordings and not self.files:
            raise ValueError("an export is of something")
        return self


class ExportView(BaseModel):
    """How far it is: bytes of media looked at, and to be looked at. `download` once it is ready, and `size` that of
    the archive; `detail` is a Chinese sentence where it failed."""

    id: UUID
    state: ExportPhase
    purpose: str
    at: datetime
    expires_at: datetime | None
    copies: bool
    bytes_done: int
    bytes_total: int
    size: int
    reason: str | None
    detail: str | None
    download: str | None


class ExportPage(BaseModel):
    items: list[ExportView]
    next_cursor: str | None
