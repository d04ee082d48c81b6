"""A terminal whose vault signs by another key: it follows what both keys signed, and nothing else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
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
from services.vault.log.note import vkey
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


@pytest.fixture
def peer_identity() -> Enrolled:
    raw = raw_public(Key.generate())
    told = {"origin": "o/1", "receipt_key": b64(raw), "receipt_key_id": verify.key_id(raw), "lock": "none"}
    vault = wire.VaultIdentity.model_validate(told | {"log_vkey": vkey("o/1", raw)})
    return Enrolled(api="http://a", model="m", recorder=RECORDER, name="一号", key_id=verify.key_id(raw), vault=vault)


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
        pinned = Pinned(enrolled.receipt_keys(), lock, follower, enrolled.revoked)
        return Uplink(self.recording, api, self.key, pinned, self.events)


def told(
    key: Key,
    replaces: Key | None = None,
    handed: Json | None = None,
    *,
    gone: bool = False,
    revoked: str | None = None,
) -> Json:
    now = "2026-11-23T17:34:40.123Z"
    return {
        "purpose": "receipt",
        "key_id": verify.key_id(raw_public(key)),
        "public_key": b64(raw_public(key)),
        "vkey": None,
        "since": now,
        "superseded_at": now if gone else None,
        "retired_at": now if gone else None,
        "revoked_at": revoked,
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


async def test_a_key_that_was_revoked_vouches_for_nothing_that_began_later(peer: Peer, tmp_path: Path) -> None:
    """Whoever has it may stand on the way: what the terminal records from now on is freed by none of its receipts."""
    terminal = Pinning(peer, tmp_path)
    await terminal.run()
    terminal.assert_closed(5)
    stolen, ours = peer.key, Key.generate()
    for at, freed in (("2026-01-01T00:00:00.000Z", False), ("2999-01-01T00:00:00.000Z", True)):
        peer.told_keys = [told(ours), told(stolen, gone=True, revoked=at)]
        home = Pinning(peer, tmp_path / at[:4])
        follower = Follower(home.home, home.home.enrolled(), Api(peer.url, home.key), home.events)
        pinned = Pinned(home.home.enrolled().receipt_keys(), "none", follower)
        async with follower.api:
            assert not await pinned.learn()
        vouching = pinned.vouching(datetime.now(UTC))
        assert (verify.key_id(raw_public(stolen)) in vouching) == freed
        # It is remembered, and what began before it was revoked is believed as it was.
        again = home.home.enrolled()
        kept = Pinned(again.receipt_keys(), "none", None, again.revoked)
        assert kept.vouching(datetime.now(UTC)) == vouching
        assert verify.key_id(raw_public(stolen)) in kept.vouching(datetime(2025, 12, 31, tzinfo=UTC))


def test_who_is_trusted_by_hand_takes_the_place_of_who_was_and_may_give_it_back(peer_identity: Enrolled) -> None:
    first, second, now = peer_identity, raw_public(Key.generate()), datetime.now(UTC)
    trusting = first.trusting(second, now)
    assert trusting.vault.receipt_key_id == verify.key_id(second)
    assert trusting.revoked == {first.vault.receipt_key_id: now}
    assert trusting.trusting(second, now + timedelta(days=1)).revoked == {first.vault.receipt_key_id: now}
    back = trusting.trusting(base64.b64decode(first.vault.receipt_key), now)
    assert back.revoked == {verify.key_id(second): now}
