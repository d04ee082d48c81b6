"""A terminal whose vault signs by another key: it follows what both keys signed, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.terminal import pins
from services.terminal.api import Api
from services.terminal.home import Enrolled, Home
from services.terminal.pins import Follower, Pinned
from services.terminal.uplink import Uplink
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public
from tests.unit.bundles import b64
from tests.unit.terminal_peer import Peer
from tests.unit.test_uplink import Terminal
from tests.unit.test_verify_keys import succession

Key = Ed25519PrivateKey
Json = dict[str, Any]
RECORDER = UUID("0198c0de-0000-7000-8000-000000000001")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "_PAUSE_SECONDS", 0.1)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer().serve() as serving:
        yield serving


class Pinning(Terminal):
    """A terminal with a home, which pinned the peer's key of the time."""

    def __init__(self, peer: Peer, path: Path):
        super().__init__(peer, path)
        self.home = Home(path)
        vault = wire.VaultIdentity.model_validate(peer.identity)
        own = verify.key_id(raw_public(self.key))
        self.home.keep(Enrolled(api=peer.url, model="m", recorder=RECORDER, name="一号", key_id=own, vault=vault))

    def uplink(self, api: Api, lock: wire.Lock = "none") -> Uplink:
        enrolled = self.home.enrolled()
        follower = Follower(self.home, enrolled, api, self.events)
        pinned = Pinned(enrolled.receipt_keys(), lock, follower)
        return Uplink(self.recording, api, self.key, pinned, self.events)


def told(key: Key, replaces: Key | None = None, handed: Json | None = None, *, gone: bool = False) -> Json:
    now = "2026-11-23T17:34:40.123Z"
    return {
        "purpose": "receipt",
        "key_id": verify.key_id(raw_public(key)),
        "public_key": b64(raw_public(key)),
        "vkey": None,
        "since": now,
        "superseded_at": now if gone else None,
        "retired_at": now if gone else None,
        "revoked_at": None,
        "replaces": verify.key_id(raw_public(replaces)) if replaces else None,
        "succession": handed,
        "act": str(RECORDER),
        "revoked_act": None,
    }


async def test_a_chain_of_successions_is_followed_pinned_and_remembered(peer: Peer, tmp_path: Path) -> None:
    first = peer.key
    terminal = Pinning(peer, tmp_path)
    second, peer.key = Key.generate(), Key.generate()
    peer.told_keys = [
        told(peer.key, second, succession(second, peer.key)),
        told(second, first, succession(first, second), gone=True),
        told(first, gone=True),
    ]
    await terminal.run()
    terminal.assert_closed(5)
    enrolled = terminal.home.enrolled()
    assert enrolled.vault.receipt_key_id == verify.key_id(raw_public(peer.key))
    assert enrolled.earlier == [b64(raw_public(one)) for one in (first, second)]
    assert len(terminal.events.named("followed")) == 1
    assert sum("/v1/keys" in request for request in peer.requests) == 1


async def test_what_the_earlier_key_signed_is_still_believed(peer: Peer, tmp_path: Path) -> None:
    first = peer.key
    terminal = Pinning(peer, tmp_path)

    async def rotate_after_two(uplink: Uplink) -> None:
        await terminal.events.sealed(2)
        peer.key = Key.generate()
        peer.told_keys = [told(peer.key, first, succession(first, peer.key)), told(first, gone=True)]
        for _ in range(3):
            terminal.append()
            uplink.wake()

    await terminal.run(rotate_after_two)
    terminal.assert_closed(8)


STRANGER = Key.generate()
FORGED: dict[str, Callable[[Key, Key], list[Json]]] = {
    "no succession": lambda old, new: [told(new, old), told(old, gone=True)],
    "nothing at all": lambda old, new: [],
    "signed by the new key alone": lambda old, new: [told(new, old, succession(old, new, by=(new,)))],
    "signed by the old key alone": lambda old, new: [told(new, old, succession(old, new, by=(old,)))],
    "signed by a stranger": lambda old, new: [told(new, old, succession(STRANGER, new))],
    "for the log": lambda old, new: [told(new, old, succession(old, new, "log"))],
    "to another key than the one told": lambda old, new: [told(new, old, succession(old, STRANGER))],
    "altered": lambda old, new: [
        told(new, old, succession(old, new) | {"payload": succession(old, new, reason="其他")["payload"]})
    ],
}


@pytest.mark.parametrize("case", FORGED)
async def test_nothing_but_a_succession_that_both_signed_is_followed(peer: Peer, tmp_path: Path, case: str) -> None:
    old, pinned = peer.key, verify.key_id(raw_public(peer.key))
    terminal = Pinning(peer, tmp_path)
    peer.key = Key.generate()
    peer.told_keys = FORGED[case](old, peer.key)
    async with Api(peer.url, terminal.key) as api:
        running = asyncio.create_task(terminal.uplink(api).run())
        await asyncio.sleep(1)
        assert not running.done()
        running.cancel()
    assert not terminal.events.named("sealed")
    assert any("/v1/keys" in request for request in peer.requests)
    assert terminal.events.named("error")
    assert not list(tmp_path.glob("spool/*/*.receipt.json"))
    assert verify.key_id(raw_public(peer.key)) not in terminal.home.enrolled().receipt_keys()
    assert pinned in terminal.home.enrolled().receipt_keys()
