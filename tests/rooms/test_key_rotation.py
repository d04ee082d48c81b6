"""The vault's own keys, rotated while it runs and retired; two vaults at once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.processes import ROOT
from services.vault import keys as keys_module
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from services.vault.errors import SigningStopped
from services.vault.keyring import KeyChanged, Keyring, on_record
from services.vault.settings import Settings
from tests.flows.evidence import assert_log_is_whole, eventually
from tests.peers.build import build
from tests.rooms.exported import asked, begun, fetched, ready, recorded, settled, unpacked, verified
from tests.rooms.key_changes import (
    command,
    committed,
    current,
    done,
    folder_of,
    log_key_id,
    restarted,
    rotated,
    sealed,
    statements,
    told_by,
)
from tests.rooms.people import service_key
from tests.rooms.sealed import ask, open_recording, settings_of
from tests.system import System, free_ports, running


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """A system of this module's own: its keys change."""
    with running(None) as made:
        yield made


@pytest.fixture
async def vault(system: System) -> AsyncIterator[VaultClient]:
    async with system.vault() as client:
        yield client


# --- rotation ---


async def test_a_rotated_receipt_key_signs_from_then_on_and_the_old_one_is_gone(
    system: System, vault: VaultClient
) -> None:
    before = await vault.identity()
    recording = await open_recording(vault)
    assert await sealed(vault, recording, 1) == before.receipt_key_id
    old_file = (folder_of(system) / "receipt.pem").read_bytes()
    data = os.urandom(64)
    (open_ticket,) = (await vault.exchange(recording, wire.ExchangeRequest(asks=[ask(2, data)]))).tickets
    new = rotated(system, "receipt")
    # Without a restart: the very next receipt is by the new key.
    assert await sealed(vault, recording, 3) == new
    assert (await told_by(vault, new)).log_vkey == before.log_vkey
    # A ticket of before is good to its end.
    async with httpx.AsyncClient(trust_env=False) as store:
        put = await store.put(open_ticket.url, content=data, headers=open_ticket.headers)
    assert put.status_code == 200
    assert await committed(vault, recording, open_ticket) == new
    assert sorted(path.name for path in folder_of(system).iterdir()) == ["log.pem", "receipt.pem"]
    assert (folder_of(system) / "receipt.pem").read_bytes() != old_file
    # What was signed stays what it was.
    first = system.stack.postgres.run_sql(
        f"SELECT receipt->'signatures'->0->>'keyid' FROM vault.segments WHERE recording_id = '{recording}'"
        " AND sequence = 1"
    )
    assert first.strip() == before.receipt_key_id
    told = eventually(lambda: [one for one in statements(system, "key") if one["key_id"] == new], "the statement")
    old_key = verify.raw_public_key(before.receipt_key)
    followed = verify.verify_succession(told[0]["succession"], old_key, "receipt")
    assert (told[0]["replaces"], verify.key_id(verify.raw_key(followed))) == (before.receipt_key_id, new)
    with pytest.raises(verify.VerificationError):
        verify.verify_succession(told[0]["succession"], old_key, "log")


async def test_the_vaults_keys_are_told_to_anybody_and_no_reasons_with_them(system: System) -> None:
    answers = []
    async with httpx.AsyncClient(trust_env=False) as http:
        for url in (system.stack.vault_url, system.stack.api_url):
            answer = await http.get(f"{url}/v1/keys")
            assert answer.status_code == 200
            answers.append(wire.VaultKeys.model_validate_json(answer.content))
    assert answers[0] == answers[1]
    receipts = [one for one in answers[0].keys if one.purpose == "receipt"]
    assert [one.superseded_at is None for one in receipts] == [True, *[False] * (len(receipts) - 1)]
    assert receipts[0].replaces == receipts[1].key_id
    start = verify.raw_public_key(receipts[-1].public_key)
    successions = {str(one.replaces): one.succession.model_dump() for one in receipts if one.succession}
    last = verify.follow(start, successions, "receipt")[-1]
    assert verify.key_id(verify.raw_key(last)) == receipts[0].key_id


