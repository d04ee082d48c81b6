"""A recording of another format, that a media gateway remuxed: what its receipts, manifests and exports say of it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient, VaultRefused
from services.vault.stores import open_store
from tests.rooms.exported import recorded
from tests.rooms.sealed import Room, ask, room_of, seal, settings_of
from tests.system import System

GATEWAY = "MediaMTX 1.15.3"


@pytest.fixture
async def room(system: System) -> AsyncIterator[Room]:
    async with room_of(system, open_store(settings_of(system), b"x" * 32)) as made:
        yield made


def opening(**told: Any) -> wire.OpenRecording:
    return wire.OpenRecording(source=uuid7(), key_id=None, started_at=datetime.now(UTC), **told)


async def pushed(client: VaultClient, pieces: list[bytes], *, close: bool = True, **told: Any) -> UUID:
    """A recording of a source that cannot sign."""
    recording = uuid7()
    await client.open(recording, opening(**told))
    await seal(client, recording, pieces)
    if close:
        await client.close_by_server(recording, wire.CloseByServer(reason="idle"))
    return recording


async def test_receipts_and_manifests_say_what_the_media_are(room: Room) -> None:
    client, pieces = room.client, [b"first", b"second"]
    recording = await pushed(client, pieces, format="ts", remuxed_by=GATEWAY)
    await seal(client, recording, [*pieces, b"late"])
    supplement = await client.close_by_server(recording, wire.CloseByServer(reason="idle"))
    identity = await client.identity()
    keys = {identity.receipt_key_id: Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.receipt_key))}
    for manifest in (await client.manifest(recording, 0), supplement):
        told = verify.verify_envelope(manifest.manifest.model_dump(), keys, wire.MANIFEST_TYPE)
        assert (told["format"], told["remuxed_by"]) == ("ts", GATEWAY)
    name = wire.SegmentName(sequence=1, sha256=ask(1, b"second").sha256)
    receipt = (await client.receipt(recording, name)).receipt.decoded()
    assert (receipt["format"], receipt["remuxed_by"]) == ("ts", GATEWAY)


async def test_of_what_is_as_by_default_nothing_is_said(room: Room) -> None:
    """So that receipts and manifests of before, and those made again, stay the same to the byte."""
    made = await recorded(room.client, [b"init", b"media"])
    manifest = (await room.client.manifest(made.id, 0)).manifest.decoded()
    name = wire.SegmentName(sequence=1, sha256=made.asks[1].sha256)
    receipt = (await room.client.receipt(made.id, name)).receipt.decoded()
    assert not {"format", "remuxed_by"} & (manifest.keys() | receipt.keys())


@pytest.mark.parametrize(
    "other", [{"format": "mp4"}, {"remuxed_by": None}, {"remuxed_by": "another"}, {"format": "bin"}]
)
async def test_opened_again_as_something_else_it_is_refused(room: Room, other: dict[str, Any]) -> None:
    recording, first = uuid7(), opening(format="ts", remuxed_by=GATEWAY)
    await room.client.open(recording, first)
    await room.client.open(recording, first)
    with pytest.raises(VaultRefused, match="recording-differs"):
        await room.client.open(recording, first.model_copy(update=other))


@pytest.mark.parametrize("name", ["", "a" * 65, "a\nb", "a\x00", "\x1b[2J", "a\x85b", "a\u2028b", "\u202egpj.exe"])
def test_a_gateway_s_name_is_short_and_without_control_characters(name: str) -> None:
    with pytest.raises(ValidationError):
        opening(remuxed_by=name)
    assert opening(remuxed_by="网关 “甲” 1.0").remuxed_by
