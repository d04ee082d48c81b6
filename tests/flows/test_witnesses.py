"""Real witnesses cosign the live log: two of three are needed, and one of the three never answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.processes import ROOT
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from tests.peers.witness import Witness
from tests.system import System, free_ports, running

SECONDS = 2.0


@pytest.fixture(scope="module")
def witnesses(litewitness: Path) -> Iterator[list[Witness]]:
    folder = Path(tempfile.mkdtemp(prefix="quancheng-witness-"))
    port = free_ports(3)
    with contextlib.ExitStack() as stack:
        made = [Witness(litewitness, folder / name, f"witness.test/{name}", port + i) for i, name in enumerate("abc")]
        for witness in made[:2]:
            stack.enter_context(witness)
        yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def system(witnesses: list[Witness]) -> Iterator[System]:
    listed = json.dumps([{"url": one.url, "vkey": one.vkey} for one in witnesses])
    policy = {"WITNESSES": listed, "WITNESSES_NEEDED": "2", "WITNESS_SECONDS": str(SECONDS), "WATCH_SECONDS": "1"}
    settings = {f"QUANCHENG_VAULT_{name}": value for name, value in policy.items()}
    with running(None, settings=settings) as made:
        yield made


@pytest.fixture
async def vault(system: System, witnesses: list[Witness]) -> AsyncIterator[VaultClient]:
    """The vault, once the log is known to its witnesses and cosigned."""
    async with system.vault() as client:
        identity = await client.identity()
        for witness in witnesses[:2]:
            with contextlib.suppress(Exception):
                witness.know(identity.origin, identity.log_vkey)
        await until(client, lambda state: state.meets_policy and state.published_size == state.size)
        yield client


async def until(vault: VaultClient, reached: object, seconds: float = 30) -> wire.LogState:
    """The log's state once `reached(state)`."""
    assert callable(reached)
    state = await vault.log_state()
    for _ in range(int(seconds * 10)):
        if reached(state):
            return state
        await asyncio.sleep(0.1)
        state = await vault.log_state()
    raise AssertionError(state)


async def act(vault: VaultClient) -> wire.Appended:
    someone = str(uuid4())
    fields = {"recording": someone, "person": someone, "purpose": "training", "until": "2026-11-23T18:00:00.000Z"}
    return await vault.append(wire.Append(act=uuid4(), kind="viewing", fields=fields))


async def public(system: System) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"{system.stack.vault_url}/log/checkpoint")).text


def cosigners(note: str, witnesses: list[Witness]) -> list[str]:
    keys = verify.parse_witnesses(one.vkey for one in witnesses)
    return sorted(name.rpartition("/")[2] for name in verify.verify_cosignatures(note, keys))


async def test_a_log_that_no_witness_knows_is_published_and_says_what_it_lacks(
    system: System, witnesses: list[Witness]
) -> None:
    async with system.vault() as vault:
        state = await until(vault, lambda state: all(one.reason for one in state.witnesses))
        assert [one.reason for one in state.witnesses] == ["unknown-log", "unknown-log", "unreachable"]
        assert (state.needed, state.cosigned, state.meets_policy, state.met_size) == (2, 0, False, None)
        assert state.published_size > 0
        assert cosigners(await public(system), witnesses) == []
        identity = await vault.identity()
        for witness in witnesses[:2]:
            witness.know(identity.origin, identity.log_vkey)
        # Without any growth of the log: what was published is cosigned after the fact.
        state = await until(vault, lambda state: state.meets_policy)
    assert state.met_size == state.published_size
    assert [one.reason for one in state.witnesses] == [None, None, "unreachable"]
    assert state.witnesses[2].away_since is not None
    assert cosigners(await public(system), witnesses) == ["a", "b"]


async def test_each_growth_is_cosigned_before_it_is_published(
    system: System, witnesses: list[Witness], vault: VaultClient
) -> None:
    vkey = (await vault.identity()).log_vkey
    for count in (1, 2, 300):
        sizes = [one.tree_size for one in await asyncio.gather(*(act(vault) for _ in range(count)))]
        await until(vault, lambda state, size=max(sizes): state.published_size >= size)
        note = await public(system)
        assert verify.verify_note(note, vkey).size >= max(sizes)
        assert cosigners(note, witnesses) == ["a", "b"]


async def test_a_proof_is_handed_out_in_a_cosigned_checkpoint(witnesses: list[Witness], vault: VaultClient) -> None:
    done = await act(vault)
    await until(vault, lambda state: (state.met_size or 0) > done.index)
    proof = verify.parse_proof((await vault.proof(done.act)).proof)
    assert cosigners(proof.checkpoint, witnesses) == ["a", "b"]
    leaf = verify.statement_leaf(proof.extra[:32], proof.extra[32:])
    verify.verify_proof(proof, leaf, (await vault.identity()).log_vkey)


async def test_while_witnesses_hang_the_log_goes_on_and_says_so_and_catches_up(
    system: System, witnesses: list[Witness], vault: VaultClient
) -> None:
    before = await act(vault)
    met = (await until(vault, lambda state: (state.met_size or 0) > before.index)).met_size
    witnesses[0].pause()
    try:
        after = await act(vault)
        state = await until(vault, lambda state: state.published_size > after.index)
        assert (state.cosigned, state.meets_policy, state.met_size) == (1, False, met)
        assert state.witnesses[0].reason == "timeout"
        assert cosigners(await public(system), witnesses) == ["b"]
        # An entry of before is proved where the policy is met; one of after where it can be.
        proofs = [verify.parse_proof((await vault.proof(one.act)).proof) for one in (before, after)]
        assert [len(cosigners(one.checkpoint, witnesses)) for one in proofs] == [2, 0]
    finally:
        witnesses[0].resume()
    state = await until(vault, lambda state: state.meets_policy)
    assert state.witnesses[0].reason is None
    assert cosigners(await public(system), witnesses) == ["a", "b"]