async def test_the_logs_two_keys_sign_until_the_old_one_is_retired(system: System, vault: VaultClient) -> None:
    before = await vault.identity()
    new = rotated(system, "log")
    after = await told_by(vault, new)

    def public() -> str:
        return httpx.get(f"{system.stack.vault_url}/log/checkpoint", trust_env=False).text

    def signed_by_both() -> str | None:
        return note if len(verify.parse_note(note := public()).signatures) == 2 else None

    both = eventually(signed_by_both, "both sign")
    assert verify.verify_note(both, before.log_vkey) == verify.verify_note(both, after.log_vkey)
    assert verify.parse_note(both).signatures[0].of(verify.parse_vkey(after.log_vkey))
    again = command(system, "rotate-key", "log", "--reason", "再换一次")
    assert (again.returncode, "retire-key" in again.stderr) == (1, True)
    refused = command(system, "retire-key", new)
    assert (refused.returncode, "现行密钥" in refused.stderr) == (1, True)
    restarted(system)
    done(system, "retire-key", log_key_id(before))
    done(system, "retire-key", log_key_id(before))
    assert not (folder_of(system) / "log.previous.pem").exists()
    await open_recording(vault)  # the log grows by its enrolment
    note = eventually(lambda: note if len(verify.parse_note(note := public()).signatures) == 1 else None, "one signs")
    verify.verify_note(note, after.log_vkey)
    assert [one["key_id"] for one in statements(system, "retirement")] == [log_key_id(before)]
    assert_log_is_whole(system)


async def test_another_client_reads_the_log_by_either_key_while_both_sign(
    system: System, vault: VaultClient, go: Path, tmp_path: Path
) -> None:
    program = build(go, "logreader", tmp_path)
    before = await vault.identity()
    url = f"{system.stack.vault_url}/log"
    async with httpx.AsyncClient(trust_env=False) as http:
        old = verify.verify_note((await http.get(f"{url}/checkpoint")).text, before.log_vkey)
    after = await told_by(vault, rotated(system, "log"))
    await open_recording(vault)
    for vkey in (before.log_vkey, after.log_vkey):
        argv = [str(program), url, vkey, str(old.size), base64.b64encode(old.root).decode()]
        read = eventually(partial(_read, argv), "it reads the log")
        assert int(read.split()[0]) > old.size
    done(system, "retire-key", log_key_id(before))


def _read(argv: list[str]) -> str | None:
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return said.stdout if said.returncode == 0 else None


async def test_a_log_that_was_published_by_the_earlier_key_is_no_reason_not_to_start(
    system: System, vault: VaultClient
) -> None:
    assert system.stack.vault
    system.stack.vault.stop()
    assert "证据库运行时即记入日志" in done(system, "rotate-key", "log", "--reason", "停机更换")
    new = current(system, "log")
    note = (system.stack.data / "evidence" / "log" / "checkpoint").read_text()
    assert len(verify.parse_note(note).signatures) == 1
    system.stack.vault.start()
    system.stack.vault.wait_ready()
    await told_by(vault, new)
    eventually(lambda: [one for one in statements(system, "key") if one["key_id"] == new], "the statement")
    (old,) = (one.key_id for one in (await vault.keys()).keys if one.superseded_at and not one.retired_at)
    done(system, "retire-key", old)
    assert_log_is_whole(system)


# --- two at once ---


@contextlib.contextmanager
def second_vault(system: System, **changes: str) -> Iterator[str]:
    """Another process on the same database, store and keys; its address."""
    port = free_ports(1)
    environment = system.stack.vault_environment() | {"QUANCHENG_VAULT_PORT": str(port)} | changes
    with open(system.folder / f"second-{port}.log", "wb") as log:
        argv = [sys.executable, "-m", "services.vault"]
        process = subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: httpx.get(f"{url}/healthz", trust_env=False).is_success, "the second vault", 60)
            yield url
        finally:
            process.terminate()
            process.wait(20)


async def test_two_vaults_turn_to_the_new_keys_together(system: System, vault: VaultClient) -> None:
    with second_vault(system) as url:
        async with VaultClient(url, service_key(system.stack)) as other:
            recording = await open_recording(vault)
            stop = asyncio.Event()
            signers: list[tuple[float, float, str]] = []

            async def go_on(by: VaultClient, first: int) -> None:
                sequence = first
                while not stop.is_set():
                    began = time.monotonic()
                    signer = await sealed(vault, recording, sequence, by=by)
                    signers.append((began, time.monotonic(), signer))
                    sequence += 2

            working = [asyncio.create_task(go_on(vault, 1)), asyncio.create_task(go_on(other, 2))]
            await asyncio.sleep(1)
            began = time.monotonic()
            new = await asyncio.to_thread(rotated, system, "receipt")
            ended = time.monotonic()
            new_log = await asyncio.to_thread(rotated, system, "log")
            await asyncio.sleep(1.5)
            stop.set()
            await asyncio.gather(*working)
            assert {signer for start, _, signer in signers if start > ended} == {new}
            assert new not in {signer for _, end, signer in signers if end < began}
            for each in (vault, other):
                assert (await told_by(each, new)).receipt_key_id == new
                await told_by(each, new_log)
            # Each signs checkpoints by the same two keys.
            for each in (vault, other):
                await open_recording(each)
    (old,) = (one.key_id for one in (await vault.keys()).keys if one.superseded_at and not one.retired_at)
    assert_log_is_whole(system)
    done(system, "retire-key", old)


