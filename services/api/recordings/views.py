"""What the console and the JSON lists show of recordings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from services.api.recordings.worth import Worth
from services.vault.contract import wire

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
class TakeoverView:
    """A file that was not live: a terminal took it over from a recorder. `modified_at` is what the recorder's file
    system says, `created_at` what the file does. `checked_at`: what is sealed was found to be the file."""

    at: datetime
    reason: wire.TakeoverReason
    note: str | None
    file_name: str
    format: wire.Format
    size: int
    sha256: str
    modified_at: datetime | None
    created_at: datetime | None
    checked_at: datetime | None
    differs: bool


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
    taken_over: TakeoverView | None


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
class Fact:
    """Times are by the recorder's clock, none where it has none (a file); `from_ms` and `to_ms` say how far into what
    is played. Of a gap `gap-open` may be filled yet and `missing` is declared so by the closing; `reason` says why,
    where that is known. `clock-off`: the recorder's clock was so far ahead (or behind, below 0) of the server's, by
    more than half a minute. `not-live`: a terminal took it over as a file, and why. `not-closed`: it stopped and
    nobody closed it. The rest was found by detectors, and is a suspicion."""

    kind: str
    from_at: datetime | None
    to_at: datetime | None
    from_ms: int | None = None
    to_ms: int | None = None
    first_missing: int | None = None
    last_missing: int | None = None
    offset_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Facts:
    """`looked_at`: when the detectors had looked; `not_looked` says why they did not, or not at all of it:
    `not-media`, `unreadable`, `partly-unreadable`, `gone`, `no-ffmpeg`. `unnamed_gaps` are too short to be listed."""

    items: list[Fact]
    unnamed_gaps: int
    looked_at: datetime | None
    not_looked: str | None
    detector: str | None


@dataclass(frozen=True)
class RecordingDetail:
    """A recording is cut to be played (`fmp4`, `ts`), or a `file` as it came, of a `format` named as an extension.
    `remuxed_by` is the gateway that took the media apart and together again; `handover` is where an import came from,
    `worth` what its origin is worth, and `gaps` are the first hundred."""

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
    handover: UUID | None
    worth: Worth
    gaps: list[GapRow]
