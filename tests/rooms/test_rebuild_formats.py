"""What a recording's media are comes back from what is left: statements, its manifest, or what its objects carry."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from services.vault.contract import wire
from services.vault.contract.client import VaultRefused
from tests.rooms.losses import lose, losing, rebuilt, receipt, room, start_vault, stop_vault, told_and_published
from tests.rooms.sealed import Room, seal

__all__ = ["losing", "room"]

PIECES = [b"a packet", b"another packet"]


async def pushed(room: Room, *, close: bool) -> tuple[UUID, wire.OpenRecording]:
    began = datetime.now(UTC)
    opening = wire.OpenRecording(source=uuid7(), key_id=None, started_at=began, format="ts", remuxed_by="MediaMTX 1")
    recording = uuid7()
    await room.client.open(recording, opening)
    await seal(room.client, recording, PIECES)
    if close:
        await room.client.close_by_server(recording, wire.CloseByServer(reason="idle"))
    return recording, opening


@pytest.mark.parametrize("left", ["statements", "manifest", "intents"])
async def test_it_comes_back_from_what_is_left(room: Room, left: str) -> None:
    await told_and_published(room)
    async with room.engine.connect() as still:
        if left != "statements":
            # Nobody publishes meanwhile, so that no statement of it is sealed.
            await still.execute(text("SELECT pg_advisory_lock(hashtext('quancheng-log-publish'))"))
        recording, opening = await pushed(room, close=left == "manifest")
        receipts = [await receipt(room, recording, n, data) for n, data in enumerate(PIECES)]
        if left == "statements":
            await told_and_published(room)
        stop_vault(room.system)
    lose(room.system)
    await rebuilt(room)
    start_vault(room.system)
    async with room.engine.connect() as db:
        row = (await db.execute(text("SELECT * FROM vault.recordings WHERE id = :id"), {"id": recording})).one()
    assert (row.format, row.remuxed_by) == ("ts", "MediaMTX 1")
    again = [await receipt(room, recording, n, data) for n, data in enumerate(PIECES)]
    if left == "intents":
        assert [one.receipt.decoded()["format"] for one in again] == ["ts", "ts"]
    else:
        assert again == receipts
    # Opened again as what it was, and as nothing else.
    await room.client.open(recording, opening)
    with pytest.raises(VaultRefused, match="recording-differs"):
        await room.client.open(recording, opening.model_copy(update={"remuxed_by": None}))