async def test_a_vault_that_cannot_read_the_new_key_signs_no_more_and_says_so(
    system: System, vault: VaultClient
) -> None:
    copied = system.folder / "copied-keys"
    shutil.copytree(folder_of(system), copied)
    copied.chmod(0o700)
    with second_vault(system, QUANCHENG_VAULT_KEYS=str(copied), QUANCHENG_VAULT_WORK="false") as url:
        async with VaultClient(url, service_key(system.stack)) as other:
            recording = await open_recording(vault)
            old = (await other.identity()).receipt_key_id
            assert await sealed(vault, recording, 1, by=other) == old
            new = rotated(system, "receipt")
            data = os.urandom(64)
            (ticket,) = (await vault.exchange(recording, wire.ExchangeRequest(asks=[ask(2, data)]))).tickets
            async with httpx.AsyncClient(trust_env=False) as store:
                (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()
            with pytest.raises(Exception, match="signing-stopped"):
                await committed(other, recording, ticket)
            state = system.stack.postgres.run_sql(
                f"SELECT state FROM vault.segments WHERE recording_id = '{recording}' AND sequence = 2"
            )
            assert state.strip() == "asked"
            # Given the files, it goes on by itself.
            shutil.copy(folder_of(system) / "receipt.pem", copied / "receipt.pem")
            assert await committed(other, recording, ticket) == new
    said = "".join(path.read_text() for path in system.folder.glob("second-*.log"))
    assert "本进程读不到新的密钥，已停止签发" in said


async def test_what_was_signed_by_the_earlier_key_is_not_stored(system: System) -> None:
    settings = settings_of(system)
    engine = create_async_engine(settings.dsn.get_secret_value())
    try:
        ring = await keyring(settings, engine)
        old = ring.keys.receipt_key_id
        tries: list[str] = []

        async def store() -> str:
            signed = ring.envelope(wire.RECEIPT_TYPE, {"a": 1}).signatures[0].keyid
            tries.append(signed)
            async with engine.begin() as db:
                await ring.hold(db, "receipt", [signed])
            return signed

        assert await ring.signed(store) == old
        new = rotated(system, "receipt")
        with pytest.raises(KeyChanged):
            await store()
        assert await ring.signed(store) == new
        assert tries == [old, old, old, new]
        ring._settings = settings.model_copy(update={"keys": system.folder / "no-such-folder"})
        rotated(system, "receipt")
        with pytest.raises(SigningStopped):
            await ring.signed(store)
    finally:
        await engine.dispose()


async def keyring(settings: Settings, engine: Any) -> Keyring:
    passphrase = keys_module.read_passphrase(settings.keys_passphrase_file)
    own = keys_module.read(settings.keys, settings.origin, await on_record(engine), passphrase)
    return Keyring(engine, settings, passphrase, own)


async def test_an_export_in_which_the_receipt_key_is_rotated_fails_and_another_is_whole(
    system: System, vault: VaultClient
) -> None:
    made = await recorded(vault, [b"one", b"two"])
    request = await asked(vault, [made.id])
    engine = create_async_engine(settings_of(system).dsn.get_secret_value())
    # Its checkpoint is taken and nothing is laid out yet when the key is rotated.
    async with engine.begin() as db:
        await db.execute(text("LOCK TABLE vault.export_files IN SHARE MODE"))
        await vault.begin_export(request)
        taken = text("SELECT tree_size FROM vault.exports WHERE act = :act")
        async with asyncio.timeout(30):
            while await db.scalar(taken, {"act": request.act}) is None:
                await asyncio.sleep(0.05)
        await asyncio.to_thread(rotated, system, "receipt")
    await engine.dispose()
    ended = await settled(vault, request.act)
    assert (ended.state, ended.reason) == ("failed", "key-rotated")

    again = await begun(vault, made.id)
    await ready(vault, again)
    bag = unpacked((await fetched(vault, again)).content, system.folder, again)
    report = await verified(vault, bag)
    assert report.fingerprints["keys/vault.pem"] == current(system, "receipt")
    # Receipts and manifest are by the key before.
    assert len([file for file in (bag / "keys").iterdir() if file.name.startswith("vault-")]) == 1
