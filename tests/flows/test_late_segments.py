"""Watching what a terminal sends newest first after its store was away: the live point is always shown."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from tests.flows.evidence import eventually
from tests.flows.heard import linked
from tests.flows.live import LiveTerminal, asks_of
from tests.flows.test_playback import playlist, register, sequences
from tests.rooms.movies import whole as whole_file

AWAY = 25
NEWEST = "SELECT max(sequence) FROM api.segments WHERE recording_id = '{}'"
SLOW = 16 * 1024
"""Bytes a second of each connection: one of these small segments takes one or two."""


def media(text: str) -> list[int]:
    return [sequence for sequence in sequences(text) if sequence]


def following(text: str) -> int:
    """The media sequence number after the last that is listed (RFC 8216, 4.3.3.2)."""
    begins = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)\n", text)
    assert begins
    return int(begins[1]) + len(media(text))


def entries(text: str) -> list[str]:
    """A playlist's lines as far as they may never change."""
    return [line for line in text.splitlines() if line != "#EXT-X-ENDLIST"]


def test_the_live_point_is_shown_past_what_has_not_come_and_nothing_shown_is_changed(tmp_path: Path) -> None:
    small = tmp_path / "small.mp4"
    small.write_bytes(whole_file("mp4", seconds=120))
    with linked() as rig, rig.system.sign_in("li") as li:
        home = rig.system.new_terminal("late", rig.api.url)
        options = ("--source", str(small), "--segment-seconds", "1", "--drain", "newest")
        with LiveTerminal(rig.system, home, "record", *options) as terminal:
            recording = terminal.recording
            terminal.wait_for("sealed", 4)
            rig.store.cut()
            spool = home / "spool" / recording
            already = len(asks_of(spool))
            eventually(lambda: len(asks_of(spool)) >= already + AWAY, "much waits", 60)
            rig.store.mend()
            rig.store.trickle(SLOW)
            viewing = register(li, recording)
            told = [playlist(li, viewing)]

            def ask() -> int:
                """The newest that is shown, after another look."""
                told.append(playlist(li, viewing, _HLS_msn=following(told[-1])))
                return max(media(told[-1]), default=0)

            eventually(lambda: ask() >= already + AWAY, "what was recorded last is shown", 15)
            newest = int(rig.system.stack.postgres.run_sql(NEWEST.format(recording)))
            eventually(lambda: ask() >= newest, "and what was recorded since", 15)
            rig.store.mend()
            terminal.interrupt()
            assert terminal.finish() == 0, terminal.said[-20:]
        closed = playlist(li, viewing)
        whole = playlist(li, register(li, recording))
    for earlier, later in zip(told, [*told[1:], closed], strict=True):
        assert entries(later)[: len(entries(earlier))] == entries(earlier), "only ever added to"
    shown = media(closed)
    assert shown == sorted(shown)
    missed = set(range(shown[0], shown[-1])) - set(shown)
    assert missed, "some had not come when what followed them was shown"
    assert closed.count("#EXT-X-DISCONTINUITY\n") == sum(b - a > 1 for a, b in pairwise(shown))
    assert sequences(whole) == list(range(shown[-1] + 1)), "opened anew, it has them all"
    assert whole.endswith("#EXT-X-ENDLIST\n")
