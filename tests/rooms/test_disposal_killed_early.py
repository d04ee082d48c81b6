"""A disposal that is killed before it has deleted anything, and on the local folder while it deletes and buries."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.flows.evidence import eventually
from tests.flows.scenes import locked, waiting_for_a_lock
from tests.flows.stalls import Call, stalled
from tests.rooms.custody import Sealed, disposal, lapsed, recorded, room, short, stored
from tests.rooms.sealed import Room
from tests.rooms.test_disposal_killed import assert_gone_on_with, disposing, state_of
from tests.system import System

__all__ = ["room", "short"]

AT_ONCE = 4
"""How many recordings wait together until their locks have lapsed."""


@pytest.fixture(scope="module")
def made(short: System) -> list[Sealed]:
    return []


@pytest.fixture
async def sealed(room: Room, made: list[Sealed]) -> Sealed:
    """Three segments that may be disposed of."""
    if not made:
        made += [await recorded(room, [b"one", b"two", b"three"]) for _ in range(AT_ONCE)]
        await lapsed(room, made[-1].id)
    return made.pop()


async def test_killed_before_it_has_begun_it_never_was(room: Room, sealed: Sealed, tmp_path: Path) -> None:
    """Step 3."""
    system, order = room.system, disposal(tmp_path, sealed.id)

    def kill_it() -> None:
        with locked(system, "LOCK TABLE vault.log_pending IN EXCLUSIVE MODE"), disposing(system, order):
            eventually(lambda: waiting_for_a_lock(system, "INSERT%log_pending%"), "it waits there", 60)

    await asyncio.to_thread(kill_it)
    assert state_of(system, sealed) == "closed"
    await assert_gone_on_with(room, sealed, order)


async def test_killed_before_its_statement_is_published_it_has_deleted_nothing(
    room: Room, sealed: Sealed, tmp_path: Path
) -> None:
    """Between steps 3 and 4."""
    system, order = room.system, disposal(tmp_path, sealed.id)

    def kill_it() -> None:
        publishing = "SELECT pg_advisory_lock(hashtext('quancheng-log-publish'))"
        with locked(system, publishing), disposing(system, order):
            eventually(lambda: state_of(system, sealed) == "disposing", "it has begun", 60)

    await asyncio.to_thread(kill_it)
    for key in sealed.keys:
        await stored(room, key)
    await assert_gone_on_with(room, sealed, order)


FILES: dict[str, tuple[Call, str]] = {
    "4, at its first": ("unlink", "/0000000000-"),
    "4, at its last": ("unlink", "/0000000002-"),
    "5": ("link", "/tombstone"),
}


@pytest.mark.parametrize("short", ["local"], indirect=True)
@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("step", FILES)
async def test_killed_in_the_midst_of_a_call(
    room: Room, sealed: Sealed, strace: Path, tmp_path: Path, step: str, done: bool
) -> None:
    system, order = room.system, disposal(tmp_path, sealed.id)
    call, part = FILES[step]
    evidence = (system.stack.data / "evidence" / "evidence").resolve()
    keys = [*sealed.keys, f"recordings/{sealed.id}/tombstone"]
    file = next(evidence / key for key in keys if part in key)

    def kill_it() -> bool:
        told = tmp_path / "calls"
        with (
            disposing(system, order) as process,
            stalled(strace, process.pid, call, [file], told, done=done) as stall,
        ):
            eventually(stall.waits, "it waits there", 60)
            process.kill()
        return stall.done()

    assert await asyncio.to_thread(kill_it) is done
    assert file.exists() is (done is (call == "link"))
    assert state_of(system, sealed) == "disposing"
    await assert_gone_on_with(room, sealed, order)
