"""A recording of another format, that a media gateway remuxed: what its receipts, manifests and exports say of it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from deploy.local.demo import stock_commands
from services.media.ts import TsCutter
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient, VaultRefused
from services.vault.stores import open_store
from tests.flows.evidence import assert_plays
from tests.flows.test_streaming import run_stock
from tests.rooms.exported import begun, fetched, ready, recorded, unpacked, verified
from tests.rooms.movies import fragmented, whole
from tests.rooms.sealed import Room, ask, room_of, seal, settings_of
from tests.system import System
from tests.unit.bundles import relist

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


# --- exported ---


def transport() -> list[bytes]:
    """MPEG-TS, cut where the server cuts it."""
    cutter = TsCutter(target_seconds=1)
    cuts = cutter.feed(whole("ts", "-c:v", "libx264", "-g", "10", seconds=3))
    pieces = [one.data for one in (*cuts, *cutter.finish())]
    assert len(pieces) == 3
    return pieces


def halves(data: bytes) -> list[bytes]:
    """A whole file in two plain pieces."""
    return [data[: len(data) // 2], data[len(data) // 2 :]]


async def exported(room: Room, folder: Path, *recordings: UUID, copies: bool = False) -> Path:
    act = await begun(room.client, *recordings, copies=copies)
    await ready(room.client, act)
    answer = await fetched(room.client, act)
    middle = len(answer.content) // 2
    part = await fetched(room.client, act, {"range": f"bytes={middle // 2}-{middle}"})
    assert part.content == answer.content[middle // 2 : middle + 1]
    return unpacked(answer.content, folder, act)


async def test_an_export_names_media_by_their_format_and_verifies(room: Room, tmp_path: Path) -> None:
    client, pieces = room.client, transport()
    film = b"".join(pieces)
    closed = await pushed(client, pieces[:2], format="ts", remuxed_by='a "format":"exe" gateway')
    await seal(client, closed, pieces)
    await client.close_by_server(closed, wire.CloseByServer(reason="idle"))
    still = await pushed(client, pieces, close=False, format="ts", remuxed_by=GATEWAY)
    await seal(client, still, [b"another first"])
    plain, photo = await recorded(client, fragmented(seconds=2)), await pushed(client, [b"a", b"photo"], format="jpg")
    bag = await exported(room, tmp_path, closed, still, plain.id, photo)
    report = await verified(client, bag)
    assert report.open == [str(still)]
    assert {path.name for path in (bag / "data").iterdir()} == {
        *(f"{closed}.ts", f"{closed}.1.ts", f"{still}.open.ts", f"{still}.open.beside"),
        *(f"{plain.id}.mp4", f"{photo}.jpg"),
    }
    assert b"".join((bag / f"data/{name}.ts").read_bytes() for name in (closed, f"{closed}.1")) == film
    assert (bag / f"data/{still}.open.ts").read_bytes() == film
    assert any(GATEWAY in chinese for _, chinese, _ in report.steps)
    for command in stock_commands(bag):
        done = run_stock(command, bag)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    told = run_stock(next(one for one in stock_commands(bag) if "manifest.pae" in one), bag).stdout
    for name in (f"{closed}.ts", f"{closed}.1.ts", f"{plain.id}.mp4", f"{photo}.jpg"):
        assert f"OK data/{name}" in told


async def test_a_file_under_another_extension_passes_neither_check(room: Room, tmp_path: Path) -> None:
    recording = await pushed(room.client, transport(), format="ts")
    bag = await exported(room, tmp_path, recording)
    (bag / f"data/{recording}.ts").rename(bag / f"data/{recording}.mp4")
    assert (await verified(room.client, bag, code=2)).subject == f"data/{recording}.ts"
    relist(bag)
    assert (await verified(room.client, bag, code=2)).subject == f"data/{recording}.ts"
    each = next(one for one in stock_commands(bag) if "manifest.pae" in one)
    assert run_stock(each, bag).returncode != 0


async def test_copies_are_made_of_what_players_know_and_the_others_say_why_not(room: Room, tmp_path: Path) -> None:
    client = room.client
    films = {
        "ts": transport(),
        "mov": halves(whole("mov", "-c:v", "libx264", "-movflags", "+faststart")),
        "avi": halves(whole("avi", "-c:v", "mpeg4")),
        "mkv": halves(whole("mkv", "-c:v", "libx264")),
        "jpg": halves(whole("jpg", "-frames:v", "1")),
        "bin": [b"no film", b"at all"],
    }
    made = {kind: await pushed(client, pieces, format=kind) for kind, pieces in films.items()}
    late = await pushed(client, films["ts"][:2], format="ts")
    await seal(client, late, films["ts"])
    await client.close_by_server(late, wire.CloseByServer(reason="idle"))
    bag = await exported(room, tmp_path, *made.values(), late, copies=True)
    report = await verified(client, bag)
    names = {str(made[kind]) for kind in ("ts", "mov", "avi", "mkv")} | {str(late), f"{late}.1"}
    assert set(report.copies) == {f"data/copies/{name}.mp4" for name in names}
    for name in names:
        assert_plays(bag / f"data/copies/{name}.mp4")
    for kind in ("jpg", "bin"):
        note = json.loads((bag / f"copies/{made[kind]}.json").read_bytes())
        assert note["made"] is False and kind in note["why"]
        assert str(made[kind]) in (bag / "README.md").read_text()
