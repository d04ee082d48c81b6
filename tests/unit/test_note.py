"""Signed notes, checkpoints, log proofs and statements."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.vault.contract import verify
from services.vault.log import note, statement, tree

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "log.json").read_text())
NOTHING: dict[tree.Place, bytes] = {}
ORIGIN = "quancheng.example/0a1b2c3d"
ACT = uuid.UUID("0193570c-0000-7000-8000-000000000001")
AT = datetime(2026, 11, 24, 1, 34, 40, 123456, tzinfo=timezone(timedelta(hours=8)))


def signer(seed: str) -> Ed25519PrivateKey:
    """The keys of the generator of the vectors."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


KEY = signer("log")
VKEY = note.vkey(ORIGIN, verify.raw_key(KEY.public_key()))


def test_we_write_the_very_note_that_the_other_implementation_writes() -> None:
    golden = VECTORS["notes"][0]
    assert golden["vkey"] == VKEY
    signed = note.sign_checkpoint(ORIGIN, golden["size"], base64.b64decode(golden["root"]), KEY)
    assert signed == golden["note"]


@pytest.mark.parametrize("golden", VECTORS["notes"])
def test_notes_of_the_other_implementation_verify(golden: dict[str, Any]) -> None:
    checkpoint = verify.verify_note(golden["note"], golden["vkey"])
    assert checkpoint == verify.Checkpoint(golden["origin"], golden["size"], base64.b64decode(golden["root"]))


@pytest.mark.parametrize("golden", VECTORS["must_reject"]["notes"], ids=lambda one: one["why"])
def test_a_false_note_is_refused(golden: dict[str, Any]) -> None:
    with pytest.raises(verify.VerificationError):
        verify.verify_note(golden["note"], golden["vkey"])


def test_a_key_of_the_same_name_is_not_trusted_and_a_forged_signature_is_an_alteration() -> None:
    reasons = {one["why"]: one for one in VECTORS["must_reject"]["notes"]}
    with pytest.raises(verify.Untrusted):
        verify.verify_note(reasons["signed by another key of the same name"]["note"], VKEY)
    with pytest.raises(verify.Altered):
        verify.verify_note(reasons["signed by another key of the same name under our key's id"]["note"], VKEY)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        VKEY.replace("+", " "),
        VKEY.replace("quancheng", "elsewhere"),
        VKEY[:-4],
        f"{ORIGIN}+00000000+{VKEY.rpartition('+')[2]}",
        f"with space+{VKEY.partition('+')[2]}",
    ],
)
def test_a_malformed_vkey_is_unreadable(vkey: str) -> None:
    with pytest.raises(verify.Unreadable):
        verify.parse_vkey(vkey)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\u3000b", "a\n", "a\x00"])
def test_no_checkpoint_under_a_name_that_no_key_may_have(origin: str) -> None:
    with pytest.raises(ValueError, match="cannot name a key"):
        note.sign_checkpoint(origin, 1, bytes(32), KEY)


@pytest.mark.parametrize(("size", "root"), [(-1, bytes(32)), (1, bytes(31))])
def test_no_checkpoint_of_an_impossible_tree(size: int, root: bytes) -> None:
    with pytest.raises(ValueError, match="a checkpoint has"):
        note.sign_checkpoint(ORIGIN, size, root, KEY)


@given(st.integers(0, 10**17), st.binary(min_size=32, max_size=32))
def test_what_we_sign_verifies_and_says_the_same(size: int, root: bytes) -> None:
    signed = note.sign_checkpoint(ORIGIN, size, root, KEY)
    assert verify.verify_note(signed, VKEY) == verify.Checkpoint(ORIGIN, size, root)


@given(st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    signed = note.sign_checkpoint(ORIGIN, 1000, bytes(range(32)), KEY)
    at = data.draw(st.integers(0, len(signed) - 1))
    character = data.draw(st.characters().filter(lambda c: c != signed[at]))
    with pytest.raises(verify.VerificationError):
        verify.verify_note(signed[:at] + character + signed[at + 1 :], VKEY)


@given(st.text())
def test_any_text_is_parsed_or_refused_in_our_own_words(text: str) -> None:
    told = []
    for parse in (verify.parse_note, verify.parse_proof, verify.parse_vkey, verify.parse_checkpoint):
        try:
            parse(text)
        except verify.VerificationError as error:
            told.append(error.chinese + error.english)
    assert all(told)


def proof_of_ours() -> tuple[str, bytes]:
    """A proof of a statement at index 300 of 600, and its leaf data."""
    salt, said = bytes(range(32)), statement.build("viewing", ACT, AT, VIEWING)
    data = statement.leaf_data(salt, said)
    leaves = [bytes([1, i % 256]) for i in range(600)]
    leaves[300] = data
    tiles = tree.append(0, [verify.leaf_hash(leaf) for leaf in leaves], NOTHING.__getitem__)
    checkpoint = note.sign_checkpoint(ORIGIN, 600, verify.merkle_root(leaves), KEY)
    hashes = tree.inclusion_proof(300, 600, tiles.__getitem__)
    return statement.proof_text(300, hashes, checkpoint, salt, said), data


VIEWING = {"recording": str(ACT), "person": str(ACT), "purpose": "训练", "until": "2026-11-23T18:00:00.000Z"}


def statement_of(text: str) -> bytes:
    """The statement that a proof proves."""
    proof = verify.parse_proof(text)
    salt, said = proof.extra[:32], proof.extra[32:]
    assert verify.verify_proof(proof, verify.statement_leaf(salt, said), VKEY).origin == ORIGIN
    return said


def test_a_proof_proves_its_statement_and_no_other() -> None:
    text, data = proof_of_ours()
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")
    proof = verify.parse_proof(text)
    assert proof.index == 300
    assert statement.leaf_data(proof.extra[:32], proof.extra[32:]) == data
    assert statement_of(text) == statement.build("viewing", ACT, AT, VIEWING)
    assert verify.verify_proof(proof, data, VKEY).size == 600
    with pytest.raises(verify.Altered):
        verify.verify_proof(proof, hashlib.sha256(data).digest(), VKEY)


@given(st.data())
def test_a_changed_line_of_a_proof_is_noticed(data: st.DataObject) -> None:
    text, _ = proof_of_ours()
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("Ab1+/=\n ").filter(lambda c: c != text[at]))
    with pytest.raises(verify.VerificationError):
        statement_of(text[:at] + character + text[at + 1 :])


def test_a_statement_is_canonical_and_in_utc_to_the_millisecond() -> None:
    said = statement.build("viewing", ACT, AT, VIEWING)
    assert said == json.dumps(json.loads(said), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert json.loads(said) == {
        **VIEWING,
        "kind": "viewing",
        "act": str(ACT),
        "at": "2026-11-23T17:34:40.123Z",
    }
    assert "训练".encode() in said


def test_a_leaf_is_the_digest_of_salt_and_statement() -> None:
    salt = bytes(range(32))
    assert statement.leaf_data(salt, b"said") == hashlib.sha256(salt + b"said").digest()
    with pytest.raises(verify.Unreadable):
        statement.leaf_data(salt[:-1], b"said")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gossip", VIEWING),
        ("viewing", {"recording": str(ACT)}),
        ("viewing", {**VIEWING, "at": "yesterday"}),
        ("viewing", {**VIEWING, "kind": "export"}),
    ],
)
def test_an_unfit_statement_is_not_made(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(statement.StatementUnfit):
        statement.build(kind, ACT, datetime.now(UTC), fields)
