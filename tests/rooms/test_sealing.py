"""The six steps through a live vault: what an ask, a put and a commit lead to, and what they never lead to."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from uuid_utils.compat import uuid7

from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public
from services.vault.contract.client import VaultClient, VaultRefused
from tests.rooms import raw
from tests.rooms.people import ask, service_key
from tests.system import System

BEGAN = datetime(2026, 11, 23, 17, 34, 40, 123000, tzinfo=UTC)


@pytest.fixture
async def vault(system: System) -> AsyncIterator[VaultClient]:
    async with VaultClient(system.stack.vault_url, service_key(system.stack)) as client:
        yield client


@pytest.fixture
async def recording(vault: VaultClient) -> UUID:
    key, recorder, recording = Ed25519PrivateKey.generate(), uuid7(), uuid7()
    public = base64.b64encode(raw_public(key)).decode()
    await vault.enrol(wire.Enrol(recorder=recorder, public_key=public))
    key_id = verify.key_id(raw_public(key))
    await vault.open(recording, wire.OpenRecording(source=recorder, key_id=key_id, started_at=BEGAN))
    return recording


def asking(*asks: wire.SegmentAsk) -> wire.ExchangeRequest:
    return wire.ExchangeRequest(asks=list(asks))


def committing(*asks: wire.SegmentAsk) -> wire.ExchangeRequest:
    return wire.ExchangeRequest(commits=[wire.SegmentName(sequence=a.sequence, sha256=a.sha256) for a in asks])


async def test_a_lock_reaches_no_further_than_the_term_that_was_set_before(
    system: System, vault: VaultClient, recording: UUID
) -> None:
    """As of a service hall's footage, which is kept for thirty days: nobody can shorten a lock."""
    locks = system.stack.minio is not None
    for number, days, wanted in ((0, 30, 30), (1, 3650, 180), (2, -1, 1)):
        term = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
        await vault.set_term(recording, wire.SetTerm(keep_until=term, basis="服务大厅视频，三十日"))
        data = secrets.token_bytes(50)
        one = ask(number, data, BEGAN)
        (ticket,) = (await vault.exchange(recording, asking(one))).tickets
        assert await _put(ticket, data) == 200
        (sealed,) = (await vault.exchange(recording, committing(one))).sealed
        told = sealed.receipt.decoded()["store"]
        if locks:
            until = datetime.fromisoformat(told["retain_until"])
            assert abs(until - datetime.now(UTC) - timedelta(days=wanted)) < timedelta(minutes=1)


async def _put(ticket: wire.Ticket, data: bytes, **added: str) -> int:
    headers = ticket.headers | {name.replace("_", "-"): value for name, value in added.items()}
    return (await raw.send("PUT", ticket.url, headers, data)).status


async def test_a_receipt_tells_what_was_asked_and_how_it_is_locked(vault: VaultClient, recording: UUID) -> None:
    data = secrets.token_bytes(5000)
    wanted = ask(0, data, BEGAN)
    (ticket,) = (await vault.exchange(recording, asking(wanted))).tickets
    assert await _put(ticket, data) == 200
    (sealed,) = (await vault.exchange(recording, committing(wanted))).sealed

    identity = await vault.identity()
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(identity.receipt_key))
    told = verify.verify_envelope(sealed.receipt.model_dump(), {identity.receipt_key_id: public}, wire.RECEIPT_TYPE)
    store = told.pop("store")
    asked_at, sealed_at = told.pop("asked_at"), told.pop("sealed_at")
    assert told == {
        "recording": str(recording),
        "sequence": 0,
        "sha256": wanted.sha256,
        "size": 5000,
        "media": "init",
        "started_at": "2026-11-23T17:34:40.123Z",
        "duration_ms": 1000,
        "monotonic_ms": 0,
    }
    assert asked_at <= sealed_at
    assert store["key"] == f"recordings/{recording}/0000000000-{wanted.sha256}"
    assert store["lock"] == identity.lock == sealed.lock
    if identity.lock == "compliance":
        until = datetime.fromisoformat(store["retain_until"])
        assert timedelta(days=179) < until - datetime.now(UTC) <= timedelta(days=180)
    else:
        assert store["retain_until"] is None


async def test_the_same_again_answers_the_same_receipt(vault: VaultClient, recording: UUID) -> None:
    data = secrets.token_bytes(100)
    wanted = ask(3, data, BEGAN)
    (ticket,) = (await vault.exchange(recording, asking(wanted))).tickets
    assert await _put(ticket, data) == 200
    first = (await vault.exchange(recording, committing(wanted))).sealed
    assert (await vault.exchange(recording, committing(wanted))).sealed == first
    assert (await vault.exchange(recording, asking(wanted))).sealed == first
    assert await vault.receipt(recording, wire.SegmentName(sequence=3, sha256=wanted.sha256)) == first[0]


