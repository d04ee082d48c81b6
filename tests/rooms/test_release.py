"""Releases and custodians, on both stores: what two custodians sign happens, and nothing else does."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from services.vault.contract import custody
from services.vault.retention import HOLD_MISSING, Retention
from services.vault.stores.port import StoredObject
from tests.rooms.custody import (
    FIRST,
    SECOND,
    command,
    payload_sha256,
    placed,
    recorded,
    refused,
    release,
    room,
    settled,
    short,
    stored,
    without_jobs,
)
from tests.rooms.orders import ORIGIN, keeper, order, signed
from tests.rooms.sealed import Room
from tests.system import System

__all__ = ["room", "short"]


async def test_a_release_clears_the_flags_of_a_hold_that_was_never_wholly_placed(room: Room) -> None:
    sealed, flagging = await recorded(room, [b"flagged", b"not flagged"]), asyncio.Event()

    class Hanging:
        async def hold(self, key: str, version: str, on: bool) -> None:
            if key == sealed.keys[1]:
                flagging.set()
                await asyncio.Event().wait()
            await room.store.hold(key, version, on)

    hanging: Any = Hanging()
    async with without_jobs(room, sealed.id):
        hold = await placed(room, sealed.id)
        settling = asyncio.create_task(Retention(room.engine, hanging, room.alarms).settle(str(sealed.id)))
        await flagging.wait()
        while not (await stored(room, sealed.keys[0])).held:
            await asyncio.sleep(0.05)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        await room.client.release(hold, release(hold, FIRST, SECOND))
    await settled(room, hold, objects=3)
    assert not (await stored(room, sealed.keys[0])).held


@pytest.mark.one_store
async def test_an_order_of_two_releases_at_the_command_line(room: Room, tmp_path: Path) -> None:
    sealed = await recorded(room, [b"released by command"])
    hold = await placed(room, sealed.id)
    path = tmp_path / "signed.json"
    for envelope, code, told in (
        (release(hold, FIRST), 1, "签名"),
        (signed(order("dispose", basis="期限届满", recordings=[sealed.id]), FIRST, SECOND), 1, "不合规定"),
        (release(hold, FIRST, SECOND), 0, "已解除留存"),
    ):
        path.write_text(envelope.model_dump_json())
        done = await asyncio.to_thread(command, room.system, "release", str(path))
        assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert (await room.client.hold_state(hold)).state == "released"


async def test_a_flag_that_a_release_clears_meanwhile_is_not_set_again(room: Room) -> None:
    sealed = await recorded(room, [b"released meanwhile"])
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=2)
    looks, released = asyncio.Event(), asyncio.Event()

    class Slow:
        lock = room.store.lock

        async def head(self, key: str, version: str | None = None) -> StoredObject | None:
            looks.set()
            await released.wait()
            return await room.store.head(key, version)

        async def hold(self, key: str, version: str, on: bool) -> None:
            await room.store.hold(key, version, on)

    slow: Any = Slow()
    looking = asyncio.create_task(Retention(room.engine, slow, room.alarms).reconcile(str(sealed.id)))
    await looks.wait()
    await room.client.release(hold, release(hold, FIRST, SECOND))
    await settled(room, hold, objects=2)
    released.set()
    await looking
    assert not (await stored(room, sealed.keys[0])).held
    assert not await room.told(HOLD_MISSING, sealed.keys[0])


async def test_a_release_leaves_what_another_hold_covers(room: Room) -> None:
    shared, alone = await recorded(room, [b"shared"]), await recorded(room, [b"alone"])
    first, second = await placed(room, shared.id, alone.id), await placed(room, shared.id)
    await settled(room, first, objects=4)
    await room.client.release(first, release(first, FIRST, SECOND))
    async with asyncio.timeout(60):
        while (await stored(room, alone.keys[0])).held:
            await asyncio.sleep(0.1)
    await settled(room, first, objects=4)
    assert (await stored(room, shared.keys[0])).held
    assert [each.id for each in (await room.client.holds(active=True, limit=200)).holds if each.id == first] == []
    assert (await room.client.retention(shared.id)).holds == [second]


async def test_a_release_that_two_custodians_did_not_sign_changes_nothing(room: Room) -> None:
    sealed = await recorded(room, [b"kept"])
    hold = await placed(room, sealed.id)
    stranger, now = keeper("路人"), datetime.now(UTC)
    good = release(hold, FIRST, SECOND)
    payload = custody.order_bytes(order("release", hold=hold))
    tries = {
        "one alone": (release(hold, FIRST), "order-not-authorized"),
        "one twice": (
            good.model_copy(update={"signatures": [good.signatures[0], good.signatures[0]]}),
            "order-not-authorized",
        ),
        "a stranger": (release(hold, FIRST, stranger), "order-not-authorized"),
        "a signature of another order": (
            good.model_copy(update={"payload": base64.b64encode(payload).decode()}),
            "order-not-authorized",
        ),
        "too old": (
            release(hold, FIRST, SECOND, issued_at=now - timedelta(days=3), expires_at=now - timedelta(days=1)),
            "order-unfit",
        ),
        "not yet": (
            release(hold, FIRST, SECOND, issued_at=now + timedelta(days=1), expires_at=now + timedelta(days=2)),
            "order-unfit",
        ),
        "another hold": (release(uuid7(), FIRST, SECOND), "order-unfit"),
        "of a clone": (release(hold, FIRST, SECOND, vault=f"{ORIGIN}-clone"), "order-unfit"),
        "another act": (
            signed(order("dispose", basis="无依据", recordings=[sealed.id]), FIRST, SECOND),
            "order-unfit",
        ),
        "another type": (good.model_copy(update={"payloadType": "text/plain"}), "order-unfit"),
        "no order": (
            good.model_copy(update={"payload": base64.b64encode(b'{"act":"release"}').decode()}),
            "order-unfit",
        ),
    }
    for name, (envelope, slug) in tries.items():
        assert (name, await refused(room, room.client.release(hold, envelope))) == (name, slug)
    assert (await room.client.hold_state(hold)).state == "active"
    # The same order again is the same release; its number cannot mean another.
    assert (await room.client.release(hold, good)).state == "released"
    assert (await room.client.release(hold, good)).state == "released"
    reused = order("release", hold=hold, id=custody.ORDERS.validate_json(base64.b64decode(good.payload)).id)
    assert await refused(room, room.client.release(hold, signed(reused, FIRST, SECOND))) == "order-differs"


async def test_the_alarm_of_a_missing_flag_goes_with_the_hold(room: Room) -> None:
    sealed = await recorded(room, [b"cleared, and let go"])
    hold = await placed(room, sealed.id)
    await settled(room, hold, objects=2)
    await room.alarms.sound(HOLD_MISSING, sealed.keys[0], "存储中的留存标志已被清除，已重新设置")
    other = f"recordings/{uuid7()}/{0:010d}-{'0' * 64}"
    await room.alarms.sound(HOLD_MISSING, other, "另一份记录的")
    await room.client.release(hold, release(hold, FIRST, SECOND))
    async with asyncio.timeout(30):
        while await room.told(HOLD_MISSING, sealed.keys[0]):
            await asyncio.sleep(0.1)
    assert await room.told(HOLD_MISSING, other)
    await room.alarms.clear(HOLD_MISSING, other)


async def test_the_log_commits_to_the_order_that_was_signed(room: Room) -> None:
    sealed = await recorded(room, [b"held by order"])
    hold = await placed(room, sealed.id)
    envelope = release(hold, FIRST, SECOND)
    await room.client.release(hold, envelope)
    query = text(
        "SELECT statement FROM (SELECT statement FROM vault.log_entries UNION"
        " SELECT statement FROM vault.log_pending) AS told WHERE convert_from(statement, 'UTF8') LIKE :release"
    )
    async with room.engine.connect() as db:
        said = json.loads(await db.scalar(query, {"release": f'%"hold":"{hold}"%"kind":"release"%'}) or b"")
    assert said["order_sha256"] == payload_sha256(envelope.model_dump())


@pytest.mark.one_store
def test_a_third_custodian_needs_the_order_of_two(short: System, tmp_path: Path) -> None:
    third, again = keeper("丙"), keeper(FIRST.name)
    assert "签名" in command(short, "enrol-custodian", third.name, third.public_text).stderr
    path = tmp_path / "enrol.json"
    what = order("enrol-custodian", name=third.name, public_key=third.public_text)
    path.write_text(signed(what, FIRST, SECOND).model_dump_json())
    other = command(short, "enrol-custodian", "丁", third.public_text, str(path))
    assert other.returncode == 1
    assert command(short, "enrol-custodian", third.name, third.public_text, str(path)).returncode == 0
    what = order("enrol-custodian", name=again.name, public_key=again.public_text)
    path.write_text(signed(what, SECOND, third).model_dump_json())
    assert command(short, "enrol-custodian", again.name, again.public_text, str(path)).returncode == 1
    path.write_text(signed(order("remove-custodian", key_id=third.key_id), FIRST, SECOND).model_dump_json())
    assert command(short, "remove-custodian", str(path)).returncode == 0
    assert f"{third.key_id} 丙" in command(short, "custodians").stdout
    path.write_text(signed(order("remove-custodian", key_id=SECOND.key_id), FIRST, SECOND).model_dump_json())
    assert command(short, "remove-custodian", str(path)).returncode == 1
