"""What was disposed of is exported without its media: with what proves that there was something, and whose order."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.vault.contract.client import VaultRefused
from services.vault.export.lapsing import Lapsing
from services.vault.export.preparing import copies_of, copy_key
from services.vault.stores import open_store
from services.vault.stores.staging import open_staging
from tests.flows.test_pages import run
from tests.rooms.custody import command, disposal, lapsed, short
from tests.rooms.exported import asked, begun, fetched, ready, recorded, unpacked, verified
from tests.rooms.movies import fragmented
from tests.rooms.sealed import Room, room_of, settings_of
from tests.system import System

__all__ = ["short"]


@pytest.fixture
async def room(short: System) -> AsyncIterator[Room]:
    async with room_of(short, open_store(settings_of(short), b"x" * 32)) as made:
        yield made


@pytest.mark.one_store
async def test_the_bag_of_a_disposed_recording_says_by_whose_order_and_when(room: Room, tmp_path: Path) -> None:
    gone = await recorded(room.client, [secrets.token_bytes(size) for size in (300, 5000, 7000)])
    await gone.add([secrets.token_bytes(900)])
    await gone.close(number=1, asks=gone.asks[3:])
    kept = await recorded(room.client, [secrets.token_bytes(size) for size in (300, 4000)])
    before = await begun(room.client, gone.id)
    await ready(room.client, before)
    await lapsed(room, gone.id)
    done = command(room.system, "dispose", str(disposal(tmp_path, gone.id)))
    assert done.returncode == 0, done.stdout + done.stderr
    act = await begun(room.client, gone.id, kept.id)
    await ready(room.client, act)
    bag = unpacked((await fetched(room.client, act)).content, tmp_path, act)
    report = await verified(room.client, bag)
    assert set(report.disposed) == {str(gone.id)}
    assert set(report.recordings) == {str(gone.id), f"{gone.id}.1", str(kept.id)}
    assert [path.name for path in (bag / "data").iterdir()] == [f"{kept.id}.mp4"]
    assert any("两名保管人" in chinese for _, chinese, _ in report.steps)
    for script in _stock(bag):
        told = run(script, bag)
        assert told.returncode == 0, script + told.stdout + told.stderr
    # What was prepared before it was disposed of is not handed out any more.
    with pytest.raises(VaultRefused) as refused:
        await fetched(room.client, before)
    assert refused.value.problem.slug == "recording-disposed"


def _stock(bag: Path) -> list[str]:
    from deploy.local.demo import stock_commands

    return stock_commands(bag)


@pytest.mark.one_store
async def test_copies_go_with_what_they_are_of(room: Room, tmp_path: Path) -> None:
    gone, kept = (
        await recorded(room.client, fragmented(seconds=2)),
        await recorded(room.client, fragmented(seconds=2)),
    )
    act = await begun(room.client, gone.id, kept.id, copies=True)
    await ready(room.client, act)
    await lapsed(room, gone.id)
    done = command(room.system, "dispose", str(disposal(tmp_path, gone.id)))
    assert done.returncode == 0, done.stdout + done.stderr
    staged = open_staging(settings_of(room.system))
    try:
        assert copy_key(act, str(gone.id)) in await staged.names(copies_of(act))
        await Lapsing(room.engine, staged).lapse()
        assert await staged.names(copies_of(act)) == [copy_key(act, str(kept.id))]
    finally:
        await staged.stop()
    with pytest.raises(VaultRefused, match="recording-disposed"):
        await fetched(room.client, act)


async def test_what_no_minute_told_of_yet_is_told_before_it_is_exported(room: Room, tmp_path: Path) -> None:
    """As of a recording that a rebuild brought back by its manifest alone."""
    made = await recorded(room.client, [secrets.token_bytes(size) for size in (300, 4000)])
    sql = room.system.stack.postgres.run_sql
    sql(f"UPDATE vault.segments SET statement_act = NULL WHERE recording_id = '{made.id}'")
    act = await begun(room.client, made.id)
    await ready(room.client, act)
    bag = unpacked((await fetched(room.client, act)).content, tmp_path, act)
    assert (await verified(room.client, bag)).recordings == [str(made.id)]


async def test_a_recording_whose_disposal_is_underway_is_not_exported(room: Room) -> None:
    made = await recorded(room.client, [b"init", b"media"])
    request = await asked(room.client, [made.id])
    sql = room.system.stack.postgres.run_sql
    sql(f"UPDATE vault.recordings SET state = 'disposing' WHERE id = '{made.id}'")
    try:
        with pytest.raises(VaultRefused) as refused:
            await room.client.begin_export(request)
        assert refused.value.problem.slug == "disposal-underway"
    finally:
        sql(f"UPDATE vault.recordings SET state = 'closed' WHERE id = '{made.id}'")
