"""What of a backlog is sent first, and what the terminal tells of it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.terminal.api import Api, Backoff
from services.terminal.enrol import enrol
from services.terminal.heartbeat import MAX_RECORDINGS, Heartbeat
from services.terminal.home import Home
from services.terminal.line import WINDOW
from services.terminal.session import Policy, Session
from services.terminal.spool import Spool
from services.terminal.uplink import Drain
from tests.unit.terminal_peer import Peer
from tests.unit.test_spool import append
from tests.unit.test_uplink import NOW, Events, Terminal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "CAP", 0.3)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer().serve() as serving:
        yield serving


def asked(peer: Peer) -> list[int]:
    """Sequences in the order in which they were first asked for."""
    return [sequence for _, sequence in peer.asked]


def put(peer: Peer) -> list[int]:
    """Sequences in the order in which their bytes came to the store."""
    return [int(key.partition("/")[2].partition("-")[0]) for key in peer.objects]


async def test_the_oldest_go_first_unless_told_otherwise(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=80)
    await terminal.run()
    assert asked(peer) == list(range(80))
    terminal.assert_closed(80)


async def test_newest_first_sends_the_init_and_then_the_newest(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=80)
    terminal.drain = "newest"
    await terminal.run()
    assert asked(peer) == [0, *range(79, 0, -1)]
    # Four at a time, so that neighbours may overtake each other.
    assert put(peer)[0] == 0 or 0 in put(peer)[:4]
    assert max(abs(place - asked(peer).index(n)) for place, n in enumerate(put(peer))) < 8
    terminal.assert_closed(80)


async def test_newest_first_lets_what_is_recorded_now_overtake_the_backlog(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=80)
    terminal.drain = "newest"
    peer.faults.extend([("exchange", 503)] * 4)

    async def recorded_meanwhile(uplink: Any) -> None:
        while len(peer.faults) > 2:
            await asyncio.sleep(0.01)
        for _ in range(40):
            terminal.append()
        uplink.wake()

    await terminal.run(recorded_meanwhile)
    # The window was full of older ones that nothing had been done for.
    assert asked(peer)[:WINDOW] == [0, *range(119, 119 - WINDOW + 1, -1)]
    terminal.assert_closed(120)


@pytest.mark.parametrize(("drain", "order"), [("oldest", [0, 1, 2]), ("newest", [2, 1, 0])])
async def test_leftovers_are_taken_up_in_the_same_order_and_told_of(
    peer: Peer, tmp_path: Path, drain: Drain, order: list[int]
) -> None:
    enrolled = await enrol(Home(tmp_path), api=peer.url, code="CODE", model="m")
    spool = Spool(tmp_path, limit_bytes=10**9)
    ids = []
    for _ in range(3):
        recording = spool.begin(NOW)
        for _ in range(3):
            append(recording, b"bytes")
        recording.end(interrupted=False)
        ids.append(str(recording.id))
    events = Events()
    policy = Policy(spool_bytes=10**9, drain_seconds=5, forget=False, drain=drain)
    assert await Session(Home(tmp_path), enrolled, events, policy).resume() == 0
    assert [one["recording"] for one in events.named("leftover")] == [ids[n] for n in order]
    first, last = peer.heartbeats[0], peer.heartbeats[-1]
    assert (first["state"], first["spool_used"]) == ("draining", 45)
    assert [one["id"] for one in first["recordings"]] == ids
    told = first["recordings"][0]
    assert (told["pending"], told["pending_bytes"], told["pending_ms"], told["live"]) == (3, 15, 3000, False)
    assert (last["state"], last["recordings"], last["spool_used"]) == ("stopped", [], 0)


async def test_a_heartbeat_that_is_lost_is_not_made_up_for_and_keeps_nobody(peer: Peer, tmp_path: Path) -> None:
    enrolled = await enrol(Home(tmp_path), api=peer.url, code="CODE", model="m")
    recording = Spool(tmp_path, limit_bytes=10**9).begin(NOW)
    append(recording, b"bytes")
    peer.faults.extend([("heartbeat", "drop")] * 2)
    policy = Policy(spool_bytes=10**9, drain_seconds=5, forget=False)
    events = Events()
    assert await Session(Home(tmp_path), enrolled, events, policy).resume() == 0
    assert not events.named("retry")
    assert len(peer.heartbeats) <= 1


async def test_at_most_fifty_recordings_are_told_of_and_the_live_one_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit_bytes=10**9)
    recordings = [spool.begin(NOW + timedelta(seconds=n)) for n in range(MAX_RECORDINGS + 3)]
    async with Api("http://127.0.0.1:9", Ed25519PrivateKey.generate()) as api:
        beat = Heartbeat(api, spool, recordings={one.id: one for one in recordings}, live=recordings[-1].id)
        told = beat.told()["recordings"]
    assert len(told) == MAX_RECORDINGS
    assert (told[0]["id"], told[0]["live"]) == (str(recordings[-1].id), True)
    assert [one["id"] for one in told[1:]] == [str(one.id) for one in recordings[: MAX_RECORDINGS - 1]]
