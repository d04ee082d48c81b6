"""The stand-alone verifier: envelopes of OpenSSL, genuine exports, command line, stock tools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.vault.contract import verify
from services.vault.contract.wire import canonical
from services.vault.log import note
from tests.unit.bundles import (
    FOLDER,
    ID,
    MEDIA,
    Change,
    Json,
    Maker,
    b64,
    edited,
    flip_last,
    key_id,
    refused,
    sign,
    unb64,
    write,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "dsse.json").read_text())
GOLDEN_KEYS = {GOLDEN["key_id"]: Ed25519PublicKey.from_public_bytes(unb64(GOLDEN["public_key"]))}


# --- Envelopes -------------------------------------------------------------------------------------


def test_a_key_id_is_the_digest_of_the_raw_key() -> None:
    assert verify.key_id(unb64(GOLDEN["public_key"])) == GOLDEN["key_id"]


def test_the_encoding_is_that_of_the_dsse_specification() -> None:
    signed = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert verify.pae("http://example.com/HelloWorld", b"hello world") == signed


@pytest.mark.parametrize("golden", GOLDEN["good"], ids=lambda one: one["name"])
def test_an_envelope_signed_by_openssl_verifies(golden: Json) -> None:
    payload = verify.verify_envelope(golden["envelope"], GOLDEN_KEYS, GOLDEN["type"])
    assert payload == json.loads(unb64(golden["envelope"]["payload"]))
    assert verify.pae(GOLDEN["type"], unb64(golden["envelope"]["payload"])) == unb64(golden["pae"])


@pytest.mark.parametrize("golden", GOLDEN["must_reject"], ids=lambda one: one["name"])
def test_a_false_envelope_is_refused(golden: Json) -> None:
    with pytest.raises((verify.Altered, verify.Untrusted)):
        verify.verify_envelope(golden["envelope"], GOLDEN_KEYS, GOLDEN["type"])


def test_one_bad_signature_by_a_known_key_spoils_the_good_one() -> None:
    envelope = GOLDEN["good"][0]["envelope"]
    bad = {"keyid": GOLDEN["key_id"], "sig": b64(bytes(64))}
    stranger = {"keyid": "0" * 64, "sig": "anything"}
    with pytest.raises(verify.Altered):
        verify.verify_envelope(
            {**envelope, "signatures": [*envelope["signatures"], bad]}, GOLDEN_KEYS, GOLDEN["type"]
        )
    verify.verify_envelope(
        {**envelope, "signatures": [stranger, *envelope["signatures"]]}, GOLDEN_KEYS, GOLDEN["type"]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": "none"},
        {"signatures": ["none"]},
        {"signatures": [{"keyid": GOLDEN["key_id"]}]},
        {"signatures": [{"keyid": GOLDEN["key_id"], "sig": ""}]},
        {"signatures": [{"keyid": GOLDEN["key_id"], "sig": b64(bytes(63))}]},
        {"payload": "e30"},
        {"payload": "e31="},
        {"payload": " e30="},
        {"payload": None},
        {"payloadType": 7},
    ],
)
def test_a_malformed_envelope_is_refused_in_our_own_words(change: Json) -> None:
    with pytest.raises(verify.VerificationError):
        verify.verify_envelope({**GOLDEN["good"][0]["envelope"], **change}, GOLDEN_KEYS, GOLDEN["type"])


@pytest.mark.parametrize("payload", [b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 100000])
def test_a_signed_payload_that_is_no_plain_object_is_unreadable(payload: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    envelope = sign(verify.CLOSING_TYPE, payload, key)
    with pytest.raises(verify.Unreadable):
        verify.verify_envelope(envelope, {key_id(key): key.public_key()}, verify.CLOSING_TYPE)


def test_a_receipt_is_for_these_bytes_alone() -> None:
    key = Ed25519PrivateKey.generate()
    keys = {key_id(key): key.public_key()}
    expected: dict[str, Any] = {"recording": ID, "sequence": 1, "sha256": "a" * 64, "size": 10}
    envelope = sign(verify.RECEIPT_TYPE, canonical(expected), key)
    assert verify.verify_receipt(envelope, keys, **expected) == expected
    for name, other in (
        ("recording", "x"),
        ("sequence", 2),
        ("sequence", 0),
        ("sha256", "b" * 64),
        ("size", 11),
    ):
        with pytest.raises(verify.Altered):
            verify.verify_receipt(envelope, keys, **{**expected, name: other})
    truth = sign(verify.RECEIPT_TYPE, canonical({**expected, "sequence": True}), key)
    with pytest.raises(verify.Unreadable):
        verify.verify_receipt(truth, keys, **expected)


# --- Genuine exports -------------------------------------------------------------------------------


def test_a_genuine_export_is_verified_by_its_trusted_keys(genuine: Path, maker: Maker) -> None:
    told: list[int] = []
    report = verify.verify_bundle(genuine, maker.trusted, lambda number, chinese, english: told.append(number))
    assert (report.code, report.trusted, report.subject) == (0, True, ""), report
    assert told == [1, 2, 3, 4, 5, 6, 7, 9] == [number for number, _, _ in report.steps]
    assert (report.recordings, report.segments, report.size) == ([ID], 4, 5600)


def test_without_trusted_keys_it_is_only_consistent_and_says_so(genuine: Path, maker: Maker) -> None:
    report = verify.verify_bundle(genuine)
    assert (report.code, report.trusted) == (0, False)
    assert "内部一致" in report.chinese
    assert "agrees with itself" in report.english
    assert report.fingerprints["keys/vault.pem"] == key_id(maker.vault)


def test_several_recordings_and_declared_gaps_verify(tmp_path: Path) -> None:
    several = Maker(recordings=3, missing=(2, 5), sizes=(10, 20, 30, 40))
    report = verify.verify_bundle(several.make(tmp_path / "several"), several.trusted)
    assert (report.code, len(report.recordings), report.segments) == (0, 3, 12), report


def test_a_log_of_nothing_but_ours_verifies(tmp_path: Path) -> None:
    alone = Maker(others=0)
    assert verify.verify_bundle(alone.make(tmp_path / "alone"), alone.trusted).code == 0


def test_witnesses_on_the_checkpoint_are_passed_over(bundle: Path, maker: Maker) -> None:
    witness = note.sign_checkpoint("witness.test", 1, bytes(32), Ed25519PrivateKey.generate())
    line = witness.splitlines(keepends=True)[-1]
    for path in (bundle / "checkpoint", *(bundle / "proofs").iterdir()):
        path.write_text(path.read_text() + line)
    maker.list_and_sign(bundle)
    assert verify.verify_bundle(bundle, maker.trusted).code == 0


def test_memory_stays_flat_however_large_the_media(tmp_path: Path) -> None:
    large = Maker(sizes=(300, 48 << 20, 48 << 20))
    path = large.make(tmp_path / "large")
    tracemalloc.start()
    try:
        assert verify.verify_bundle(path, large.trusted).code == 0
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


# --- Command line, and the stock tools ---------------------------------------------------------------


def run(*arguments: str | Path, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the copy that lies in the export, isolated from everything of ours."""
    command = [sys.executable, "-I", str(script or verify.__file__), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", encoding="utf-8", check=False)


def test_the_copy_in_the_export_runs_alone_and_prints_each_step_in_both_languages(genuine: Path) -> None:
    vault, vkey = genuine / "keys/vault.pem", genuine / "keys/log.vkey"
    done = run(genuine, "--trust", vault, "--trust", vkey, script=genuine / "verify.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[0] for line in lines[:14:2]] == list("1234567")
    assert lines[-2:] == [
        "验证通过：材料完整、未被改动，签名出自可信密钥。",
        "Verified: complete, unaltered, signed by the trusted keys.",
    ]
    assert run(genuine, "--quiet", "--trust", vault, vkey).stdout.splitlines() == lines[-2:]


def test_without_trust_the_command_prints_the_fingerprints_to_compare(genuine: Path, maker: Maker) -> None:
    done = run(genuine)
    assert done.returncode == 0
    assert "内部一致" in done.stdout
    for key in (maker.vault, maker.log, maker.terminal):
        assert key_id(key) in done.stdout


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (edited(MEDIA, flip_last), 1),
        (lambda bundle: (bundle / MEDIA).unlink(), 2),
        (shutil.rmtree, 4),
    ],
)
def test_the_exit_code_tells_what_is_wrong(bundle: Path, change: Change, code: int) -> None:
    change(bundle)
    done = run(bundle)
    assert (done.returncode, done.stderr) == (code, "")