async def test_killed_while_it_waits_for_witnesses_the_vault_finishes_by_itself(
    system: System, witnesses: list[Witness], vault: VaultClient
) -> None:
    for witness in witnesses[:2]:
        witness.pause()
    done = await act(vault)
    await asyncio.sleep(SECONDS / 2)  # the tiles lie in the store, the witnesses are being asked
    assert (await vault.log_state()).published_size <= done.index
    assert system.stack.vault
    system.stack.vault.kill()
    for witness in witnesses[:2]:
        witness.resume()
    await asyncio.to_thread(system.stack.vault.wait_ready)
    await until(vault, lambda state: (state.met_size or 0) > done.index)
    assert cosigners(await public(system), witnesses) == ["a", "b"]


async def test_a_witness_that_knows_more_or_less_than_we_think_is_asked_again(
    system: System, witnesses: list[Witness], vault: VaultClient
) -> None:
    """The answer 409 with its size is followed."""
    system.stack.postgres.run_sql("UPDATE vault.witnesses SET size = CASE size WHEN 1 THEN 0 ELSE 1 END")
    done = await act(vault)
    await until(vault, lambda state: (state.met_size or 0) > done.index)


async def test_a_witness_that_saw_another_history_does_not_cosign_and_is_named(
    witnesses: list[Witness], vault: VaultClient
) -> None:
    size, root = witnesses[0].remembers(1, bytes(32))
    await act(vault)
    state = await until(vault, lambda state: state.witnesses[0].reason)
    assert state.witnesses[0].reason == "inconsistent"
    witnesses[0].remembers(10**6, root)
    await standing(vault, 1)
    state = await until(vault, lambda state: state.witnesses[0].reason == "ahead")
    assert not state.meets_policy
    await standing(vault, 1)
    witnesses[0].remembers(size, root)
    await until(vault, lambda state: state.meets_policy)
    await standing(vault, 0)


async def standing(vault: VaultClient, wanted: int) -> None:
    """As many alarms tell that a witness knows another history."""
    async with asyncio.timeout(20):
        while sum(one.kind == "witness-refuses" for one in (await vault.alarms(200)).alarms) != wanted:
            await asyncio.sleep(0.2)


async def test_witnesses_go_on_cosigning_while_the_logs_key_is_rotated(
    system: System, witnesses: list[Witness], vault: VaultClient
) -> None:
    """Both keys sign until the old one is retired; by then the witnesses have been told of the new one."""

    def command(*arguments: str) -> None:
        argv = [sys.executable, "-m", "services.vault", *arguments]
        subprocess.run(argv, env=system.stack.vault_environment(), cwd=ROOT, capture_output=True, check=True)

    before = await vault.identity()
    await asyncio.to_thread(command, "rotate-key", "log", "--reason", "每年更换")
    done = await act(vault)
    await until(vault, lambda state: state.meets_policy and (state.met_size or 0) > done.index)
    note = await public(system)
    assert cosigners(note, witnesses) == ["a", "b"]
    after = await vault.identity()
    assert after.log_vkey != before.log_vkey
    assert verify.verify_note(note, before.log_vkey) == verify.verify_note(note, after.log_vkey)
    for witness in witnesses[:2]:
        witness.also_know(after.origin, after.log_vkey)
    old = verify.key_id(verify.raw_key(verify.parse_vkey(before.log_vkey).key))
    await asyncio.to_thread(command, "retire-key", old)
    done = await act(vault)
    await until(vault, lambda state: state.meets_policy and (state.met_size or 0) > done.index)
    note = await public(system)
    assert cosigners(note, witnesses) == ["a", "b"]
    with pytest.raises(verify.Untrusted):
        verify.verify_note(note, before.log_vkey)


async def test_only_who_is_allowed_sees_the_state(system: System) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{system.stack.vault_url}/v1/log/state")
    assert (answer.status_code, answer.json()["slug"]) == (401, "not-authenticated")


async def test_an_export_carries_the_cosignatures_and_says_which_it_lacks(
    system: System, witnesses: list[Witness], vault: VaultClient
) -> None:
    def record() -> str:
        home = system.new_terminal("witnessed")
        said = system.terminal("record", home, "--source", "demo", "--seconds", "3", "--segment-seconds", "1")
        return str(UUID(next(event["recording"] for event in said if event["event"] == "recording")))

    def check(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(bundle / "verify.py"), str(bundle), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    recording = await asyncio.to_thread(record)
    keys = ["--witness", *(one.vkey for one in witnesses)]
    good = await asyncio.to_thread(system.export, recording)
    assert cosigners((good / "checkpoint").read_text(), witnesses) == ["a", "b"]
    assert "本检查点有 2 个" in (good / "README.md").read_text()
    assert check(good, *keys, "--need", "2").returncode == 0
    assert "witness.test/a, witness.test/b" in check(good, *keys, "--need", "2").stdout
    assert check(good, *keys).returncode == 3
    assert check(good).returncode == 0
    assert "2 more signatures, not verified" in check(good).stdout
    witnesses[1].stop()
    try:
        poor = await asyncio.to_thread(system.export, recording)
    finally:
        witnesses[1].start()
    assert cosigners((poor / "checkpoint").read_text(), witnesses) == ["a"]
    assert "本检查点有 1 个" in (poor / "README.md").read_text()
    assert "没有应答" in (poor / "README.md").read_text()
    assert check(poor, *keys, "--need", "1").returncode == 0
    too_few = check(poor, *keys, "--need", "2")
    assert too_few.returncode == 3
    assert "只有 1 个" in too_few.stdout