async def test_nothing_that_a_holder_adds_comes_into_a_receipt(vault: VaultClient, recording: UUID) -> None:
    """A store may keep headers that no ticket signed; the check believes none of them."""
    data = secrets.token_bytes(100)
    wanted = ask(1, data, BEGAN)
    (ticket,) = (await vault.exchange(recording, asking(wanted))).tickets
    status = await _put(ticket, data, x_amz_meta_sha256="0" * 64, x_amz_tagging="lock=none")
    done = await vault.exchange(recording, committing(wanted))
    if status == 200:
        told = done.sealed[0].receipt.decoded()
        assert (told["sha256"], told["size"]) == (wanted.sha256, 100)
        assert b"lock=none" not in done.sealed[0].receipt.model_dump_json().encode()
    else:
        assert status == 403
        assert [item.slug for item in done.problems] == ["not-stored"]


async def test_what_was_not_put_gets_no_receipt(vault: VaultClient, recording: UUID) -> None:
    wanted, unknown = ask(1, b"never put", BEGAN), ask(2, b"never asked", BEGAN)
    await vault.exchange(recording, asking(wanted))
    done = await vault.exchange(recording, committing(wanted, unknown))
    assert [(item.sequence, item.slug) for item in done.problems] == [(1, "not-stored"), (2, "not-asked")]
    assert not done.sealed


async def test_an_ask_is_not_changed_by_a_later_one(vault: VaultClient, recording: UUID) -> None:
    wanted = ask(1, b"bytes", BEGAN)
    await vault.exchange(recording, asking(wanted))
    other = wanted.model_copy(update={"size": 6})
    assert [p.slug for p in (await vault.exchange(recording, asking(other))).problems] == ["ask-differs"]
    later = wanted.model_copy(update={"started_at": BEGAN})
    assert [p.slug for p in (await vault.exchange(recording, asking(later))).problems] == ["ask-differs"]
    assert len((await vault.exchange(recording, asking(wanted))).tickets) == 1


async def test_one_sequence_has_four_digests_at_most(vault: VaultClient, recording: UUID) -> None:
    asks = [ask(1, bytes([n]), BEGAN) for n in range(6)]
    for each in asks[:4]:
        assert len((await vault.exchange(recording, asking(each))).tickets) == 1
    crowded = await vault.exchange(recording, asking(*asks[4:]))
    assert [p.slug for p in crowded.problems] == ["too-many-digests"] * 2


async def test_one_sequence_has_four_digests_at_most_also_in_one_call(vault: VaultClient, recording: UUID) -> None:
    asks = [ask(1, bytes([n]), BEGAN) for n in range(6)]
    done = await vault.exchange(recording, asking(*asks))
    assert (len(done.tickets), len(done.problems)) == (4, 2)


@pytest.mark.parametrize("part", ["asks", "commits"])
async def test_more_than_64_items_of_a_kind_are_refused_whole(
    vault: VaultClient, recording: UUID, system: System, part: str
) -> None:
    asks = [ask(n + 1, bytes([n]), BEGAN) for n in range(65)]
    whole = asking(*asks[:64]) if part == "asks" else committing(*asks[:64])
    one = asking(asks[64]) if part == "asks" else committing(asks[64])
    # The message as a client would build it refuses to be so long.
    longer = whole.model_copy(update={part: [*getattr(whole, part), *getattr(one, part)]})
    with pytest.raises(VaultRefused) as refused:
        await vault.exchange(recording, longer)
    assert refused.value.problem.status == 422
    rows = f"SELECT count(*) FROM vault.segments WHERE recording_id = '{recording}'"
    assert system.stack.postgres.run_sql(rows).strip() == "0"
    done = await vault.exchange(recording, whole)
    assert len(done.tickets if part == "asks" else done.problems) == 64


async def test_a_recording_belongs_to_the_key_that_opened_it(vault: VaultClient, recording: UUID) -> None:
    opening = wire.OpenRecording(source=uuid7(), key_id="0" * 64, started_at=BEGAN)
    with pytest.raises(VaultRefused, match="no-such-enrolment"):
        await vault.open(recording, opening)
    key, recorder = Ed25519PrivateKey.generate(), uuid7()
    public = base64.b64encode(raw_public(key)).decode()
    await vault.enrol(wire.Enrol(recorder=recorder, public_key=public))
    other = opening.model_copy(update={"source": recorder, "key_id": verify.key_id(raw_public(key))})
    with pytest.raises(VaultRefused, match="recording-differs"):
        await vault.open(recording, other)
    with pytest.raises(VaultRefused, match="enrolment-differs"):
        await vault.enrol(wire.Enrol(recorder=uuid7(), public_key=public))


async def test_a_read_ticket_is_for_what_is_sealed(vault: VaultClient, recording: UUID) -> None:
    data = secrets.token_bytes(300)
    wanted, waiting = ask(1, data, BEGAN), ask(2, b"only asked", BEGAN)
    tickets = (await vault.exchange(recording, asking(wanted, waiting))).tickets
    assert await _put(tickets[0], data) == 200
    await vault.exchange(recording, committing(wanted))
    name = wire.SegmentName(sequence=1, sha256=wanted.sha256)
    (ticket,) = (await vault.read_tickets(recording, wire.ReadTicketsRequest(items=[name]))).tickets
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(ticket.url, headers=ticket.headers)).content == data
    unsealed = wire.SegmentName(sequence=2, sha256=waiting.sha256)
    with pytest.raises(VaultRefused, match="no-such-segment"):
        await vault.read_tickets(recording, wire.ReadTicketsRequest(items=[name, unsealed]))
