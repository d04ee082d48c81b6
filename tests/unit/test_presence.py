"""What is said of an open recording: from when its segments last came, and from what its terminal last told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.api.console.pages import PRESENCES, render
from services.api.recorders.models import Heartbeat
from services.api.recordings.models import Held, Recording
from services.api.recordings.presence import Seen
from services.api.recordings.views import RecordingPage, RecordingRow

NOW = datetime(2026, 11, 23, 17, 34, 40, tzinfo=UTC)
ID = UUID("0198c0de-0000-7000-8000-000000000001")


def seen(
    *,
    arrived: float | None = None,
    beat: float | None = None,
    live: bool = True,
    pending: int = 0,
    state: str = "recording",
    named: bool = True,
    full: bool = False,
    offset: int = 0,
    **recording: Any,
) -> Seen:
    """`arrived` and `beat`: seconds since the last segment and the newest heartbeat."""

    def ago(seconds: float) -> datetime:
        return NOW - timedelta(seconds=seconds)

    kept = Recording(
        **{
            "id": ID,
            "recorder_id": ID,
            "unit_id": ID,
            "state": "open",
            "started_at": NOW,
            "last_segment_at": None if arrived is None else ago(arrived),
            **recording,
        }
    )
    if beat is None:
        return Seen(kept, None, None, NOW)
    heartbeat = Heartbeat(
        key_id="0" * 64,
        recorder_id=ID,
        received_at=ago(beat),
        run=ID,
        monotonic_ms=1,
        device_time=NOW,
        clock_offset_ms=offset,
        state=state,
        capturing=True,
        spool_used=0,
        spool_limit=1,
        spool_full=full,
        unheard=0,
    )
    held = Held(
        recording_id=ID,
        told_at=ago(beat if named else beat + 5),
        live=live,
        next_sequence=pending + 3,
        pending=pending,
        pending_bytes=pending * 1000,
        pending_ms=pending * 4000,
        skipped=0,
    )
    return Seen(kept, held, heartbeat, NOW)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (seen(arrived=1, beat=1), "live"),
        (seen(arrived=7, beat=1, pending=1), "live"),
        (seen(arrived=8, beat=1, pending=1), "silent"),
        (seen(beat=1, pending=1), "silent"),
        # In the middle of a segment of ten seconds: nothing is held back.
        (seen(arrived=12, beat=1), "live"),
        (seen(arrived=16, beat=1), "silent"),
        (seen(arrived=1, beat=1, live=False), "catching-up"),
        (seen(arrived=60, beat=1, live=False, pending=9), "waiting"),
        (seen(arrived=9, beat=11, pending=1), "live"),
        (seen(arrived=11, beat=11, pending=1), "lost"),
        (seen(arrived=60, beat=1, named=False), "lost"),
        (seen(arrived=60, beat=1000, state="stopped"), "stopped"),
        (seen(arrived=1, beat=1, state="stopped"), "stopped"),
        (seen(arrived=9), "live"),
        (seen(arrived=11), "lost"),
        (seen(), "lost"),
        (seen(arrived=11, door="push"), "silent"),
    ],
)
def test_what_is_said_of_an_open_recording(told: Seen, expected: str) -> None:
    assert told.presence() == expected


def test_a_closed_recording_is_closed_whatever_its_terminal_told() -> None:
    told = seen(arrived=1, beat=1, pending=3)
    told.recording.state = "closed"
    assert told.presence() == "closed"
    assert told.held_view() is not None, "the terminal brings more of it"
    told = seen(arrived=1, beat=20, pending=3)
    told.recording.state = "closed"
    assert told.held_view() is None


def test_a_full_spool_and_a_wrong_clock_are_told_while_the_terminal_is_heard() -> None:
    assert seen(beat=1, full=True).spool_full()
    assert not seen(beat=11, full=True).spool_full()
    assert seen(beat=11, full=True, state="stopped").spool_full()
    assert seen(beat=1, offset=-30_001).clock_offset_ms() == -30_001
    assert seen(beat=1, offset=30_000).clock_offset_ms() is None


def row(told: Seen) -> RecordingRow:
    return RecordingRow(
        id=ID,
        recorder_name="一号",
        officer_name=None,
        unit_name="交通局",
        state="open",
        live=told.presence() == "live",
        presence=told.presence(),
        held=told.held_view(),
        spool_full=told.spool_full(),
        clock_offset_ms=told.clock_offset_ms(),
        started_at=NOW,
        ended_at=None,
        last_segment_at=None,
        segments=3,
        bytes=3000,
        seconds=8,
        taken_over=None,
    )


def rows(*told: Seen) -> str:
    page = RecordingPage([row(one) for one in told], None)
    return " ".join(render("recordings_rows.html", page=page, state=None, cursor=None).split())


def test_the_list_says_what_the_terminal_holds() -> None:
    page = rows(seen(arrived=9, beat=1, pending=12, full=True))
    assert "录制中，无数据到达" in page and "终端存储已满" in page
    assert "终端尚有 12 个片段（48 秒，12.0 kB）未到" in page
    assert "every 2s" in page and "1 路无数据到达" in page
    page = rows(seen(arrived=11, beat=11, pending=1))
    assert "终端失联" in page and "终端上次报告时尚有 1 个片段" in page and "every 5s" in page
    assert "未到" not in rows(seen(arrived=1, beat=1, pending=2)), "what is under way is not missing"


def test_every_presence_has_a_name() -> None:
    from typing import get_args

    from services.api.recordings.views import Presence

    assert set(PRESENCES) == set(get_args(Presence))
