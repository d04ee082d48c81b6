"""Keys change while a terminal records: it follows a succession and nothing else; its own key is revoked at once."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local import bureau
from deploy.local.demo import stock_commands
from deploy.local.processes import ROOT
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public
from tests.flows.evidence import assert_log_is_whole, eventually, export
from tests.flows.hand_terminal import HandTerminal, pem_of, pinned_by, put, some_bytes
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal, receipts_of
from tests.flows.test_close_by_server import detail_of
from tests.flows.test_closing import manifest_of
from tests.system import System, running


@pytest.fixture(scope="module", params=["local", "minio"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """A system of its own on each store, that looks every half second for what the server must close."""
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio, settings={"QUANCHENG_API_LOST_EVERY_SECONDS": "0.5"}) as made:
        yield made


def vault_command(system: System, *arguments: str) -> str:
    argv = [sys.executable, "-m", "services.vault", *arguments]
    environment = system.stack.vault_environment()
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", str(folder / "verify.py"), str(folder), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def trusting(home_json: bytes, folder: Path) -> list[str]:
    """The options that trust what a terminal pinned."""
    identity = pinned_by(home_json)
    receipt, log = folder / "vault.pem", folder / "log.vkey"
    folder.mkdir(parents=True, exist_ok=True)
    receipt.write_bytes(pem_of(identity.receipt_key))
    log.write_text(identity.log_vkey + "\n")
    return ["--trust", str(receipt), str(log)]


def test_both_keys_are_rotated_in_mid_recording_and_everything_verifies(system: System, tmp_path: Path) -> None:
    home = system.new_terminal("rotated")
    at_enrolment = (home / "terminal.json").read_bytes()
    with LiveTerminal(system, home, "record", *SECOND_BY_SECOND, "--seconds", "14") as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 3)
        vault_command(system, "rotate-key", "receipt", "--reason", "每年更换")
        vault_command(system, "rotate-key", "log", "--reason", "每年更换")
        terminal.wait_for("followed")
        assert terminal.finish() == 0, terminal.said
    assert not terminal.of("error")
    old, new = pinned_by(at_enrolment), pinned_by((home / "terminal.json").read_bytes())
    assert old.receipt_key_id != new.receipt_key_id
    assert json.loads((home / "terminal.json").read_bytes())["earlier"] == [old.receipt_key]
    signers = [one["signatures"][0]["keyid"] for _, one in sorted(receipts_of(home, recording).items())]
    assert {old.receipt_key_id, new.receipt_key_id} == set(signers)
    assert signers == sorted(signers, key=[old.receipt_key_id, new.receipt_key_id].index)
    bundle = export(system, home, recording).folder
    assert (bundle / f"keys/vault-{old.receipt_key_id}.pem").exists()
    followed = check(bundle, *trusting(at_enrolment, tmp_path / "old"))
    assert followed.returncode == 0, followed.stdout
    assert "给定密钥经" in followed.stdout
    # Whoever has the keys of today needs no succession.
    today = check(bundle, "--trust", str(bundle / "keys/vault.pem"), str(bundle / "keys/log.vkey"))
    assert (today.returncode, "给定密钥经" in today.stdout) == (0, False), today.stdout
    for command in stock_commands(bundle):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=bundle,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert_log_is_whole(system)


def test_a_recording_whose_manifest_an_earlier_key_signed_verifies_by_stock_tools_too(system: System) -> None:
    with HandTerminal(system) as terminal:
        recording = terminal.begin()
        recording.close(recording.closing([recording.seal(n, some_bytes()) for n in range(2)])).raise_for_status()
        before = system.export(str(recording.id))
        vault_command(system, "rotate-key", "receipt", "--reason", "再次更换")
        after = system.export(str(recording.id))
    signer = wire.Envelope.model_validate_json(
        (after / f"recordings/{recording.id}/manifest.dsse.json").read_bytes()
    ).signatures[0]
    assert (after / f"keys/vault-{signer.keyid}.pem").exists()
    assert check(after, "--trust", str(before / "keys/vault.pem"), str(before / "keys/log.vkey")).returncode == 0
    assert check(before, "--trust", str(before / "keys/vault.pem"), str(before / "keys/log.vkey")).returncode == 0
    # The new key does not vouch for an export of before it was there.
    later = check(before, "--trust", str(after / "keys/vault.pem"), str(after / "keys/log.vkey"))
    assert later.returncode == 3
    for command in stock_commands(after):
        done = subprocess.run(["bash", "-ec", command], cwd=after, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)


@pytest.mark.one_store
def test_a_revoked_vault_key_is_followed_by_none_until_the_new_one_is_given(system: System, tmp_path: Path) -> None:
    home = system.new_terminal("unled")
    pinned = pinned_by((home / "terminal.json").read_bytes())
    with LiveTerminal(system, home, "record", *SECOND_BY_SECOND, "--seconds", "60") as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 2)
        vault_command(system, "revoke-key", pinned.receipt_key_id, "--reason", "疑似泄露")
        terminal.wait_for("error")
        said = [event["reason"] for event in terminal.of("error")]
        terminal.kill()
    assert any("没有可信的接替声明" in reason or "未通过验证" in reason for reason in said)
    assert not terminal.of("followed")
    assert pinned_by((home / "terminal.json").read_bytes()) == pinned
    assert list((home / "spool").iterdir())
    keys = httpx.get(f"{system.stack.api_url}/v1/keys", trust_env=False).json()["keys"]
    new = next(one for one in keys if one["purpose"] == "receipt" and not one["superseded_at"])
    (tmp_path / "new.pem").write_bytes(pem_of(new["public_key"]))
    argv = [sys.executable, "-m", "services.terminal", "trust", "--home", str(home), str(tmp_path / "new.pem")]
    assert new["key_id"] in subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    events = system.terminal("resume", home)
    assert [event for event in events if event["event"] == "closed"]
    bundle = export(system, home, recording).folder
    # What the vault itself had given out before stays good, to the last receipt; and it is by the revoked key.
    signers = [one["signatures"][0]["keyid"] for one in receipts_of(home, recording).values()]
    assert set(signers) == {pinned.receipt_key_id, new["key_id"]}
    verified = check(bundle, *trusting((home / "terminal.json").read_bytes(), tmp_path))
    assert verified.returncode == 0, verified.stdout
    assert "把相关密钥已被吊销" in verified.stdout
    # The key of before alone does not lead to what signed this.
    old = tmp_path / "old.pem"
    old.write_bytes(pem_of(pinned.receipt_key))
    assert check(bundle, "--trust", str(old), str(tmp_path / "log.vkey")).returncode == 3


# --- a recorder's key ---


def revoke(client: httpx.Client, recorder: UUID, key_id: str, /, **changes: Any) -> httpx.Response:
    message = {"key_id": key_id, "code": "lost", "reason": "巡查途中遗失"} | changes
    return client.post(f"/v1/recorders/{recorder}/revocation", json=message)


def keys_of(system: System, client: httpx.Client) -> dict[str, dict[str, Any]]:
    (own,) = [one for one in client.get("/v1/recorders").json()["items"] if one["id"] == str(system.people.recorder)]
    return {one["key_id"]: one for one in own["keys"]}


def test_a_revoked_recorders_key_is_refused_at_once_and_what_it_left_open_is_closed(system: System) -> None:
    with HandTerminal(system) as terminal, system.sign_in("admin") as admin:
        identity = verify.key_id(raw_public(terminal.key))
        recording = terminal.begin()
        sealed = [recording.seal(n, some_bytes()) for n in range(2)]
        piece = some_bytes()
        late = recording.segment(2, piece)
        assert put(recording.ask(late).tickets[0], piece) == 200  # and not committed
        answer = revoke(admin, system.people.recorder, identity)
        assert answer.status_code == 200, answer.text
        assert answer.json()["revocation_index"] is not None
        for refused in (
            recording.exchange(asks=[recording.segment(3, some_bytes())]),
            recording.exchange(commits=[late]),
            recording.close(recording.closing(sealed)),
            recording.manifest(0),
            terminal.http.put(f"/v1/recordings/{uuid4()}", json={"started_at": recording.started_at}),
        ):
            assert (refused.status_code, refused.json()["slug"]) == (403, "key-revoked")
        eventually(lambda: detail_of(system, recording.id)["row"]["state"] == "closed", "the server closes", 40)
        again = revoke(admin, system.people.recorder, identity, code="compromised", reason="又说一次")
        assert again.json() == answer.json()
        assert keys_of(system, admin)[identity]["revoked_code"] == "lost"
        bundle = system.export(str(recording.id))
        verified = check(bundle)
        assert verified.returncode == 0, verified.stdout
        assert "（revoked）" in verified.stdout
        manifest = wire.Envelope.model_validate_json(
            (bundle / f"recordings/{recording.id}/manifest.dsse.json").read_bytes()
        ).decoded()
        # What it had put with a ticket of before is sealed, as what any absent holder left.
        assert [one["sequence"] for one in manifest["segments"]] == [0, 1, 2]
        # The same key never again, and a code is not used up by trying.
        code = bureau.enrolment_code(system.stack, system.people)
        proof = base64.b64encode(terminal.key.sign(b"quancheng-enrolment-v1\n" + code.encode())).decode()
        public = base64.b64encode(raw_public(terminal.key)).decode()
        message = {"code": code, "public_key": public, "proof": proof}
        refused = httpx.post(f"{system.stack.api_url}/v1/enrolments", json=message, trust_env=False)
        assert (refused.status_code, refused.json()["slug"]) == (403, "key-revoked")
        fresh = Ed25519PrivateKey.generate()
        proof = base64.b64encode(fresh.sign(b"quancheng-enrolment-v1\n" + code.encode())).decode()
        message |= {"public_key": base64.b64encode(raw_public(fresh)).decode(), "proof": proof}
        assert httpx.post(f"{system.stack.api_url}/v1/enrolments", json=message, trust_env=False).status_code == 201
    assert_log_is_whole(system)


def test_what_a_recorder_closed_before_its_key_was_revoked_still_verifies(system: System, tmp_path: Path) -> None:
    with HandTerminal(system) as terminal, system.sign_in("admin") as admin:
        recording = terminal.begin()
        manifest_of(recording.close(recording.closing([recording.seal(0, some_bytes())])))
        identity = verify.key_id(raw_public(terminal.key))
        assert revoke(admin, system.people.recorder, identity, code="withdrawn").status_code == 200
    verified = check(system.export(str(recording.id)))
    assert verified.returncode == 0, verified.stdout
    assert "把相关密钥已被吊销" in verified.stdout


def test_only_an_administrator_of_the_unit_revokes_and_only_a_key_that_is_there(system: System) -> None:
    with HandTerminal(system) as terminal:
        identity, recorder = verify.key_id(raw_public(terminal.key)), system.people.recorder
        for login in ("wang", "li"):
            with system.sign_in(login) as client:
                assert revoke(client, recorder, identity).json()["slug"] == "not-permitted"
        with system.sign_in("admin") as admin:
            assert revoke(admin, uuid4(), identity).json()["slug"] == "no-such-recorder"
            assert revoke(admin, recorder, "0" * 64).json()["slug"] == "no-such-recorder-key"
            for changes in ({"code": "stolen"}, {"reason": ""}, {"reason": "a\0b"}, {"key_id": "x"}):
                assert revoke(admin, recorder, identity, **changes).status_code == 422
            assert keys_of(system, admin)[identity]["revoked_at"] is None
        terminal.begin()


@pytest.mark.one_store
def test_while_the_vault_is_away_the_key_is_refused_already_and_the_vault_is_told_later(system: System) -> None:
    with HandTerminal(system) as terminal, system.sign_in("admin") as admin:
        identity = verify.key_id(raw_public(terminal.key))
        recording = terminal.begin()
        assert system.stack.vault
        system.stack.vault.stop()
        try:
            answer = revoke(admin, system.people.recorder, identity)
            assert (answer.status_code, answer.json()["slug"]) == (503, "vault-unavailable")
            refused = recording.exchange(asks=[recording.segment(0, some_bytes())])
            assert (refused.status_code, refused.json()["slug"]) == (403, "key-revoked")
        finally:
            system.stack.vault.start()
            system.stack.vault.wait_ready()
        eventually(lambda: keys_of(system, admin)[identity]["revocation_index"] is not None, "the vault is told", 40)
        told = keys_of(system, admin)[identity]["revocation_index"]
        # Both of the vault's answers were lost: it knows the key, and knows it revoked.
        lost = "UPDATE api.recorder_keys SET log_index = NULL, revocation_index = NULL"
        system.stack.postgres.run_sql(f"{lost} WHERE key_id = '{identity}'")
        eventually(
            lambda: keys_of(system, admin)[identity]["revocation_index"] == told, "the vault is told again", 40
        )
