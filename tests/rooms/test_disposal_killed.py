"""A disposal that is killed in the midst of a step: the same command goes on, and one tombstone is left."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.processes import ROOT
from services.vault.stores import open_store
from tests.rooms.custody import (
    FIRST,
    SECOND,
    SHORT,
    Sealed,
    command,
    command_line,
    disposal,
    lapsed,
    recorded,
    stored,
)
from tests.rooms.liar import Answer, Gateway, Request, gated, truthful
from tests.rooms.sealed import Room, room_of, settings_of
from tests.system import System

Gated = tuple[System, Gateway]


@pytest.fixture(scope="module")
def rig(minio_binary: Path) -> Iterator[Gated]:
    short = {name.removeprefix("QUANCHENG_VAULT_").lower(): value for name, value in SHORT.items()}
    with gated(minio_binary, **short) as (system, gate):
        for each in (FIRST, SECOND):
            assert command(system, "enrol-custodian", each.name, each.public_text).returncode == 0
        yield system, gate


@pytest.fixture
async def room(rig: Gated) -> AsyncIterator[Room]:
    system, _ = rig
    async with room_of(system, open_store(settings_of(system), b"x" * 32)) as made:
        yield made


@contextmanager
def disposing(system: System, order: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command at work, killed at the end."""
    argv, environment = command_line(system, "dispose", str(order))
    process = subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def state_of(system: System, sealed: Sealed) -> str:
    return system.stack.postgres.run_sql(f"SELECT state FROM vault.recordings WHERE id = '{sealed.id}'").strip()


async def assert_gone_on_with(room: Room, sealed: Sealed, order: Path) -> None:
    """The same command again ends it; of three segments."""
    system = room.system
    again = await asyncio.to_thread(command, system, "dispose", str(order))
    assert again.returncode == 0, again.stdout + again.stderr
    assert state_of(system, sealed) == "disposed"
    for key in sealed.keys:
        assert await room.store.head(key) is None
    left = await room.client.tombstone(sealed.id)
    assert left.tombstone.decoded()["segments"] == 3
    assert left.sha256 == (await stored(room, f"recordings/{sealed.id}/tombstone")).sha256
    versions = [each async for each in room.store.list(f"recordings/{sealed.id}/tombstone")]
    assert len(versions) == 1
    told = (await room.client.proof(left.act)).statement
    assert (told["kind"], told["recording"]) == ("disposal", str(sealed.id))
    counted = f"SELECT count(*) FROM vault.tombstones WHERE recording_id = '{sealed.id}'"
    assert system.stack.postgres.run_sql(counted).strip() == "1"
    told_of = f"statement LIKE '%\"kind\":\"disposal\"%' AND statement LIKE '%{sealed.id}%'"
    entered = "SELECT count(*) FROM (SELECT convert_from(statement, 'UTF8') FROM vault.log_entries) AS e(statement)"
    assert system.stack.postgres.run_sql(f"{entered} WHERE {told_of}").strip() == "1"
    whole = "SELECT count(*) = max(position) + 1 AND count(DISTINCT act) = count(*) FROM vault.log_entries"
    assert system.stack.postgres.run_sql(whole).strip() == "t"


STEPS = {
    "4, at its first": ("DELETE", "/0000000000-"),
    "4, at its last": ("DELETE", "/0000000002-"),
    "5": ("PUT", "/tombstone"),
}


@pytest.mark.parametrize("done", [False, True], ids=["never arrives", "is done and not answered"])
@pytest.mark.parametrize("step", STEPS)
async def test_killed_while_a_request_to_the_store_stalls(
    rig: Gated, room: Room, tmp_path: Path, step: str, done: bool
) -> None:
    system, gate = rig
    method, part = STEPS[step]
    sealed = await recorded(room, [b"one", b"two", b"three"])
    await lapsed(room, sealed.id)
    path = disposal(tmp_path, sealed.id)
    arrived, lifted = threading.Event(), threading.Event()

    def stall(gate: Gateway, request: Request) -> Answer:
        place = re.search(f"/recordings/{sealed.id}{part}", request.target)
        if arrived.is_set() or request.method != method or not place:
            return gate.forward(request)
        arrived.set()
        answer = gate.forward(request) if done else Answer(503)
        lifted.wait(60)
        return answer

    gate.lie = stall
    try:
        with disposing(system, path):
            assert await asyncio.to_thread(arrived.wait, 60)
    finally:
        gate.lie = truthful
        lifted.set()
    assert state_of(system, sealed) == "disposing"
    await assert_gone_on_with(room, sealed, path)
