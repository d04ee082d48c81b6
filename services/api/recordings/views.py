"""What the console and the JSON lists show of recordings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

State = Literal["open", "closed"]
Lock = Literal["compliance", "none"]
Presence = Literal["closed", "live", "catching-up", "silent", "waiting", "stopped", "lost"]
"""Of an open recording: `live`, its segments arrive as they are recorded; `catching-up`, it was recorded before and
its rest arrives; `silent`, it is being recorded and nothing arrives; `waiting`, neither; `stopped`, its terminal said
that it stops; `lost`, nothing was heard of it for ten seconds."""


@dataclass(frozen=True)
class HeldView:
    """What the terminal told at `told_at`: how many segments it had recorded, and what of them it had no receipt
    for; `skipped` segments found no room and are gone. `capturing`: the camera gives pictures."""

    told_at: datetime
    recorded: int
    segments: int
    seconds: float
    bytes: int
    oldest_at: datetime | None
    skipped: int
    capturing: bool


@dataclass(frozen=True)
class RecordingRow:
    """`clock_offset_ms`: how far the terminal's clock is ahead, where that is more than half a minute."""

    id: UUID
    recorder_name: str
    officer_name: str | None
    unit_name: str
    state: State
    live: bool
    presence: Presence
    held: HeldView | None
    spool_full: bool
    clock_offset_ms: int | None
    started_at: datetime
    ended_at: datetime | None
    last_segment_at: datetime | None
    segments: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class RecordingPage:
    rows: list[RecordingRow]
    next_cursor: str | None


@dataclass(frozen=True)
class SegmentRow:
    """`conflicting`: another digest of the same sequence is sealed too. `beside`: the recording is closed, and its
    closing does not speak of this one."""

    sequence: int
    sha256: str
    size: int
    media: Literal["init", "media"]
    started_at: datetime
    duration_ms: int
    sealed_at: datetime
    received_at: datetime
    lock: Lock
    key_id: str
    beside: bool
    conflicting: bool


@dataclass(frozen=True)
class SegmentPage:
    rows: list[SegmentRow]
    next_after: int | None


@dataclass(frozen=True)
class GapRow:
    """`disconnected`: the source was away; `not-sealed`: it brought what could not be sealed in time."""

    kind: Literal["disconnected", "not-sealed"]
    before_sequence: int
    from_at: datetime
    to_at: datetime


@dataclass(frozen=True)
class Span:
    """Segments that follow one another without a pause, by the recorder's clock."""

    from_at: datetime
    to_at: datetime
    first_sequence: int
    last_sequence: int


@dataclass(frozen=True)
class TimelineGap:
    """`kinds` are the reasons on record, none where no reason is known; the sequences between `first_missing` and
    `last_missing` are not there."""

    from_at: datetime
    to_at: datetime
    kinds: list[Literal["disconnected", "not-sealed"]]
    first_missing: int | None
    last_missing: int | None


@dataclass(frozen=True)
class Timeline:
    """At most 200 spans and as many gaps; `unnamed_gaps` counts those that are too short to be listed."""

    state: State
    from_at: datetime
    to_at: datetime
    spans: list[Span]
    gaps: list[TimelineGap]
    unnamed_gaps: int


@dataclass(frozen=True)
class RecordingDetail:
    """A recording is cut to be played (`fmp4`, `ts`), or a `file` as it came, of a `format` named as an extension.
    `remuxed_by` is the gateway that took the media apart and together again; `gaps` are the first hundred."""

    row: RecordingRow
    manifest_sha256: str | None
    manifest_log_index: int | None
    lock: Lock | None
    viewings: int
    closed_by: Literal["terminal", "server"] | None
    supplements: int
    source_kind: str
    door: Literal["direct", "push", "resumable"]
    container: Literal["fmp4", "ts", "file"]
    format: str
    remuxed_by: str | None
    gaps: list[GapRow]
