"""Changes of the vault's own keys that are killed between any two steps or refused; keys that are revoked."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local.processes import ROOT
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from tests.flows.evidence import assert_log_is_whole, eventually
from tests.rooms.key_changes import (
    command,
    current,
    done,
    folder_of,
    nobody_may_change_keys,
    restarted,
    rotated,
    sealed,
    statements,
    told_by,
)
from tests.rooms.sealed import ask, open_recording
from tests.system import System, running


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """A system of this module's own: its keys change."""
    with running(None) as made:
        yield made


@pytest.fixture
async def vault(system: System) -> AsyncIterator[VaultClient]:
    async with system.vault() as client:
        yield client


# --- killed, or refused ---


@pytest.mark.parametrize("purpose", ["receipt", "log"])
async def test_killed_before_it_has_committed_a_rotation_never_was(
    system: System, vault: VaultClient, purpose: str
) -> None:
    before = current(system, purpose)
    waiting = folder_of(system) / f"{purpose}.next.pem"
    with nobody_may_change_keys(system):
        argv = [sys.executable, "-m", "services.vault", "rotate-key", purpose, "--reason", "被中断的更换"]
        process = subprocess.Popen(argv, env=system.stack.vault_environment(), cwd=ROOT)
        eventually(waiting.exists, "the new key lies on the disk", 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert waiting.exists()
    restarted(system)
    assert not waiting.exists()
    assert current(system, purpose) == before
    await told_by(vault, before)


@pytest.mark.parametrize("state", ["receipt", "log", "log, the old one renamed"])
async def test_killed_after_it_has_committed_a_rotation_is_finished_at_the_next_start(
    system: System, vault: VaultClient, state: str
) -> None:
    purpose, folder = state.partition(",")[0], folder_of(system)
    old_file = (folder / f"{purpose}.pem").read_bytes()
    new = rotated(system, purpose)
    # What lies there when the process dies just after its commit, or between its two renames.
    named = folder / f"{purpose}.pem"
    named.rename(folder / f"{purpose}.next.pem")
    if state != "log, the old one renamed":
        (folder / "log.previous.pem").unlink(missing_ok=True)
        named.write_bytes(old_file)
        named.chmod(0o600)
    # A vault that runs finds its keys, whatever they are called.
    recording = await open_recording(vault)
    signer = await sealed(vault, recording, 1)
    assert purpose == "log" or signer == new
    restarted(system)
    await told_by(vault, new)
    left = {"receipt.pem", "log.pem"} | ({"log.previous.pem"} if purpose == "log" else set())
    assert {path.name for path in folder.iterdir()} == left
    if purpose == "log":
        assert (folder / "log.previous.pem").read_bytes() == old_file
        (old,) = (one.key_id for one in (await vault.keys()).keys if one.superseded_at and not one.retired_at)
        done(system, "retire-key", old)
    assert_log_is_whole(system)


FAULTS = {
    "another passphrase": ("口令不对", {"QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE": "PASSPHRASE"}),
    "another folder": ("丢失", {"QUANCHENG_VAULT_KEYS": "FOLDER"}),
    "a passphrase that is gone": ("无法读取", {"QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE": "/nowhere"}),
    "a folder that is a file": ("无法使用", {"QUANCHENG_VAULT_KEYS": "FILE"}),
    "no database": ("数据库连接不上", {"QUANCHENG_VAULT_DSN": "postgresql+asyncpg://x:y@/x?host=/nowhere"}),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("verb", ["rotate-key", "revoke-key"])
def test_a_fault_of_the_keys_is_told_in_one_sentence_and_nothing_changes(
    system: System, tmp_path: Path, case: str, verb: str
) -> None:
    sentence, changes = FAULTS[case]
    (tmp_path / "passphrase").write_text("not the passphrase of these keys\n")
    (tmp_path / "passphrase").chmod(0o600)
    (tmp_path / "file").write_text("x")
    (tmp_path / "keys").mkdir(mode=0o700)
    places = {"PASSPHRASE": tmp_path / "passphrase", "FOLDER": tmp_path / "keys", "FILE": tmp_path / "file"}
    given = {name: str(places.get(value, value)) for name, value in changes.items()}
    if verb == "revoke-key" and case == "another folder":
        return  # the loss of the folder is what that command is for
    before = {path.name: path.read_bytes() for path in folder_of(system).iterdir()}
    key = current(system, "receipt")
    which = ["receipt"] if verb == "rotate-key" else [key]
    told = command(system, verb, *which, "--reason", "不会成功", **given)
    assert told.returncode in (1, 3)
    assert sentence in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert current(system, "receipt") == key
    assert {path.name: path.read_bytes() for path in folder_of(system).iterdir()} == before


def test_a_wrong_call_is_told(system: System) -> None:
    for call in (
        ["rotate-key"],
        ["rotate-key", "both", "--reason", "理由"],
        ["rotate-key", "receipt", "--reason", ""],
        ["rotate-key", "receipt", "--reason", "a\nb"],
        ["revoke-key", "x", "--reason", "理由", "--code", "stolen"],
    ):
        assert command(system, *call).returncode == 64, call
    unknown = command(system, "revoke-key", "0" * 64, "--reason", "没有这一把")
    assert (unknown.returncode, "没有这一把密钥" in unknown.stderr) == (1, True)
    assert command(system, "retire-key", "0" * 64).returncode == 1


def test_a_rotation_that_cannot_have_its_turn_changes_nothing(system: System) -> None:
    key = current(system, "receipt")
    with nobody_may_change_keys(system):
        told = command(system, "rotate-key", "receipt", "--reason", "等不到")
    assert (told.returncode, "未作改动" in told.stderr) == (1, True), told.stderr
    assert current(system, "receipt") == key
    assert not (folder_of(system) / "receipt.next.pem").exists()


# --- revocation ---


async def test_a_revoked_current_key_is_replaced_at_once_without_a_succession(
    system: System, vault: VaultClient
) -> None:
    old = (await vault.identity()).receipt_key_id
    recording = await open_recording(vault)
    data = os.urandom(64)
    (ticket,) = (await vault.exchange(recording, wire.ExchangeRequest(asks=[ask(1, data)]))).tickets
    said = done(system, "revoke-key", old, "--reason", "备份盘遗失")
    new = current(system, "receipt")
    assert new in said and "另行交给" in said and "BEGIN PUBLIC KEY" in said
    await told_by(vault, new)
    # Whoever has the old key could make tickets of it: they are good no more, and asking again gives another.
    async with httpx.AsyncClient(trust_env=False) as store:
        put = await store.put(ticket.url, content=data, headers=ticket.headers)
    assert put.status_code == 403
    assert await sealed(vault, recording, 2) == new
    (told,) = [one for one in statements(system, "revocation") if one["key_id"] == old]
    assert (told["code"], told["reason"], told["purpose"]) == ("compromised", "备份盘遗失", "receipt")
    (introduced,) = [one for one in statements(system, "key") if one["key_id"] == new]
    assert introduced["replaces"] == old
    assert "succession" not in introduced
    listed = {one.key_id: one for one in (await vault.keys()).keys}
    assert listed[old].revoked_at and listed[new].succession is None
    async with httpx.AsyncClient(trust_env=False) as http:
        assert "备份盘" not in (await http.get(f"{system.stack.api_url}/v1/keys")).text
    # The same again changes nothing.
    done(system, "revoke-key", old, "--reason", "又一次")
    assert current(system, "receipt") == new
    assert len([one for one in statements(system, "revocation") if one["key_id"] == old]) == 1
    assert f"{old} 凭证密钥" in done(system, "keys")


async def test_a_key_that_is_lost_is_revoked_and_the_vault_goes_on(system: System, vault: VaultClient) -> None:
    assert system.stack.vault
    lost = current(system, "log")
    system.stack.vault.stop()
    (folder_of(system) / "log.pem").unlink()
    refused = command(system)
    assert refused.returncode != 0
    assert "丢失" in refused.stderr and "revoke-key" in refused.stderr
    done(system, "revoke-key", lost, "--reason", "磁盘损坏", "--code", "lost")
    system.stack.vault.start()
    system.stack.vault.wait_ready()
    new = current(system, "log")
    await told_by(vault, new)
    recording = await open_recording(vault)
    assert await sealed(vault, recording, 1)
    assert_log_is_whole(system)


async def test_an_earlier_key_is_revoked_without_another_change(system: System) -> None:
    now = current(system, "receipt")
    query = (
        "SELECT key_id FROM vault.keys WHERE purpose = 'receipt' AND revoked_at IS NULL AND retired_at IS NOT NULL"
    )
    earlier = system.stack.postgres.run_sql(query).split()[0]
    assert "已换新密钥" not in done(system, "revoke-key", earlier, "--reason", "旧备份泄露")
    assert current(system, "receipt") == now


def test_of_a_purpose_one_key_is_current_whatever_is_tried(system: System) -> None:
    public = base64.b64encode(verify.raw_key(Ed25519PrivateKey.generate().public_key())).decode()
    for purpose in ("receipt", "log"):
        with pytest.raises(Exception, match="keys_current"):
            system.stack.postgres.run_sql(
                "INSERT INTO vault.keys (key_id, purpose, public_key, act, since)"
                f" SELECT encode(sha256(decode('{public}', 'base64')), 'hex'), '{purpose}',"
                f" decode('{public}', 'base64'), gen_random_uuid(), now()"
            )
