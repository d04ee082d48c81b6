"""Cosignatures of witnesses (C2SP tlog-cosignature v1), the policy over them, and the settings that name them."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr, ValidationError

from services.vault.contract import verify
from services.vault.log import note
from services.vault.log.witnesses import Policy, pause, request_body
from services.vault.settings import Settings, Witness
from tests.unit.bundles import Maker

LOG = Ed25519PrivateKey.generate()
CHECKPOINT = note.sign_checkpoint("log.test/1", 20852163, bytes(32), LOG)
TEXT = verify.parse_note(CHECKPOINT).text


def vkey(name: str, key: Ed25519PrivateKey) -> str:
    raw = verify.raw_key(key.public_key())
    identity = verify.note_key_id(name, raw, verify.COSIGNATURE_V1)
    return f"{name}+{identity.hex()}+{base64.b64encode(verify.COSIGNATURE_V1 + raw).decode()}"


def cosign(name: str, key: Ed25519PrivateKey, text: str = TEXT, at: int = 1679315147, *, cut: int = 72) -> str:
    signature = key.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
    identity = verify.note_key_id(name, verify.raw_key(key.public_key()), verify.COSIGNATURE_V1)
    line = identity + (at.to_bytes(8, "big") + signature)[:cut]
    return f"— {name} {base64.b64encode(line).decode()}\n"


A, B = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
KEYS = verify.parse_witnesses([vkey("w.test/a", A), vkey("w.test/b", B)])


def test_who_cosigned_and_when() -> None:
    signed = CHECKPOINT + cosign("w.test/a", A) + cosign("w.test/b", B, at=7) + cosign("w.test/c", LOG)
    assert verify.verify_cosignatures(signed, KEYS) == {"w.test/a": 1679315147, "w.test/b": 7}
    assert verify.verify_cosignatures(CHECKPOINT, KEYS) == {}


def test_one_witness_that_cosigned_twice_counts_once() -> None:
    signed = CHECKPOINT + cosign("w.test/a", A, at=5) + cosign("w.test/a", A, at=9)
    assert verify.verify_cosignatures(signed, KEYS) == {"w.test/a": 9}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (cosign("w.test/a", A, text=TEXT.replace("20852163", "20852164")), verify.Altered),
        (cosign("w.test/a", A).replace("w.test/a", "w.test/b"), None),
        (cosign("w.test/a", B), None),
        (cosign("w.test/a", A, at=0), verify.Unreadable),
        (cosign("w.test/a", A, at=1 << 63), verify.Unreadable),
        (cosign("w.test/a", A, cut=71), verify.Unreadable),
        (cosign("w.test/a", A) + cosign("w.test/a", A, text="other\n"), verify.Altered),
    ],
    ids=["other tree", "other name", "other key of the name", "no time", "time too large", "short", "one of two"],
)
def test_a_false_cosignature_does_not_count(line: str, wrong: type[Exception] | None) -> None:
    if wrong:
        with pytest.raises(wrong):
            verify.verify_cosignatures(CHECKPOINT + line, KEYS)
    else:
        assert verify.verify_cosignatures(CHECKPOINT + line, KEYS) == {}


def test_a_logs_own_signature_is_no_cosignature_under_the_same_key() -> None:
    assert verify.verify_cosignatures(CHECKPOINT, verify.parse_witnesses([vkey("log.test/1", LOG)])) == {}
    with pytest.raises(verify.Unreadable):
        verify.parse_witnesses([note.vkey("log.test/1", verify.raw_key(LOG.public_key()))])


def test_one_key_under_two_names_is_refused() -> None:
    with pytest.raises(verify.Unreadable, match="twice"):
        verify.parse_witnesses([vkey("w.test/a", A), vkey("w.test/b", A)])


def test_the_request_is_that_of_the_protocol() -> None:
    lines = ["old 20852014", base64.b64encode(bytes(32)).decode(), ""]
    assert request_body(CHECKPOINT, 20852014, [bytes(32)]) == ("\n".join(lines) + "\n" + CHECKPOINT).encode()
    assert request_body(CHECKPOINT, 0, []).startswith(b"old 0\n\nlog.test/1\n")


def test_who_is_away_is_left_alone_for_longer_and_longer_up_to_a_minute() -> None:
    assert [pause(tries).seconds for tries in (1, 2, 5, 6, 1000)] == [2, 4, 32, 60, 60]


def test_another_policy_has_another_name() -> None:
    a, b = Witness(url="http://a", vkey=vkey("w.test/a", A)), Witness(url="http://b", vkey=vkey("w.test/b", B))
    ids = [Policy((a, b), 1).id, Policy((a, b), 2).id, Policy((a,), 1).id, Policy((), 0).id]
    assert len(set(ids)) == 4
    assert Policy((b, a), 2).id == Policy((a, b), 2).id


@pytest.mark.parametrize(
    ("witnesses", "needed"),
    [
        ([], 1),
        ([("http://a", vkey("w.test/a", A))], 0),
        ([("http://a", vkey("w.test/a", A))], 2),
        ([("http://a", vkey("w.test/a", A)), ("http://b", vkey("w.test/b", A))], 1),
        ([("ftp://a", vkey("w.test/a", A))], 1),
        ([("http://a", vkey("w.test/a", A)[:-4])], 1),
    ],
    ids=["none", "none needed", "too many needed", "one key twice", "no http", "broken key"],
)
def test_a_policy_that_cannot_be_met_is_refused_at_the_start(witnesses: list[tuple[str, str]], needed: int) -> None:
    with pytest.raises(ValidationError):
        Settings(
            dsn=SecretStr("x"),
            keys=Path("/nowhere"),
            origin="log.test",
            api_key="A" * 44,
            local_root=Path("/nowhere"),
            local_public_url="http://x",
            witnesses=tuple(Witness(url=url, vkey=key) for url, key in witnesses),
            witnesses_needed=needed,
        )


# --- In an export ------------------------------------------------------------------------------------


def cosigned(maker: Maker, bundle: Path, *lines: str) -> None:
    for path in (bundle / "checkpoint", *(bundle / "proofs").iterdir()):
        path.write_text(path.read_text() + "".join(lines))
    maker.list_and_sign(bundle)


def test_an_export_meets_a_policy_or_is_not_trusted(bundle: Path, maker: Maker) -> None:
    text = (bundle / "checkpoint.body").read_text()
    cosigned(maker, bundle, cosign("w.test/a", A, text), cosign("w.test/x", LOG, text))
    for need, code in ((0, 0), (1, 0), (2, 3)):
        report = verify.verify_bundle(bundle, maker.trusted, witnesses=KEYS, need=need)
        assert (report.code, report.slug) == (code, "too-few-witnesses" if code else ""), report
    told = [english for _, _, english in verify.verify_bundle(bundle, maker.trusted, witnesses=KEYS, need=1).steps]
    assert "checkpoint: cosigned by 1 of the given witnesses (1 needed): w.test/a" in told
    assert "checkpoint: 1 more signatures, not verified since their keys were not given: w.test/x" in told


def test_a_forged_cosignature_in_an_export_is_an_alteration(bundle: Path, maker: Maker) -> None:
    cosigned(maker, bundle, cosign("w.test/a", A, "another checkpoint\n"))
    assert verify.verify_bundle(bundle, maker.trusted).code == 0
    report = verify.verify_bundle(bundle, maker.trusted, witnesses=KEYS, need=1)
    assert (report.code, report.subject) == (1, "checkpoint")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--witness", "nonsense"], 4),
        (["--need", "1"], 64),
        (["--witness", vkey("w.test/a", A), "--need", "0"], 64),
        (["--witness", vkey("w.test/a", A), "--need", "2"], 64),
        (["--witness", vkey("w.test/a", A)], 3),
    ],
)
def test_the_policy_on_the_command_line(genuine: Path, arguments: list[str], code: int) -> None:
    command = [sys.executable, "-I", verify.__file__, str(genuine), *arguments]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code
