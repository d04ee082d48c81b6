"""The vault closes what was uploaded in pieces as the whole it is said to be, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused
from services.vault.contract.verify import merkle_root, segment_leaf
from tests.rooms.sealed import seal
from tests.system import System


@pytest.fixture
async def vault(local_system: System) -> AsyncIterator[VaultClient]:
    async with local_system.vault() as client:
        yield client


def whole(pieces: list[bytes], **changes: object) -> wire.CloseByServer:
    leaves = [segment_leaf(n, hashlib.sha256(one).hexdigest(), len(one)) for n, one in enumerate(pieces)]
    joined = b"".join(pieces)
    told = {"sha256": hashlib.sha256(joined).hexdigest(), "size": len(joined), "root": merkle_root(leaves).hex()}
    return wire.CloseByServer(reason="complete", whole=wire.Whole.model_validate(told | changes))


async def uploaded(vault: VaultClient, *versions: list[bytes]) -> UUID:
    """What was sealed of it, the first first."""
    recording = uuid7()
    opening = wire.OpenRecording(source=uuid7(), key_id=None, started_at=datetime.now(UTC), format="bin")
    await vault.open(recording, opening)
    for pieces in versions:
        await seal(vault, recording, pieces)
    return recording


async def test_the_root_decides_between_digests_of_one_place(vault: VaultClient) -> None:
    first, second = [b"first", b"same"], [b"other"]
    recording = await uploaded(vault, first, second)
    pieces = [b"other", b"same"]
    closed = await vault.close_by_server(recording, whole(pieces))
    told = closed.manifest.decoded()
    assert told["whole"] == {"sha256": hashlib.sha256(b"othersame").hexdigest(), "size": 9}
    assert [one["sha256"] for one in told["segments"]] == [hashlib.sha256(one).hexdigest() for one in pieces]
    assert [one["sha256"] for one in told["beside"]] == [hashlib.sha256(b"first").hexdigest()]
    assert (await vault.close_by_server(recording, whole(pieces))).manifest == closed.manifest


@pytest.mark.parametrize("changes", [{"root": "0" * 64}, {"size": 10}])
async def test_what_is_sealed_must_be_the_whole(vault: VaultClient, changes: dict[str, object]) -> None:
    recording = await uploaded(vault, [b"first", b"same"])
    with pytest.raises(VaultRefused, match="whole-differs"):
        await vault.close_by_server(recording, whole([b"first", b"same"], **changes))
    with pytest.raises(VaultRefused, match="whole-differs"):
        await vault.close_by_server(recording, whole([b"first"]))
    await vault.close_by_server(recording, whole([b"first", b"same"]))


async def test_what_was_given_up_is_closed_as_far_as_it_came(vault: VaultClient) -> None:
    recording = await uploaded(vault, [b"first"])
    told = (await vault.close_by_server(recording, wire.CloseByServer(reason="cancelled"))).manifest.decoded()
    assert (told["reason"], "whole" in told) == ("cancelled", False)


def test_complete_and_whole_go_together() -> None:
    with pytest.raises(ValidationError):
        wire.CloseByServer(reason="complete")
    with pytest.raises(ValidationError):
        wire.CloseByServer(reason="idle", whole=whole([b"x"]).whole)