def test_the_command_refuses_keys_that_are_not_those_of_the_export(genuine: Path, tmp_path: Path) -> None:
    other = Maker().make(tmp_path / "other")
    done = run(genuine, "--trust", other / "keys/vault.pem", other / "keys/log.vkey")
    assert done.returncode == 3
    assert "keys/vault.pem" in done.stdout
    assert run(genuine, "--trust", tmp_path / "nothing").returncode == 4


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--unknown"], ["a", "--trust"]])
def test_wrong_usage_has_its_own_exit_code(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 64


def test_a_missing_library_is_one_clear_sentence_in_each_language(genuine: Path, tmp_path: Path) -> None:
    script = Path(shutil.copy(verify.__file__, tmp_path))
    write(tmp_path, "cryptography/__init__.py", "raise ImportError")
    command = [sys.executable, str(script), str(genuine)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (6, "", 2)


def test_a_tar_that_was_not_unpacked_is_named_as_such(tmp_path: Path) -> None:
    write(tmp_path, "bag.tar", b"")
    report = verify.verify_bundle(tmp_path / "bag.tar")
    refused(report, 4, str(tmp_path / "bag.tar"))
    assert ".tar" in report.chinese


STOCK = (
    "sha256sum --quiet --check manifest-sha256.txt",
    "sha256sum --quiet --check tagmanifest-sha256.txt",
    f"openssl pkeyutl -verify -pubin -inkey keys/vault.pem -rawin -in {FOLDER}/manifest.pae "
    f"-sigfile {FOLDER}/manifest.sig",
    "openssl pkeyutl -verify -pubin -inkey keys/log.pem -rawin -in checkpoint.body -sigfile checkpoint.sig",
)


@pytest.mark.parametrize("command", STOCK)
def test_stock_tools_verify_the_same_files(bundle: Path, command: str) -> None:
    assert subprocess.run(command.split(), cwd=bundle, capture_output=True, check=False).returncode == 0
    for name in ("README.md", MEDIA, f"{FOLDER}/manifest.pae", "checkpoint.body"):
        (bundle / name).write_bytes(flip_last((bundle / name).read_bytes()))
    assert subprocess.run(command.split(), cwd=bundle, capture_output=True, check=False).returncode != 0


def test_a_fingerprint_can_be_had_from_openssl(genuine: Path, maker: Maker) -> None:
    command = "openssl pkey -pubin -in keys/vault.pem -outform DER | tail -c 32 | sha256sum"
    done = subprocess.run(command, shell=True, cwd=genuine, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == key_id(maker.vault)


def test_a_file_too_large_to_be_what_it_claims_is_not_read(bundle: Path, maker: Maker) -> None:
    with (bundle / "README.md").open("r+b") as file:
        file.truncate(verify.SMALL_FILE + 1)
    refused(verify.verify_bundle(bundle, maker.trusted), 4, "README.md")
