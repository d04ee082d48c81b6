"""Appends over the vault's HTTP contract: many callers at once, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable
from tests.system import System

MANY = 600


@pytest.fixture
async def vault(local_system: System) -> AsyncIterator[VaultClient]:
    stack = local_system.stack
    key = load_pem_private_key((stack.data / "secrets" / "api-service.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    async with VaultClient(stack.vault_url, key) as client:
        yield client


def viewing(act: UUID | None = None, *, purpose: str = "spot-check", proof: bool = False) -> wire.Append:
    fields = {"recording": str(UUID(int=1)), "person": str(UUID(int=2)), "purpose": purpose, "until": "2026"}
    return wire.Append(act=act or uuid4(), kind="viewing", fields=fields, proof=proof)


async def test_many_callers_get_an_index_and_a_proof_each(vault: VaultClient) -> None:
    appends = [viewing(proof=True) for _ in range(MANY)]
    answers = await asyncio.gather(*(vault.append(append) for append in appends))
    vkey = (await vault.identity()).log_vkey
    assert [answer.act for answer in answers] == [append.act for append in appends]
    assert len({answer.index for answer in answers}) == MANY
    for answer in answers:
        proof = verify.parse_proof(answer.proof or "")
        said = verify.parse_json(proof.extra[verify.SALT_SIZE :])
        assert (proof.index, said["act"]) == (answer.index, str(answer.act))
        leaf = verify.statement_leaf(proof.extra[: verify.SALT_SIZE], proof.extra[verify.SALT_SIZE :])
        assert verify.verify_proof(proof, leaf, vkey).size > answer.index


async def test_the_same_act_again_is_answered_the_same_index(vault: VaultClient) -> None:
    append = viewing()
    first, beside = await asyncio.gather(vault.append(append), vault.append(append))
    again = await vault.append(append)
    assert first.index == beside.index == again.index
    assert first.proof is None


async def test_one_bad_act_spoils_no_other(vault: VaultClient) -> None:
    taken = viewing()
    await vault.append(taken)
    lacking = wire.Append(act=uuid4(), kind="export", fields={"person": "x"})
    other = viewing(taken.act, purpose="training")
    twice = uuid4()
    asked = [lacking, other, viewing(twice), viewing(twice, purpose="training"), viewing(), viewing()]
    outcomes = await asyncio.gather(*(vault.append(append) for append in asked), return_exceptions=True)
    slugs = [outcome.problem.slug if isinstance(outcome, VaultRefused) else "" for outcome in outcomes]
    assert slugs[0] == "statement-unfit"
    assert slugs[1] == "act-differs"
    assert slugs[4:] == ["", ""]
    # Whichever of the two came first may stand; the other never gets its index.
    assert "act-differs" in slugs[2:4]
    assert all(isinstance(outcome, wire.Appended) for outcome in outcomes[4:])


async def test_an_act_too_long_for_any_message_is_refused_alone(vault: VaultClient) -> None:
    long = wire.Append(
        act=uuid4(), kind="viewing", fields={**viewing().fields, "note": "长" * wire.MAX_MESSAGE_BYTES}
    )
    refused, fine = await asyncio.gather(vault.append(long), vault.append(viewing()), return_exceptions=True)
    assert isinstance(refused, VaultRefused)
    assert refused.problem.status == 413
    assert isinstance(fine, wire.Appended)


async def test_who_waits_for_a_closed_client_is_told(local_system: System) -> None:
    client = VaultClient(local_system.stack.vault_url, Ed25519PrivateKey.generate())
    async with client:
        waiting = [asyncio.create_task(client.append(viewing())) for _ in range(MANY)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, VaultUnreachable | VaultRefused) for outcome in outcomes)
