#!/usr/bin/env python3
"""Check an export of recordings offline, trusting nobody but the keys one compares oneself.

    python3 verify.py DIR --trust vault.pem --trust log.vkey

This one file needs Python 3.9 or later and the `cryptography` package, nothing else. It is copied into every
export, and the services themselves use its functions, so both sides check by the same lines. The steps, whose
numbers are repeated in the code and in what is printed:

1. *Bag* (BagIt 1.0, RFC 8493): every file is listed, every listed file is there, nothing else is, no links;
   the digests of all files but the media agree.
2. *Keys*: each is Ed25519 and named rightly; with `--trust` the vault's and the log's are among those given, or
   successions lead to them from those given: each signed by the key before and by the one after it, and told in the
   log (which step 6 checks). A key that the log tells is revoked signs neither the listing nor the checkpoint, and
   hands over to none.
3. *Checkpoint* (C2SP signed-note, tlog-checkpoint): signed by the log's key, and with `--witness` cosigned
   (C2SP tlog-cosignature) by at least `--need` of the witnesses given.
4. *Manifests* (DSSE), for each recording: signed by the vault; the raw copies for openssl are the same bytes;
   the closing inside is signed by the terminal; count, missing segments and Merkle root (RFC 6962) recomputed
   from the listed segments are those the terminal signed; `offsets.tsv` agrees. Segments that were sealed
   and that the closing does not speak of are listed *beside*, enclosed, and checked like the others. What came
   after a closing is in numbered *supplements*, each with a manifest and a media file of its own. That file has the
   extension of the format that the manifest names, `.mp4` where it names none; where a gateway remuxed the media
   before they were sealed, the report says so. A manifest
   without a terminal's closing was made by the server alone, which the report says; of a file that was uploaded in
   pieces, or that the terminal *took over* from a recorder (its closing says when and why), it has the digest of the
   *whole*, which is that of its media file. What was *disposed of* has its
   manifests and receipts, a tombstone signed by the vault that counts the same segments, and no media. What was
   sealed and no manifest holds yet is *open*: it is what its receipts say, and nobody says that it is all there is.
5. *Receipts* (DSSE): one for each segment, signed by the vault, saying what the manifest says; of what is open and of
   a *series* (the versions of a document or another single file) the receipts themselves say what there is.
6. *Proofs* (C2SP tlog-proof): each statement is in the log of this very checkpoint; among them are those of
   each manifest, of every segment, of every conflict (one sequence sealed with different content), of each version
   of a series, of each disposal with its two custodians, of each terminal's enrolment and of the export itself. What
   a key signed that was revoked is believed only where the log told of it before the revocation: a manifest by its
   own statement, a receipt by that of its minute or version, a tombstone by that of its disposal.
7. *Media*: every byte is hashed, as part of the segment that the manifest says it is; with `--twice` as a file
   for the bag as well (`sha256sum -c manifest-sha256.txt` does that too). *Copies* are remuxed for players: they are
   what the vault listed, are called copies, and prove nothing.
8. *Time* (RFC 3161), where there are tokens: each is by its authority's certificate on an earlier checkpoint of
   this log, of which the export's own is a continuation; so what that checkpoint held existed by then. With
   `--tsa` the authorities are among those given, and every recording has a token.
9. *Listing*: the vault's key signed the list of all other files, so that none of them was exchanged, the
   README and this program among them.

Without `--trust` the keys in the export are used, which shows only that the export agrees with itself.
Exit codes: 0 verified, 1 altered, 2 incomplete, 3 not trusted, 4 cannot be read, 6 `cryptography` is missing,
64 wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
except ImportError:
    if __name__ != "__main__":
        raise
    print("缺少 Python 的 cryptography 库，请先运行 python3 -m pip install cryptography。")
    print("The Python package cryptography is missing: run python3 -m pip install cryptography first.")
    sys.exit(6)
if TYPE_CHECKING:
    from cryptography import x509

Json = dict[str, Any]
UTC = timezone.utc  # noqa: UP017 - whoever verifies may have an older Python than the services need
Progress = Callable[[int, str, str], None]
T = TypeVar("T")

VERIFIED, USAGE = 0, 64
RECEIPT_TYPE = "application/vnd.quancheng.receipt.v1+json"
CLOSING_TYPE = "application/vnd.quancheng.closing.v1+json"
REASONS = ("idle", "endless", "lost", "revoked", "complete", "cancelled")
MANIFEST_TYPE = "application/vnd.quancheng.manifest.v1+json"
SUCCESSION_TYPE = "application/vnd.quancheng.key-succession.v1+json"
MAX_KEYS = 500
TOMBSTONE_TYPE = "application/vnd.quancheng.tombstone.v1+json"
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
TAG_LISTING, TAG_SIGNATURE = "tagmanifest-sha256.txt", "tagmanifest-sha256.sig"
OFFSETS_HEADER = "sequence\toffset\tsize\tsha256\n"
REPEATED = (
    "media",
    "started_at",
    "duration_ms",
    "monotonic_ms",
    "asked_at",
    "sealed_at",
    "key",
    "version",
)
ED25519_NOTE = b"\x01"
COSIGNATURE_V1 = b"\x04"
SALT_SIZE = 32
CHUNK = 1 << 20
RUN = 32 * 1024 * 1024
"""Bytes of media that one core takes at a time, at least."""
SMALL_FILE = 256 << 20

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
NAME = rf"{UUID}(?:\.[1-9][0-9]{{0,3}})?"
"""A recording, or with its number one of the supplements that came after the closing."""
HEX = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
FIXED = (
    *("bagit.txt", "bag-info.txt", "manifest-sha256.txt", "README.md", "verify.py"),
    *("keys/vault.pem", "keys/log.pem", "keys/log.vkey", "checkpoint", "checkpoint.body", "checkpoint.sig"),
)
FORMATS = ("mp4", "ts", "mov", "avi", "mkv", "jpg", "png", "wav", "mp3", "pdf", "bin")
"""What the segments of a recording are when joined, by the extension; the first where nothing is said."""
REMUXER = re.compile("[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]{1,64}")
EACH = ("manifest.dsse.json", "manifest.pae", "manifest.sig", "receipts.jsonl", "offsets.tsv")
EACH_OPEN = ("receipts.jsonl", "offsets.tsv")
TOMBSTONE = ("tombstone.dsse.json", "tombstone.pae", "tombstone.sig")
LAYOUT = re.compile(
    rf"{'|'.join(map(re.escape, FIXED))}|keys/(terminal|vault)-[0-9a-f]{{64}}\.pem|proofs/{UUID}\.tlog-proof"
    rf"|keys/tsa-[0-9a-f]{{64}}\.pem|timestamps/[1-9][0-9]{{0,17}}\.(checkpoint|consistency|tsr)"
    rf"|data/{NAME}\.({'|'.join(FORMATS)})|data/{NAME}\.beside/[0-9]{{10}}-[0-9a-f]{{64}}"
    rf"|recordings/{NAME}/({'|'.join(map(re.escape, EACH))})"
    rf"|(recordings|series)/{UUID}/({'|'.join(map(re.escape, TOMBSTONE))})"
    rf"|data/{UUID}\.open\.({'|'.join(FORMATS)})|data/{UUID}\.open\.beside/[0-9]{{10}}-[0-9a-f]{{64}}"
    rf"|recordings/{UUID}\.open/({'|'.join(map(re.escape, EACH_OPEN))})"
    rf"|data/series/{UUID}/[1-9][0-9]{{0,9}}(-[0-9a-f]{{64}})?|series/{UUID}/receipts\.jsonl"
    rf"|data/copies/{NAME}\.mp4|copies/{NAME}\.json"
)


class VerificationError(Exception):
    """The first thing found wrong: `slug` of SENTENCES and its details, `subject` the file it was found in.

    `code` is the exit code; `chinese` and `english` are a sentence each.
    """

    code = 4

    def __init__(self, slug: str, subject: str = "", **details: object) -> None:
        super().__init__(slug)
        self.slug, self.subject, self.details = slug, subject, details

    @property
    def chinese(self) -> str:
        return f"{self.subject or '内容'}：{SENTENCES[self.slug][0].format(**self.details)}。"

    @property
    def english(self) -> str:
        return f"{self.subject or 'content'}: {SENTENCES[self.slug][1].format(**self.details)}."

    def __str__(self) -> str:
        return self.english


class Altered(VerificationError):
    """Something is not what was signed, or was added."""

    code = 1


class Incomplete(VerificationError):
    """Something that belongs there is missing."""

    code = 2


class Untrusted(VerificationError):
    """A key is not among those trusted."""

    code = 3


class Unreadable(VerificationError):
    """It cannot be read, or is not in the format described above."""

    code = 4


@contextmanager
def within(subject: str) -> Iterator[None]:
    """Name `subject` in any `VerificationError` raised inside that names nothing yet."""
    try:
        yield
    except VerificationError as error:
        error.subject = error.subject or subject
        raise


# --- Small readers --------------------------------------------------------------------------------


def unbase64(text: str) -> bytes:
    """Decode standard base64 strictly: one encoding for each value, no line breaks. Raises `Unreadable`."""
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        value = b""
    if base64.b64encode(value).decode() != text:
        raise Unreadable("not-base64")
    return value


def parse_json(data: bytes | str) -> Json:
    """Parse a JSON object, refusing duplicate names, NaN and what is no object (`Unreadable`)."""

    def unique(pairs: list[tuple[str, Any]]) -> Json:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise ValueError("duplicate name")
        return record

    def constant(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        value = json.loads(data, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Unreadable("not-json")
    return value


def take(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """The member `name` of a JSON object, which must be of type `kind` (`Unreadable`)."""
    value = record.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unreadable("member", name=name)
    return value


def items(record: Mapping[str, Any], name: str, kind: type[T]) -> list[T]:
    """The member `name` of a JSON object, which must be a list of `kind` (`Unreadable`)."""
    return [take({name: item}, name, kind) for item in take(record, name, list)]


# --- Keys and envelopes (DSSE) --------------------------------------------------------------------


def raw_key(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(raw_public_key: bytes) -> str:
    """Lowercase hex SHA-256 of the raw 32-byte Ed25519 public key: its fingerprint and DSSE keyid."""
    return hashlib.sha256(raw_public_key).hexdigest()


def load_public_key(pem: bytes) -> Ed25519PublicKey:
    """Read an Ed25519 public key in PEM (`Unreadable`)."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unreadable("not-a-key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Unreadable("not-a-key")
    return key


def check_signature(key: Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    """Raise `Altered` unless `signature` is the key's Ed25519 signature (RFC 8032) over `message`."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise Altered("bad-signature") from None


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding: the bytes that are signed, the type among them."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def verify_envelope(envelope: Mapping[str, Any], keys: Mapping[str, Ed25519PublicKey], payload_type: str) -> Json:
    """Verify a DSSE envelope and return its decoded payload.

    Every signature by a known key must verify and there must be one; those of unknown keys are passed over.
    The type is the one the caller expects, inside the signed bytes. Raises `Unreadable`, `Untrusted` or
    `Altered`.
    """
    if take(envelope, "payloadType", str) != payload_type:
        raise Altered("wrong-type", kind=payload_type)
    payload = unbase64(take(envelope, "payload", str))
    known = 0
    for signature in items(envelope, "signatures", dict):
        key = keys.get(take(signature, "keyid", str))
        if key is not None:
            check_signature(key, unbase64(take(signature, "sig", str)), pae(payload_type, payload))
            known += 1
    if not known:
        raise Untrusted("no-trusted-signature")
    return parse_json(payload)


def verify_receipt(
    envelope: Mapping[str, Any],
    keys: Mapping[str, Ed25519PublicKey],
    *,
    recording: str,
    sequence: int,
    sha256: str,
    size: int,
) -> Json:
    """Verify a receipt and that it is for exactly these bytes; returns its payload.

    Raises as `verify_envelope`, and `Altered` where it is for others.
    """
    receipt = verify_envelope(envelope, keys, RECEIPT_TYPE)
    for name, expected in (
        ("recording", recording),
        ("sequence", sequence),
        ("sha256", sha256),
        ("size", size),
    ):
        if take(receipt, name, type(expected)) != expected:
            raise Altered("receipt-of-other", name=name)
    return receipt


def raw_public_key(text: str) -> Ed25519PublicKey:
    """Read a raw Ed25519 public key in base64, as the log and the wire have it (`Unreadable`)."""
    data = unbase64(text)
    if len(data) != 32:
        raise Unreadable("not-a-key")
    return Ed25519PublicKey.from_public_bytes(data)


def verify_succession(envelope: Mapping[str, Any], old: Ed25519PublicKey, purpose: str) -> Ed25519PublicKey:
    """The key that `old` handed over to, which signed so too. Raises `Unreadable`, `Untrusted` or `Altered`."""
    told = parse_json(unbase64(take(envelope, "payload", str)))
    new = raw_public_key(take(told, "public_key", str))
    ids = key_id(raw_key(old)), key_id(raw_key(new))
    for identity, key in zip(ids, (old, new)):  # noqa: B905 - Python 3.9
        verify_envelope(envelope, {identity: key}, SUCCESSION_TYPE)
    if (told.get("purpose"), told.get("old"), told.get("new")) != (purpose, *ids) or ids[0] == ids[1]:
        raise Altered("other-succession")
    return new


def follow(
    start: Ed25519PublicKey, successions: Mapping[str, Mapping[str, Any]], purpose: str
) -> list[Ed25519PublicKey]:
    """The keys that successions (by the id of the key that hands over) lead to from `start`, itself the first.
    Raises as `verify_succession` where one does not hold, and `Altered` where they go round."""
    keys, seen = [start], {key_id(raw_key(start))}
    while (envelope := successions.get(key_id(raw_key(keys[-1])))) is not None:
        keys.append(verify_succession(envelope, keys[-1], purpose))
        if (identity := key_id(raw_key(keys[-1]))) in seen or len(keys) > MAX_KEYS:
            raise Altered("other-succession")
        seen.add(identity)
    return keys


# --- Merkle trees (RFC 6962, RFC 9162) ------------------------------------------------------------


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 hash of a leaf's data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """RFC 6962 Merkle tree hash over leaf data, in memory logarithmic in their number."""
    peaks: list[tuple[int, bytes]] = []
    for data in leaves:
        height, top = 0, leaf_hash(data)
        while peaks and peaks[-1][0] == height:
            height, top = height + 1, node_hash(peaks.pop()[1], top)
        peaks.append((height, top))
    if not peaks:
        return hashlib.sha256(b"").digest()
    root = peaks.pop()[1]
    while peaks:
        root = node_hash(peaks.pop()[1], root)
    return root


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check by RFC 9162 section 2.1.3.2 that leaf hash `leaf` is at `index` of the tree; raises `Altered`."""
    node, last, computed = index, size - 1, leaf
    good = 0 <= index < size
    for sibling in proof:
        good = good and last > 0
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if not good or last or computed != root:
        raise Altered("not-included")


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check by RFC 9162 section 2.1.4.2 that the old tree is a prefix of the new one; raises `Altered`.

    An old size of 0 is refused: the empty tree is a prefix of everything, so such a proof proves nothing.
    """
    path = list(proof)
    good = 0 < old_size <= new_size and bool(path) == (old_size != new_size)
    old = new = old_root
    if good and path:
        if old_size & (old_size - 1):
            old = new = path.pop(0)
        node, last = old_size - 1, new_size - 1
        while node & 1:
            node, last = node >> 1, last >> 1
        for hash_ in path:
            good = good and last > 0
            if node & 1 or node == last:
                old, new = node_hash(hash_, old), node_hash(hash_, new)
                while not node & 1 and node:
                    node, last = node >> 1, last >> 1
            else:
                new = node_hash(new, hash_)
            node, last = node >> 1, last >> 1
        good = good and last == 0
    if not good or old != old_root or new != new_root:
        raise Altered("not-consistent")


def segment_leaf(sequence: int, sha256: str, size: int) -> bytes:
    """Leaf data of one segment in the tree whose root a terminal signs at closing."""
    return f"{sequence} {sha256} {size}\n".encode("ascii")


# --- Signed notes, checkpoints and log proofs (C2SP) ----------------------------------------------


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: the key's name, its 4-byte id, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes

    def of(self, key: VerifierKey) -> bool:
        """Whether the line claims to be by `key`."""
        return (self.name, self.key_id) == (key.name, key.key_id)


@dataclass(frozen=True)
class Note:
    """A signed note: the text that is signed (its last newline included) and its signature lines."""

    text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True)
class VerifierKey:
    """A note key `name+id+base64(type || key)`: of a log (Ed25519) or of a witness (cosignature/v1)."""

    name: str
    key_id: bytes
    key: Ed25519PublicKey


@dataclass(frozen=True)
class Checkpoint:
    """A log's tree head: size in entries, 32-byte root."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True)
class Proof:
    """A tlog-proof: unauthenticated extra data, the entry's index, inclusion proof, checkpoint note."""

    extra: bytes
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str


def note_key_id(name: str, raw_public_key: bytes, kind: bytes = ED25519_NOTE) -> bytes:
    """The signed-note id of an Ed25519 key: SHA-256(name || 0x0A || kind || key)[:4]."""
    return hashlib.sha256(name.encode() + b"\n" + kind + raw_public_key).digest()[:4]


def parse_vkey(vkey: str, kind: bytes = ED25519_NOTE) -> VerifierKey:
    """Read a note verifier key, by default a log's, with `COSIGNATURE_V1` a witness's (`Unreadable`)."""
    name, _, rest = vkey.strip().partition("+")
    identity, _, encoded = rest.partition("+")
    material = unbase64(encoded)
    good = bool(name) and not re.search(r"\s", name) and material[:1] == kind and len(material) == 33
    if not good or identity != note_key_id(name, material[1:], kind).hex():
        raise Unreadable("not-a-vkey")
    return VerifierKey(name, bytes.fromhex(identity), Ed25519PublicKey.from_public_bytes(material[1:]))


def parse_note(note: str) -> Note:
    """Split a signed note into text and signatures without verifying anything (`Unreadable`)."""
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not lines.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f]", note):
        raise Unreadable("not-a-note")
    signatures = []
    for line in lines[:-1].split("\n"):
        match = re.fullmatch(r"— ([^\s+]+) (\S+)", line)
        value = unbase64(match[2]) if match else b""
        if not match or len(value) < 5:
            raise Unreadable("bad-signature-line")
        signatures.append(NoteSignature(match[1], value[:4], value[4:]))
    return Note(text + "\n", tuple(signatures))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint: origin, size, root and perhaps extension lines (`Unreadable`)."""
    lines = text[:-1].split("\n")
    root = unbase64(lines[2]) if len(lines) >= 3 else b""
    if not all(lines) or len(root) != 32 or not NUMBER.fullmatch(lines[1]):
        raise Unreadable("not-a-checkpoint")
    return Checkpoint(lines[0], int(lines[1]), root)


def verify_note(note: str, vkey: str) -> Checkpoint:
    """Verify a checkpoint note by the log's key, whose name must be the checkpoint's origin.

    Signatures by other keys (witnesses) are passed over. Raises `Unreadable`, `Untrusted`, `Altered`.
    """
    log, parsed = parse_vkey(vkey), parse_note(note)
    ours = [line for line in parsed.signatures if line.of(log)]
    for line in ours:
        check_signature(log.key, line.signature, parsed.text.encode())
    if not ours:
        raise Untrusted("unsigned-checkpoint")
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != log.name:
        raise Untrusted("other-log")
    return checkpoint


def verify_note_by_any(note: str, vkeys: Iterable[str]) -> Checkpoint:
    """As `verify_note`, by whichever of a log's keys signed the note."""
    fault = Untrusted("unsigned-checkpoint")
    for vkey in vkeys:
        try:
            return verify_note(note, vkey)
        except Untrusted as error:
            fault = error
    raise fault


def parse_witnesses(vkeys: Iterable[str]) -> tuple[VerifierKey, ...]:
    """Read witnesses' keys; one key under two names would count twice and is refused (`Unreadable`)."""
    keys = []
    for vkey in vkeys:
        with within(vkey):
            keys.append(parse_vkey(vkey, COSIGNATURE_V1))
            if raw_key(keys[-1].key) in [raw_key(one.key) for one in keys[:-1]]:
                raise Unreadable("same-witness")
    return tuple(keys)


def verify_cosignatures(note: str, witnesses: Iterable[VerifierKey]) -> dict[str, int]:
    """Which of these witnesses cosigned a checkpoint note, by name, and when (POSIX seconds).

    Lines by unknown keys are passed over; one that claims a known key and does not verify raises `Altered`.
    """
    parsed = parse_note(note)
    found: dict[str, int] = {}
    for witness in witnesses:
        for line in parsed.signatures:
            if line.of(witness):
                at = int.from_bytes(line.signature[:8], "big")
                if len(line.signature) != 72 or not 0 < at < 1 << 63:
                    raise Unreadable("bad-signature-line")
                message = b"cosignature/v1\ntime %d\n" % at + parsed.text.encode()
                check_signature(witness.key, line.signature[8:], message)
                found[witness.name] = max(at, found.get(witness.name, 0))
    return found


def parse_proof(text: str) -> Proof:
    """Read a C2SP tlog-proof without verifying it; without an `extra` line it is empty (`Unreadable`)."""
    head, separator, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    extra = b""
    if len(lines) > 1 and lines[1].startswith("extra "):
        extra = unbase64(lines.pop(1)[6:])
    index = lines[1][6:] if len(lines) > 1 and lines[1].startswith("index ") else ""
    hashes = tuple(unbase64(line) for line in lines[2:])
    if not separator or lines[0] != PROOF_HEADER or not NUMBER.fullmatch(index) or {len(h) for h in hashes} - {32}:
        raise Unreadable("not-a-proof")
    return Proof(extra, int(index), hashes, checkpoint)


def verify_proof(proof: Proof, leaf_data: bytes, vkey: str) -> Checkpoint:
    """Verify that `leaf_data` is in the log of `vkey`; returns the checkpoint. Raises as `verify_note`."""
    checkpoint = verify_note(proof.checkpoint, vkey)
    verify_inclusion(proof.index, checkpoint.size, leaf_hash(leaf_data), proof.hashes, checkpoint.root)
    return checkpoint


def statement_leaf(salt: bytes, statement: bytes) -> bytes:
    """Leaf data of a private statement: SHA-256(32 random bytes || statement)."""
    if len(salt) != SALT_SIZE:
        raise Unreadable("bad-salt")
    return hashlib.sha256(salt + statement).digest()


# --- Time-stamp tokens (RFC 3161, CMS RFC 5652) -----------------------------------------------------

SIGNED_DATA, TST_INFO = "2a864886f70d010702", "2a864886f70d0109100104"
CONTENT_TYPE, MESSAGE_DIGEST = "2a864886f70d010903", "2a864886f70d010904"
SIGNING_CERTIFICATE = {"2a864886f70d010910020c": "sha1", "2a864886f70d010910022f": "sha256"}
HASHES = {
    **dict.fromkeys(("608648016503040201", "2a864886f70d01010b", "2a8648ce3d040302"), "sha256"),
    **dict.fromkeys(("608648016503040202", "2a864886f70d01010c", "2a8648ce3d040303"), "sha384"),
    **dict.fromkeys(("608648016503040203", "2a864886f70d01010d", "2a8648ce3d040304"), "sha512"),
}
"""By object identifier: the digests, and the same within RSA and ECDSA signature algorithms."""

Der = list[tuple[int, bytes]]


def _der(data: bytes) -> Der:
    """The DER elements that `data` consists of, as tag and content. Raises ValueError."""
    found, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length > 127:
            size = length & 127
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if tag & 31 == 31 or at + length > len(data):
            raise ValueError("not DER")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def _oid(data: bytes) -> str:
    """The object identifier that a sequence begins with, as the hex of its content."""
    return _der(data)[0][1].hex()


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read a time-stamping authority's certificate in PEM, the first of the file (`Unreadable`)."""
    from cryptography import x509  # Loading it takes as long as loading all else; only tokens need it.

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Unreadable("not-a-certificate") from None


def certificate_id(certificate: x509.Certificate) -> str:
    """Lowercase hex SHA-256 of the certificate (DER): its fingerprint."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def verify_timestamp(response: bytes, data: bytes, certificate: x509.Certificate) -> datetime:
    """Verify that an RFC 3161 response is a token on `data` by exactly this certificate; returns its time.

    Checked: granted; imprint (SHA-256, 384, 512); signed content type and digest; the certificate named in the
    signed attributes; the signature (RSA PKCS#1, ECDSA, Ed25519); the certificate's purpose and its validity
    at that time. Not checked: the certificate's issuers and revocation, since it is trusted itself. Raises
    `Altered`, `Untrusted`, `Unreadable`.
    """
    try:
        status, (_, content) = _der(_der(response)[0][1])
        signed = _der(_der(_der(content)[1][1])[0][1])
        info = _der(_der(_der(signed[2][1])[1][1])[0][1])
        tst = _der(_der(signed[2][1])[1][1])[0][1]
        (signer,) = _der(signed[-1][1])
        _, _, algorithm, attributes, scheme, signature = _der(signer[1])[:6]
        signed_attributes = {_oid(one): _der(_der(one)[1][1])[0] for _, one in _der(attributes[1])}
        digest, told = HASHES[_oid(algorithm[1])], HASHES.get(_oid(scheme[1]))
        whole = (_oid(content), _oid(signed[2][1]), attributes[0], signer[0], int(_der(status[1])[0][1].hex(), 16))
        named = [(kind, one) for oid, kind in SIGNING_CERTIFICATE.items() if (one := signed_attributes.get(oid))]
        tst_fields = _der(_der(tst)[0][1])
        imprint = _der(tst_fields[2][1])
        stamp = tst_fields[4][1].decode("ascii").partition(".")[0].rstrip("Z")
        moment = datetime.strptime(stamp, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        good_imprint = hashlib.new(HASHES[_oid(imprint[0][1])], data).digest() == imprint[1][1]
        ids = [(kind, _der(_der(_der(one[1])[0][1])[0][1])) for kind, one in named]
        good_content = signed_attributes[CONTENT_TYPE][1].hex() == TST_INFO
        good_digest = signed_attributes[MESSAGE_DIGEST][1] == hashlib.new(digest, tst).digest()
        # ESSCertIDv2 names its digest only where that is not SHA-256.
        ids = [(HASHES.get(_oid(one[0][1]), "") if one[0][0] == 0x30 else usual, one) for usual, one in ids]
    except (ValueError, IndexError, KeyError):
        raise Unreadable("not-a-token") from None
    if whole[:4] != (SIGNED_DATA, TST_INFO, 0xA0, 0x30) or whole[4] not in {0, 1} or not info:
        raise Unreadable("not-a-token")
    if not good_imprint or not good_content or not good_digest:
        raise Altered("token-of-other")
    raw = certificate.public_bytes(Encoding.DER)
    for kind, fields in ids:
        if not kind or hashlib.new(kind, raw, usedforsecurity=False).digest() not in [value for _, value in fields]:
            raise Untrusted("other-authority")
    if not ids:
        raise Unreadable("not-a-token")
    key, message = certificate.public_key(), b"\x31" + _length(attributes[1]) + attributes[1]
    chosen = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[told or digest]
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature[1], message, padding.PKCS1v15(), chosen)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature[1], message, ec.ECDSA(chosen))
        elif isinstance(key, Ed25519PublicKey):
            key.verify(signature[1], message)
        else:
            raise Unreadable("not-a-certificate")
    except InvalidSignature:
        raise Altered("bad-signature") from None
    _check_authority(certificate, moment)
    return moment


def _length(content: bytes) -> bytes:
    size = (len(content).bit_length() + 7) // 8
    return bytes([len(content)]) if len(content) < 128 else bytes([128 | size]) + len(content).to_bytes(size, "big")


def _check_authority(certificate: x509.Certificate, moment: datetime) -> None:
    """The certificate is for time stamps alone (RFC 3161 section 2.3) and was valid at `moment`."""
    from cryptography import x509

    try:
        purpose = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        good = purpose.critical and list(purpose.value) == [x509.oid.ExtendedKeyUsageOID.TIME_STAMPING]
    except (x509.ExtensionNotFound, ValueError):
        good = False
    if not good:
        raise Untrusted("no-authority")
    # Older releases of the library know only the times without a zone.
    first, last = (
        getattr(certificate, f"{name}_utc", None) or getattr(certificate, name).replace(tzinfo=UTC)
        for name in ("not_valid_before", "not_valid_after")
    )
    if not first <= moment <= last:
        raise Untrusted("authority-lapsed")


# --- The export, step by step ---------------------------------------------------------------------


@dataclass
class Report:
    """What a verification found: `code` is the exit code, `chinese` and `english` say the verdict.

    `slug` and `subject` name the first thing wrong and its file, `fingerprints` are key ids by file, `steps`
    the numbered sentences. `trusted` is set once the bundle's keys were found among those given.
    """

    code: int = VERIFIED
    slug: str = ""
    chinese: str = ""
    english: str = ""
    subject: str = ""
    trusted: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[int, str, str]] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    segments: int = 0
    size: int = 0
    stamped: dict[str, datetime] = field(default_factory=dict)
    """By recording: the earliest time at which tokens covered its manifest and all its supplements."""
    open: list[str] = field(default_factory=list)
    """Recordings with sealed segments that no manifest holds yet."""
    series: list[str] = field(default_factory=list)
    disposed: dict[str, str] = field(default_factory=dict)
    """Recordings and series without their media, and when they were disposed of (RFC 3339)."""
    copies: list[str] = field(default_factory=list)


@dataclass
class _Recording:
    """One recording of the bundle, or a supplement to one, as its verified manifest tells it."""

    name: str
    id: str
    number: int
    manifest: Json
    manifest_sha256: str
    segments: list[Json]
    beside: list[Json]
    open: bool = False
    """No manifest holds it yet."""

    @property
    def media(self) -> str:
        """Its media file."""
        return f"data/{self.name}.{_format(self.manifest)}"

    @property
    def subject(self) -> str:
        """The file that says what there is of it."""
        return f"recordings/{self.name}/{'receipts.jsonl' if self.open else 'manifest.dsse.json'}"


@dataclass
class _Series:
    """A series of the bundle, as its receipts tell it."""

    id: str
    versions: list[Json]
    """In the order of the receipts; more than one of a number where it was sealed with different content."""

    @property
    def subject(self) -> str:
        return f"series/{self.id}/receipts.jsonl"

    def files(self) -> dict[str, Json]:
        """The file of each version: the first of its number by that alone, others with their digest."""
        named: dict[str, Json] = {}
        for one in self.versions:
            plain = f"data/series/{self.id}/{one['sequence']}"
            named[f"{plain}-{one['sha256']}" if plain in named else plain] = one
        return named


@dataclass
class _Tombstone:
    """What is left of a recording or series that was disposed of, as the vault signed it."""

    id: str
    subject: str
    said: Json


@dataclass
class _Keys:
    """The keys of the bundle. What the log tells of the vault's own is read here and its proofs checked in step 6."""

    signer: str
    """Id of the key that signed the listing."""
    vault: dict[str, Ed25519PublicKey]
    vkey: str
    """Of the log, the key that signed the checkpoint; `vkeys` are those of its keys that the log tells of, too."""
    vkeys: list[str]
    terminals: dict[str, Ed25519PublicKey]
    revoked: dict[str, int]
    """By id of a key of the vault, the index of the statement of its revocation."""
    revoked_terminals: dict[str, int]
    """The same of terminals' keys. Apart, since who revokes one may name any id."""
    followed: int = 0
    """Successions that led from trusted keys to those that signed."""


def verify_bundle(
    path: str | Path,
    trusted_keys: Mapping[str, Ed25519PublicKey] | None = None,
    progress: Progress | None = None,
    *,
    witnesses: Sequence[VerifierKey] = (),
    need: int = 0,
    authorities: Mapping[str, x509.Certificate] | None = None,
    twice: bool = False,
    origins: Collection[str] = (),
) -> Report:
    """Verify an unpacked export; never raises for what is wrong with it, but says so in the `Report`.

    `trusted_keys` (by key id, see `load_trust`) must hold both the vault's and the log's key, or earlier ones that
    successions lead on from; without it the keys of the bundle are used. Where `origins` (see `load_origins`) are
    given, the log bears one of these names: one key may sign two logs, and witnesses watch each by its name.
    At least `need` of `witnesses` (see `parse_witnesses`) must have cosigned the checkpoint; cosignatures of others
    are named and not verified. With `authorities` (by `certificate_id`) every recording must be stamped with all its
    supplements, and by one of them. With `twice` the digests of whole media files are computed beside those of their
    segments. `progress` is told the number and sentences of each step as it is done. Memory does not grow with the
    size of the media.
    """
    report, root = Report(), Path(path)

    def done(number: int, slug: str, **details: object) -> None:
        chinese, english = (sentence.format(**details) for sentence in SENTENCES[slug])
        report.steps.append((number, chinese, english))
        if progress:
            progress(number, chinese, english)

    try:
        # 1. Bag.
        files, payload = _check_bag(root)
        done(1, "bag", files=len(files))
        # 2. Keys.
        keys = _check_keys(root, files, trusted_keys, report)
        vault, vkey, terminals = keys.vault, keys.vkey, keys.terminals
        done(2, "keys" if report.trusted else "keys-own")
        if keys.followed:
            done(2, "keys-followed", count=keys.followed)
        if keys.revoked or keys.revoked_terminals:
            done(2, "keys-revoked", count=len(keys.revoked) + len(keys.revoked_terminals))
        # 3. Checkpoint.
        note, checkpoint = _check_checkpoint(root, vkey)
        if origins and checkpoint.origin not in origins:
            raise Untrusted("other-log", "checkpoint")
        done(3, "checkpoint", origin=checkpoint.origin, size=checkpoint.size)
        cosigned, others = _check_witnesses(note, keys.vkeys, witnesses, need)
        if witnesses:
            done(3, "cosigned", have=len(cosigned), need=need, names=", ".join(cosigned) or "-")
        if others:
            done(3, "cosigned-unchecked", count=len(others), names=", ".join(others))
        # 4. Manifests.
        report.recordings = _folders(files, "recordings", "/manifest.dsse.json")
        recordings = [_check_manifest(root, name, vault, terminals) for name in report.recordings]
        _check_supplements(recordings)
        unclosed = [_check_open(root, name, vault) for name in _folders(files, "recordings", ".open/receipts.jsonl")]
        series = [_check_series(root, id_, vault) for id_ in _folders(files, "series", "/receipts.jsonl")]
        _check_listed_once(recordings, unclosed)
        tombstones = _check_tombstones(root, files, vault, [*recordings, *unclosed], series)
        for identity in sorted(set(terminals) - {one.manifest["source"].get("key_id") for one in recordings}):
            raise Altered("unused-key", f"keys/terminal-{identity}.pem")
        report.segments = sum(len(one.segments) for one in recordings)
        done(4, "manifests", recordings=len({one.id for one in recordings}), segments=report.segments)
        if supplements := sum(one.number > 0 for one in recordings):
            done(4, "supplements", supplements=supplements)
        for one in recordings:
            if one.manifest["closed_by"] == "server":
                slug = "whole" if "whole" in one.manifest else "by-server"
                done(4, slug, name=one.name, reason=one.manifest["reason"])
            elif over := parse_json(unbase64(one.manifest["closing"]["payload"])).get("taken_over"):
                slug = "taken-over" if "whole" in one.manifest else "taken-over-in-part"
                done(4, slug, name=one.name, at=over["at"], reason=over["reason"])
        for one in [*recordings, *unclosed]:
            if "remuxed_by" in one.manifest:
                done(4, "remuxed", name=one.name, by=one.manifest["remuxed_by"])
        present = [one for one in [*recordings, *unclosed] if one.id not in tombstones]
        beside = {f"data/{one.name}.beside/{_name(each)}": each for one in present for each in one.beside}
        versions = {name: each for one in series if one.id not in tombstones for name, each in one.files().items()}
        copies = _check_copies(root, files, recordings)
        media = {one.media for one in present}
        for name in sorted(media - payload.keys()):
            raise Incomplete("missing", name)
        _same_files("manifest-sha256.txt", {*media, *beside, *versions, *copies}, payload)
        if beside:
            done(4, "beside", segments=len(beside))
        report.open, report.series = sorted(one.id for one in unclosed), sorted(one.id for one in series)
        for one in unclosed:
            done(4, "open", name=one.id, segments=len(one.segments) + len(one.beside))
        if series:
            done(4, "series", series=len(series), versions=sum(len(one.versions) for one in series))
        # 7. Media: every byte is hashed while the next steps are taken, and what is found is said after theirs.
        tasks = _media_tasks(root, present, payload, twice=twice)
        tasks += [partial(_check_beside, root, *named, payload[named[0]]) for named in {**beside, **versions}.items()]
        with _OnAllCores(tasks) as hashing:
            # 5. Receipts.
            for one in recordings:
                _check_receipts(root, one, vault)
            apart = sum(len(one.segments) + len(one.beside) for one in unclosed)
            apart += sum(len(one.versions) for one in series)
            done(5, "receipts", segments=report.segments + apart)
            # 6. Proofs.
            proofs = [name for name in files if name.startswith("proofs/")]
            proved = [_check_proof(root, name, note, checkpoint) for name in proofs]
            statements = [said for said, _ in proved]
            _check_statements(statements, [*recordings, *unclosed], terminals, [one.id for one in series], tombstones)
            _check_versions(statements, series)
            _check_revoked(root, proved, [*recordings, *unclosed], series, tombstones, keys)
            done(6, "proofs", proofs=len(proofs))
            for tombstone in tombstones.values():
                order = _check_disposal(statements, tombstone, recordings)
                report.disposed[tombstone.id] = tombstone.said["disposed_at"]
                done(6, "disposed", name=tombstone.id, at=tombstone.said["disposed_at"], order=order)
            hashing.finish()
        report.size = sum(each["size"] for one in present for each in one.segments)
        report.size += sum(each["size"] for each in [*beside.values(), *versions.values()])
        done(7, "media", size=report.size)
        with _OnAllCores([partial(_check_copy, root, n, made, payload[n]) for n, made in copies.items()]) as remuxed:
            remuxed.finish()
        report.copies = sorted(copies)
        if copies:
            done(7, "copies", copies=len(copies))
        # 8. Time.
        stamps = _check_timestamps(root, files, keys.vkeys, checkpoint, authorities)
        report.stamped = _stamped_recordings(recordings, proved, stamps, need=authorities is not None)
        if stamps:
            at = f"{max(report.stamped.values()):%Y-%m-%d %H:%M:%S}" if report.stamped else "-"
            slug = "stamps-own" if authorities is None else "stamps"
            done(8, slug, tokens=len(stamps), recordings=len(report.stamped), at=at)
        # 9. Listing.
        with within(TAG_LISTING):
            check_signature(vault[keys.signer], _read(root, TAG_SIGNATURE), _read(root, TAG_LISTING))
        done(9, "listing")
        verdict = SENTENCES[("verified-open" if unclosed else "verified") if report.trusted else "consistent"]
        report.chinese, report.english = (f"{verdict[0]}。", f"{verdict[1]}.")
    except VerificationError as error:
        report.code, report.slug, report.subject = error.code, error.slug, error.subject
        report.chinese, report.english = error.chinese, error.english
    except OSError as error:
        unreadable = Unreadable("unreadable", os.fspath(error.filename or path), reason=error.strerror)
        report.code, report.slug, report.subject = unreadable.code, unreadable.slug, unreadable.subject
        report.chinese, report.english = unreadable.chinese, unreadable.english
    return report


def _read(root: Path, name: str) -> bytes:
    """A whole small file of the bundle."""
    try:
        with open(root / name, "rb") as file:
            if os.fstat(file.fileno()).st_size > SMALL_FILE:
                raise Unreadable("too-large", name)
            return file.read()
    except FileNotFoundError:
        raise Incomplete("missing", name) from None


def _read_text(root: Path, name: str) -> str:
    try:
        return _read(root, name).decode()
    except UnicodeDecodeError:
        raise Unreadable("not-text", name) from None


def _lines(root: Path, name: str) -> list[str]:
    """Lines end in newline alone; `splitlines` would also cut at characters that JSON may hold unescaped."""
    text = _read_text(root, name)
    return text.removesuffix("\n").split("\n") if text else []


def _listing(root: Path, name: str) -> dict[str, str]:
    """Path to digest, from a file in the format of sha256sum."""
    listed: dict[str, str] = {}
    for line in _lines(root, name):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise Unreadable("not-a-listing", name, line=line)
        if match[2] in listed or not LAYOUT.fullmatch(match[2]):
            raise Altered("out-of-place", name, path=match[2])
        if match[2].startswith("data/") != (name == "manifest-sha256.txt"):
            raise Altered("other-listing", name, path=match[2])
        listed[match[2]] = match[1]
    return listed


def _walk(root: Path) -> list[str]:
    """Every file beneath `root` as a relative path with slashes; refuses links and special files."""
    found = []

    def fail(error: OSError) -> NoReturn:
        raise error

    for folder, folders, names in os.walk(root, onerror=fail):
        for name in [*folders, *names]:
            entry = Path(folder, name)
            relative, mode = entry.relative_to(root).as_posix(), entry.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise Altered("link", relative)
            if stat.S_ISREG(mode):
                found.append(relative)
    return sorted(found)


def _check_bag(root: Path) -> tuple[list[str], dict[str, str]]:
    """Step 1. Returns all files but the tag manifest, and the listed digests of the media."""
    if not root.is_dir():
        raise Unreadable("not-a-folder", os.fspath(root))
    found = _walk(root)
    tags = _listing(root, "tagmanifest-sha256.txt")
    _same_files(
        "tagmanifest-sha256.txt",
        tags,
        [f for f in found if not f.startswith("data/") and f not in (TAG_LISTING, TAG_SIGNATURE)],
    )
    for name, digest in tags.items():
        if hashlib.sha256(_read(root, name)).hexdigest() != digest:
            raise Altered("digest", name, listing="tagmanifest-sha256.txt")
    payload = _listing(root, "manifest-sha256.txt")
    _same_files("manifest-sha256.txt", payload, [f for f in found if f.startswith("data/")])
    if _read(root, "bagit.txt") != b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n":
        raise Unreadable("not-a-bag", "bagit.txt")
    needed = _needed(found)
    if not needed:
        raise Incomplete("no-recording", "recordings")
    for name in sorted({TAG_SIGNATURE, *FIXED, *needed} - set(found)):
        raise Incomplete("missing", name)
    return [name for name in found if name not in (TAG_LISTING, TAG_SIGNATURE)], payload


def _needed(found: list[str]) -> set[str]:
    """The files but the media that belong to each recording and series of which any file was found."""
    needed: set[str] = set()
    folders = {tuple(name.split("/")[:2]) for name in found if name.startswith(("recordings/", "series/"))}
    for name in found:
        parts = name.split("/")
        if parts[0] == "data" and parts[1] not in {"series", "copies"}:
            folders.add(("recordings", parts[1].rpartition(".")[0]))
        elif parts[:2] == ["data", "series"]:
            folders.add(("series", parts[2]))
    there = set(found)
    for top, name in folders:
        stem = f"{top}/{name.partition('.')[0]}"
        gone = any(f"{stem}/{one}" in there for one in TOMBSTONE)
        needed |= {f"{stem}/{one}" for one in TOMBSTONE} if gone else set()
        if top == "series":
            needed.add(f"{stem}/receipts.jsonl")
            continue
        needed |= {f"{top}/{name}/{one}" for one in (EACH_OPEN if name.endswith(".open") else EACH)}
    return needed


def _folders(files: Iterable[str], top: str, end: str) -> list[str]:
    """The names of the folders below `top` that hold the file that `end` says."""
    return sorted(
        name[len(top) + 1 : -len(end)] for name in files if name.startswith(f"{top}/") and name.endswith(end)
    )


def _same_files(listing: str, listed: Iterable[str], found: Iterable[str]) -> None:
    for name in sorted(set(listed) - set(found)):
        raise Incomplete("listed-missing", name, listing=listing)
    for name in sorted(set(found) - set(listed)):
        raise Altered("unlisted", name, listing=listing)


def _check_keys(
    root: Path, files: list[str], trusted: Mapping[str, Ed25519PublicKey] | None, report: Report
) -> _Keys:
    """Step 2."""
    loaded = {}
    for name in files:
        if name.startswith("keys/") and name.endswith(".pem") and not name.startswith("keys/tsa-"):
            with within(name):
                loaded[name] = load_public_key(_read(root, name))
    report.fingerprints = {name: key_id(raw_key(key)) for name, key in loaded.items()}
    with within("keys/log.vkey"):
        vkey = _read_text(root, "keys/log.vkey")
        log = parse_vkey(vkey)
        if key_id(raw_key(log.key)) != report.fingerprints["keys/log.pem"]:
            raise Altered("other-vkey")
    for name in loaded:
        kind, _, identity = name[len("keys/") : -len(".pem")].partition("-")
        if kind in ("terminal", "vault") and identity not in ("", report.fingerprints[name]):
            raise Altered("key-name", name)
    keys = _Keys(report.fingerprints["keys/vault.pem"], {}, vkey, [vkey], {}, {}, {})
    statements = _statements_of_keys(root, files)
    told = _told_of_keys(statements, keys)
    for name, key in loaded.items():
        identity = report.fingerprints[name]
        if name.startswith("keys/terminal-"):
            keys.terminals[identity] = key
        elif name.startswith("keys/vault"):
            keys.vault[identity] = key
            if name != "keys/vault.pem" and ("receipt", identity) not in told:
                raise Incomplete("no-key-proof", name)
    for purpose, identity in told:
        known = told[purpose, identity]
        if purpose == "log" and identity != report.fingerprints["keys/log.pem"]:
            material = base64.b64encode(ED25519_NOTE + raw_key(known)).decode()
            keys.vkeys.append(f"{log.name}+{note_key_id(log.name, raw_key(known)).hex()}+{material}")
    for name in ("keys/vault.pem", "keys/log.pem"):
        if report.fingerprints[name] in keys.revoked:
            raise Untrusted("revoked-key", name)
    if trusted is not None:
        for name, purpose in (("keys/vault.pem", "receipt"), ("keys/log.pem", "log")):
            with within(name):
                keys.followed += _lead(statements, trusted, report.fingerprints[name], purpose, keys.revoked)
        report.trusted = True
    return keys


def _statements_of_keys(root: Path, files: list[str]) -> list[tuple[str, Json, int]]:
    """Step 2: the statements on keys, with file and index, before anything is checked: step 6 checks them all."""
    found = []
    for name in files:
        if name.startswith("proofs/"):
            with within(name):
                proof = parse_proof(_read_text(root, name))
                if b'"key"' in proof.extra or b'"revocation"' in proof.extra:
                    found.append((name, parse_json(proof.extra[SALT_SIZE:]), proof.index))
    return found


def _told_of_keys(statements: list[tuple[str, Json, int]], keys: _Keys) -> dict[tuple[str, str], Ed25519PublicKey]:
    """Step 2: what the log tells of the vault's own keys, by purpose and id; and of those revoked, since when."""
    told = {}
    for name, said, index in statements:
        with within(name):
            if said.get("kind") == "key":
                key = raw_public_key(take(said, "public_key", str))
                if take(said, "key_id", str) != key_id(raw_key(key)):
                    raise Altered("key-name")
                told[take(said, "purpose", str), said["key_id"]] = key
            elif said.get("kind") == "revocation":
                revoked = keys.revoked_terminals if said.get("purpose") == "recorder" else keys.revoked
                identity = take(said, "key_id", str)
                revoked[identity] = min(index, revoked.get(identity, index))
    return told


def _lead(
    statements: list[tuple[str, Json, int]],
    trusted: Mapping[str, Ed25519PublicKey],
    signer: str,
    purpose: str,
    revoked: Mapping[str, int],
) -> int:
    """Step 2: how many successions lead from a trusted key to the one that signed; raises `Untrusted` where none do.
    One that the log tells after the revocation of the key that hands over leads nowhere."""
    if signer in trusted:
        return 0
    successions = {}
    for _, said, index in statements:
        if (said.get("kind"), said.get("purpose")) == ("key", purpose) and isinstance(said.get("succession"), dict):
            old = take(said, "replaces", str)
            if index < revoked.get(old, index + 1):
                successions[old] = said["succession"]
    for start in trusted.values():
        ids = [key_id(raw_key(key)) for key in follow(start, successions, purpose)]
        if signer in ids:
            return ids.index(signer)
    raise Untrusted("untrusted-key")


def _check_checkpoint(root: Path, vkey: str) -> tuple[str, Checkpoint]:
    """Step 3. Returns the note and what it says."""
    with within("checkpoint"):
        note = _read_text(root, "checkpoint")
        checkpoint = verify_note(note, vkey)
        parsed, log = parse_note(note), parse_vkey(vkey)
    if _read(root, "checkpoint.body") != parsed.text.encode():
        raise Altered("raw-body", "checkpoint.body")
    if _read(root, "checkpoint.sig") not in [one.signature for one in parsed.signatures if one.of(log)]:
        raise Altered("raw-signature", "checkpoint.sig")
    return note, checkpoint


def _check_witnesses(
    note: str, vkeys: Sequence[str], witnesses: Sequence[VerifierKey], need: int
) -> tuple[list[str], list[str]]:
    """Step 3, the witnesses: names of those that cosigned, and of the lines nobody gave a key for. The log's earlier
    key may have signed beside the one that took over."""
    with within("checkpoint"):
        logs, parsed = [parse_vkey(vkey) for vkey in vkeys], parse_note(note)
        for log in logs:
            for line in parsed.signatures:
                if line.of(log):
                    check_signature(log.key, line.signature, parsed.text.encode())
        cosigned = verify_cosignatures(note, witnesses)
        if len(cosigned) < need:
            raise Untrusted("too-few-witnesses", have=len(cosigned), need=need)
        known = [*logs, *witnesses]
        others = [one.name for one in parsed.signatures if not any(one.of(key) for key in known)]
        return sorted(cosigned), others


def _check_manifest(
    root: Path, name: str, vault: dict[str, Ed25519PublicKey], terminals: dict[str, Ed25519PublicKey]
) -> _Recording:
    """Step 4 for one recording or supplement."""
    folder = f"recordings/{name}"
    id_, _, number = name.partition(".")
    with within(f"{folder}/manifest.dsse.json"):
        data = _read(root, f"{folder}/manifest.dsse.json")
        envelope = parse_json(data)
        manifest = verify_envelope(envelope, vault, MANIFEST_TYPE)
        _told_of_media(manifest)
        source, segments = take(manifest, "source", dict), _segments(manifest)
        if take(manifest, "recording", str) != id_ or take(manifest, "number", int) != int(number or 0):
            raise Altered("other-recording")
        if (signer := source.get("key_id")) is not None and take(source, "key_id", str) not in terminals:
            raise Incomplete("no-terminal-key", name=signer)
        signed = [manifest]
        if take(manifest, "closed_by", str) != "server":
            key = {signer: terminals[signer]} if signer is not None else {}
            signed.append(verify_envelope(take(manifest, "closing", dict), key, CLOSING_TYPE))
        elif "closing" in manifest or take(manifest, "reason", str) not in REASONS:
            raise Unreadable("member", name="reason")
        over = _taken_over(signed[-1], manifest) if "closing" in manifest else None
        all_there = over is not None and not take(signed[-1], "missing", list)
        if ("whole" in manifest) != (all_there or manifest.get("reason") == "complete"):
            raise Unreadable("member", name="whole")
        if over and all_there and manifest["whole"] != {n: over[n] for n in ("sha256", "size")}:
            raise Altered("count", name="whole")
        if "whole" in manifest:
            whole = take(manifest, "whole", dict)
            if not HEX.fullmatch(take(whole, "sha256", str)):
                raise Unreadable("member", name="whole")
            if take(whole, "size", int) != sum(s["size"] for s in segments):
                raise Altered("count", name="whole")
        closing = signed[-1]
        beside = [{**one, "sequence": take(one, "of_sequence", int)} for one in items(manifest, "beside", dict)]
        for one in beside:
            sized = take(one, "size", int) > 0 and HEX.fullmatch(take(one, "sha256", str))
            if not sized or not 0 <= one["sequence"] < 1 << 31:
                raise Unreadable("bad-segment", before=one["sequence"])
        root_hash = merkle_root(segment_leaf(s["sequence"], s["sha256"], s["size"]) for s in segments).hex()
        for time in ("started_at", "ended_at"):
            if take(manifest, time, str) != take(closing, time, str):
                raise Altered("count", name=time)
        for name_, computed in (("recording", id_), ("count", len(segments)), ("root", root_hash)):
            if any(take(one, name_, type(computed)) != computed for one in signed):
                raise Altered("count", name=name_)
        missing = take(closing, "missing", list)
        if take(manifest, "missing", list) != missing:
            raise Altered("missing-differ")
        sequences = [s["sequence"] for s in segments]
        if not number and {*sequences, *items(closing, "missing", int)} != set(range(len(segments) + len(missing))):
            raise Incomplete("undeclared")
        if closing is not manifest:
            told = (closing.get("number", 0), closing.get("sequences"))
            if told != ((int(number), sequences) if number else (0, None)):
                raise Altered("count", name="sequences")
    signatures = [unbase64(s["sig"]) for s in envelope["signatures"] if s["keyid"] in vault]
    if _read(root, f"{folder}/manifest.pae") != pae(MANIFEST_TYPE, unbase64(envelope["payload"])):
        raise Altered("raw-body", f"{folder}/manifest.pae")
    if _read(root, f"{folder}/manifest.sig") not in signatures:
        raise Altered("raw-signature", f"{folder}/manifest.sig")
    offset, lines = 0, [OFFSETS_HEADER]
    for segment in segments:
        lines.append(f"{segment['sequence']}\t{offset}\t{segment['size']}\t{segment['sha256']}\n")
        offset += segment["size"]
    if _read(root, f"{folder}/offsets.tsv") != "".join(lines).encode():
        raise Altered("offsets", f"{folder}/offsets.tsv")
    digest = hashlib.sha256(data).hexdigest()
    return _Recording(name, id_, int(number or 0), manifest, digest, segments, beside)


def _taken_over(closing: Json, manifest: Json) -> Json | None:
    """Step 4: what the terminal signed of a file that it took over from a recorder."""
    if "taken_over" not in closing:
        return None
    told = take(closing, "taken_over", dict)
    for name in ("at", "reason"):
        take(told, name, str)
    if take(told, "format", str) != manifest.get("format", "mp4"):
        raise Altered("count", name="format")
    if take(told, "size", int) < 1 or not HEX.fullmatch(take(told, "sha256", str)):
        raise Unreadable("member", name="taken_over")
    return told


def _check_supplements(recordings: list[_Recording]) -> None:
    """Step 4, over all: supplements are numbered without a gap, and none lists what another manifest lists."""
    numbers, listed = {(one.id, one.number) for one in recordings}, set()
    for one in recordings:
        subject = f"recordings/{one.name}/manifest.dsse.json"
        if one.number and (one.id, one.number - 1) not in numbers:
            raise Incomplete("no-earlier-manifest", subject)
        for segment in one.segments + one.beside:
            if (place := (one.id, segment["sequence"], segment["sha256"])) in listed:
                raise Altered("listed-twice", subject, sequence=segment["sequence"])
            listed.add(place)


def _check_listed_once(recordings: list[_Recording], unclosed: list[_Recording]) -> None:
    """Step 4, over all: what is open is in no manifest, and nothing in it comes twice."""
    listed = {
        (one.id, segment["sequence"], segment["sha256"])
        for one in recordings
        for segment in one.segments + one.beside
    }
    for one in unclosed:
        for segment in one.segments + one.beside:
            if (place := (one.id, segment["sequence"], segment["sha256"])) in listed:
                raise Altered("listed-twice", one.subject, sequence=segment["sequence"])
            listed.add(place)


def _receipted(root: Path, name: str, id_: str, vault: dict[str, Ed25519PublicKey]) -> list[Json]:
    """What the receipts of a file say there is of a recording or series, in their order."""
    found: list[Json] = []
    for line in _lines(root, name):
        with within(name):
            receipt = verify_envelope(parse_json(line), vault, RECEIPT_TYPE)
            if take(receipt, "recording", str) != id_:
                raise Altered("receipt-of-other", name="recording")
            sequence, size = take(receipt, "sequence", int), take(receipt, "size", int)
            if not 0 <= sequence < 1 << 31 or size < 1 or not HEX.fullmatch(take(receipt, "sha256", str)):
                raise Unreadable("bad-segment", before=found[-1]["sequence"] if found else -1)
            found.append(receipt)
    if not found:
        raise Incomplete("nothing-receipted", name)
    return found


def _check_open(root: Path, id_: str, vault: dict[str, Ed25519PublicKey]) -> _Recording:
    """Steps 4 and 5 for what no manifest of a recording holds yet. The first receipts, with rising sequences, are of
    the file itself, as many as `offsets.tsv` has lines; each of the others of a segment beside it."""
    folder = f"recordings/{id_}.open"
    name = f"{folder}/receipts.jsonl"
    receipts = _receipted(root, name, id_, vault)
    count = len(_lines(root, f"{folder}/offsets.tsv")) - 1
    segments, beside = receipts[:count], receipts[count:]
    offset, lines = 0, [OFFSETS_HEADER]
    for segment in segments:
        lines.append(f"{segment['sequence']}\t{offset}\t{segment['size']}\t{segment['sha256']}\n")
        offset += segment["size"]
    if not segments or _read(root, f"{folder}/offsets.tsv") != "".join(lines).encode():
        raise Altered("offsets", f"{folder}/offsets.tsv")
    sequences = [one["sequence"] for one in segments]
    if sequences != sorted(set(sequences)):
        raise Altered("out-of-order", name)
    if not {one["sequence"] for one in beside} <= set(sequences):
        raise Altered("out-of-order", name)
    with within(name):
        media = _told_of_media(receipts[0])
        for receipt in receipts:
            _same_media(receipt, media, "other-media")
    return _Recording(f"{id_}.open", id_, 0, {"source": {}, **media}, "", segments, beside, open=True)


def _format(told: Json) -> str:
    return take({"format": FORMATS[0], **told}, "format", str)


def _told_of_media(told: Json) -> Json:
    """What a manifest or a receipt says of the media: their format, and who remuxed them."""
    said: Json = {name: take(told, name, str) for name in ("format", "remuxed_by") if name in told}
    if _format(said) not in FORMATS:
        raise Unreadable("member", name="format")
    if not REMUXER.fullmatch(said.get("remuxed_by", "-")):
        raise Unreadable("member", name="remuxed_by")
    return said


def _same_media(receipt: Json, told: Json, slug: str) -> None:
    """A receipt says of the media what is told of them elsewhere."""
    for name in ("format", "remuxed_by"):
        if receipt.get(name) != told.get(name):
            raise Altered(slug, name=name, sequence=receipt["sequence"])


def _check_series(root: Path, id_: str, vault: dict[str, Ed25519PublicKey]) -> _Series:
    """Steps 4 and 5 for a series: its receipts are of files, in the order of their versions."""
    one = _Series(id_, _receipted(root, f"series/{id_}/receipts.jsonl", id_, vault))
    with within(one.subject):
        places = [(each["sequence"], each["sha256"]) for each in one.versions]
        numbers = [number for number, _ in places]
        if numbers != sorted(numbers) or numbers[0] < 1 or len(set(places)) < len(places):
            raise Altered("out-of-order")
        if any(take(each, "media", str) != "file" for each in one.versions):
            raise Altered("receipt-of-other", name="media")
    return one


def _check_tombstones(
    root: Path,
    files: list[str],
    vault: dict[str, Ed25519PublicKey],
    recordings: list[_Recording],
    series: list[_Series],
) -> dict[str, _Tombstone]:
    """Step 4 for what was disposed of, by id: the tombstone counts exactly the segments that manifests or receipts
    tell of."""
    found: dict[str, _Tombstone] = {}
    for top in ("recordings", "series"):
        for id_ in _folders(files, top, "/tombstone.dsse.json"):
            stem = f"{top}/{id_}/tombstone"
            with within(f"{stem}.dsse.json"):
                envelope = parse_json(_read(root, f"{stem}.dsse.json"))
                said = verify_envelope(envelope, vault, TOMBSTONE_TYPE)
                if take(said, "recording", str) != id_:
                    raise Altered("other-recording")
                segments = [s for one in recordings if one.id == id_ for s in one.segments + one.beside]
                segments += [each for one in series if one.id == id_ and top == "series" for each in one.versions]
                for name, counted in (("segments", len(segments)), ("media_bytes", sum(s["size"] for s in segments))):
                    if take(said, name, int) != counted:
                        raise Altered("count", name=name)
                take(said, "disposed_at", str)
            if _read(root, f"{stem}.pae") != pae(TOMBSTONE_TYPE, unbase64(envelope["payload"])):
                raise Altered("raw-body", f"{stem}.pae")
            if _read(root, f"{stem}.sig") not in [unbase64(s["sig"]) for s in envelope["signatures"]]:
                raise Altered("raw-signature", f"{stem}.sig")
            found[id_] = _Tombstone(id_, f"{stem}.dsse.json", said)
    return found


def _check_disposal(statements: list[Json], tombstone: _Tombstone, recordings: list[_Recording]) -> str:
    """Step 6 for one disposal: an order of two custodians is in the log, for exactly these manifests; returns it."""
    told = [
        said
        for said in statements
        if said.get("kind") == "disposal" and said.get("act") == take(tombstone.said, "act", str)
    ]
    if not told:
        raise Incomplete("no-disposal-proof", tombstone.subject)
    manifests = [
        one.manifest_sha256 for one in sorted(recordings, key=lambda one: one.number) if one.id == tombstone.id
    ]
    with within(tombstone.subject):
        order = take(tombstone.said, "order", str)
        for said in told:
            same = (take(said, "recording", str), take(said, "order", str)) == (tombstone.id, order)
            if not same or items(said, "manifests", str) != manifests:
                raise Altered("other-disposal")
            if len(set(items(said, "custodians", str))) < 2:
                raise Untrusted("too-few-custodians")
    return order


def _check_versions(statements: list[Json], series: list[_Series]) -> None:
    """Step 6 for series: the log tells of each version, with the same digest of what its keeper records of it."""
    told = {
        (take(said, "series", str), take(said, "version", int), take(said, "sha256", str)): said.get(
            "metadata_sha256"
        )
        for said in statements
        if said.get("kind") == "series"
    }
    for one in series:
        for each in one.versions:
            place = (one.id, each["sequence"], each["sha256"])
            if place not in told:
                raise Incomplete("no-version-proof", one.subject, version=each["sequence"])
            if told[place] != each.get("metadata_sha256"):
                raise Altered("other-version", one.subject, version=each["sequence"])
        conflicts = [
            said for said in statements if said.get("kind") == "conflict" and said.get("recording") == one.id
        ]
        _check_conflicts(one.subject, one.versions, conflicts)


def _check_copies(root: Path, files: list[str], recordings: list[_Recording]) -> dict[str, Json]:
    """Step 4 for copies: the file of each that was made, with its note, which names the manifest it was made from."""
    digests = {one.name: one.manifest_sha256 for one in recordings}
    found: dict[str, Json] = {}
    for name in files:
        if not name.startswith("copies/"):
            continue
        with within(name):
            note, of = parse_json(_read(root, name)), name[7:-5]
            if take(note, "copy_of", str) != of or digests.get(of) != take(note, "manifest_sha256", str):
                raise Altered("other-copy")
            if take(note, "made", bool):
                found[f"data/copies/{of}.mp4"] = note
    return found


def _check_copy(root: Path, name: str, note: Json, listed: str, wrong: Event) -> None:
    """Step 7 for one copy."""
    size = (root / name).stat().st_size
    _check_whole(root / name, name, listed, wrong)
    if (take(note, "sha256", str), take(note, "size", int)) != (listed, size):
        raise Altered("other-copy", name)


def _name(segment: Json) -> str:
    return f"{segment['sequence']:010d}-{segment['sha256']}"


def _segments(manifest: Json) -> list[Json]:
    """The manifest's segments: sequences strictly rising, sizes positive, digests well formed."""
    segments: list[Json] = items(manifest, "segments", dict)
    before = -1
    for segment in segments:
        sequence, size, digest = (
            take(segment, "sequence", int),
            take(segment, "size", int),
            segment.get("sha256"),
        )
        if sequence <= before or size < 1 or not isinstance(digest, str) or not HEX.fullmatch(digest):
            raise Unreadable("bad-segment", before=before)
        before = sequence
    return segments


def _check_receipts(root: Path, recording: _Recording, vault: dict[str, Ed25519PublicKey]) -> None:
    """Step 5 for one recording."""
    name = f"recordings/{recording.name}/receipts.jsonl"
    lines = _lines(root, name)
    segments = recording.segments + recording.beside
    for segment, line in zip(segments, lines):  # noqa: B905 - counts are compared below
        with within(name):
            sequence = segment["sequence"]
            receipt = verify_receipt(
                parse_json(line),
                vault,
                recording=recording.id,
                sequence=sequence,
                sha256=segment["sha256"],
                size=take(segment, "size", int),
            )
            _same_media(receipt, recording.manifest, "receipt-differs")
            store = take(receipt, "store", dict)
            said = {**receipt, **store}
            for member in REPEATED:
                if said.get(member) != segment.get(member):
                    raise Altered("receipt-differs", name=member, sequence=sequence)
            if recording.manifest.get("lock") == "compliance" != store.get("lock"):
                raise Altered("unlocked", sequence=sequence)
    if len(lines) < len(segments):
        raise Incomplete("no-receipt", name, sequence=segments[len(lines)]["sequence"])
    if len(lines) > len(segments):
        raise Altered("more-receipts", name)


def _check_proof(root: Path, name: str, note: str, checkpoint: Checkpoint) -> tuple[Json, int]:
    """Step 6 for one proof. Returns its statement and index; the checkpoint's signature was checked in step 3."""
    with within(name):
        proof = parse_proof(_read_text(root, name))
        if proof.checkpoint != note:
            raise Altered("other-checkpoint")
        salt, statement = proof.extra[:SALT_SIZE], proof.extra[SALT_SIZE:]
        leaf = leaf_hash(statement_leaf(salt, statement))
        verify_inclusion(proof.index, checkpoint.size, leaf, proof.hashes, checkpoint.root)
        said = parse_json(statement)
        if name != f"proofs/{take(said, 'act', str)}.tlog-proof":
            raise Altered("proof-name")
        return said, proof.index


def _check_statements(
    statements: list[Json],
    recordings: list[_Recording],
    terminals: dict[str, Ed25519PublicKey],
    series: list[str],
    tombstones: Mapping[str, _Tombstone],
) -> None:
    """Step 6, over all: the log says of each recording what its manifest says, or its receipts where none does."""

    def of(kind: str) -> list[Json]:
        return [said for said in statements if take(said, "kind", str) == kind]

    logged = {
        (take(said, "recording", str), take(one, "sequence", int), take(one, "sha256", str))
        for said in of("segments")
        for one in items(said, "segments", dict)
    }
    for recording in recordings:
        subject = recording.subject
        this = (recording.id, recording.number)
        digests = {
            take(said, "sha256", str)
            for said in of("manifest")
            if (take(said, "recording", str), take(said, "number", int)) == this
        }
        if not digests and not recording.open:
            raise Incomplete("no-manifest-proof", subject)
        if digests != {recording.manifest_sha256} and not recording.open:
            raise Altered("other-manifest", subject)
        for segment in recording.segments + recording.beside:
            if (recording.id, segment["sequence"], segment["sha256"]) not in logged:
                raise Incomplete("no-segment-proof", subject, sequence=segment["sequence"])
        source = recording.manifest["source"]
        if source.get("key_id") is None:
            continue
        key_file = f"keys/terminal-{source['key_id']}.pem"
        enrolled = [said for said in of("enrolment") if said.get("key_id") == source["key_id"]]
        if not enrolled:
            raise Incomplete("no-enrolment-proof", key_file)
        expected = (source.get("recorder"), base64.b64encode(raw_key(terminals[source["key_id"]])).decode())
        if any((said.get("recorder"), said.get("public_key")) != expected for said in enrolled):
            raise Altered("other-enrolment", key_file)
    for id_ in {recording.id for recording in recordings}:
        parts = [recording for recording in recordings if recording.id == id_]
        every = [segment for part in parts for segment in part.segments + part.beside]
        _check_conflicts(parts[0].subject, every, [said for said in of("conflict") if said.get("recording") == id_])
    ids = sorted({recording.id for recording in recordings})
    if not any(_is_of(said, ids, sorted(series)) for said in of("export")):
        raise Incomplete("no-export-proof", "proofs")


def _check_revoked(
    root: Path,
    proved: list[tuple[Json, int]],
    recordings: list[_Recording],
    series: list[_Series],
    tombstones: Mapping[str, _Tombstone],
    keys: _Keys,
) -> None:
    """Step 6, over all: what a revoked key signed stood in the log before the revocation did."""
    if not keys.revoked and not keys.revoked_terminals:
        return

    def believed(signers: Iterable[str], index: int) -> bool:
        return any(index < keys.revoked.get(signer, index + 1) for signer in signers)

    acts: dict[tuple[str, Any], int] = {}
    segments: dict[tuple[str, int, str], int] = {}
    for said, index in proved:
        told = []
        if said["kind"] == "segments":
            told = [(said["recording"], one["sequence"], one["sha256"]) for one in said["segments"]]
        elif said["kind"] == "series":
            told = [(said["series"], said["version"], said["sha256"])]
        elif said["kind"] in ("manifest", "disposal"):
            place = (said["recording"], said.get("number"))
            acts[place] = min(index, acts.get(place, index))
        for name in told:
            segments[name] = min(index, segments.get(name, index))

    def receipts(subject: str, id_: str, listed: list[Json]) -> None:
        for segment, line in zip(listed, _lines(root, subject)):  # noqa: B905
            index = segments[id_, segment["sequence"], segment["sha256"]]
            if not believed(_signers(line, keys.vault), index):
                raise Untrusted("receipt-after-revocation", subject, sequence=segment["sequence"])

    for recording in recordings:
        if not recording.open:
            index = acts[recording.id, recording.number]
            if not believed(_signers(_read(root, recording.subject), keys.vault), index):
                raise Untrusted("signed-after-revocation", recording.subject)
            terminal = recording.manifest["source"].get("key_id")
            late = index >= keys.revoked_terminals.get(terminal, index + 1)
            if recording.manifest["closed_by"] != "server" and late:
                raise Untrusted("closed-after-revocation", recording.subject)
        listed = recording.segments + recording.beside
        receipts(f"recordings/{recording.name}/receipts.jsonl", recording.id, listed)
    for one in series:
        receipts(one.subject, one.id, one.versions)
    for tombstone in tombstones.values():
        index = acts.get((tombstone.id, None), 1 << 62)
        if not believed(_signers(_read(root, tombstone.subject), keys.vault), index):
            raise Untrusted("signed-after-revocation", tombstone.subject)


def _signers(envelope: bytes | str, vault: Mapping[str, Ed25519PublicKey]) -> list[str]:
    """Ids of the vault's keys among an envelope's signatures, which were verified before."""
    return [one["keyid"] for one in parse_json(envelope)["signatures"] if one["keyid"] in vault]


def _is_of(export: Json, recordings: list[str], series: list[str]) -> bool:
    """Whether a statement is of an export of exactly these."""
    told = items(export, "series", str) if "series" in export else []
    return sorted(items(export, "recordings", str)) == recordings and sorted(told) == series


def _check_conflicts(subject: str, segments: list[Json], told: list[Json]) -> None:
    """Step 6 for a recording with its supplements, or a series: that a sequence was sealed with different content is
    logged."""
    logged = {(take(said, "sequence", int), sha256) for said in told for sha256 in items(said, "sha256", str)}
    digests: dict[int, set[str]] = {}
    for segment in segments:
        digests.setdefault(segment["sequence"], set()).add(segment["sha256"])
    for sequence, beside in digests.items():
        if len(beside) > 1 and not {(sequence, sha256) for sha256 in beside} <= logged:
            raise Incomplete("no-conflict-proof", subject, sequence=sequence)


class _OnAllCores:
    """Tasks begun on all cores at once, while whoever asked goes on; leaving the block ends what still runs."""

    def __init__(self, tasks: list[Callable[[Event], None]]) -> None:
        self._wrong = Event()
        self._left = deque(enumerate(tasks))
        self._outcomes: list[SimpleQueue[Exception | None]] = [SimpleQueue() for _ in tasks]
        cores = min(os.cpu_count() or 1, len(tasks))
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(cores)]

    def __enter__(self) -> _OnAllCores:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wrong.set()
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Raises what the first in order found wrong, however much is left."""
        for outcome in self._outcomes:
            if error := outcome.get():
                raise error

    def _work(self) -> None:
        while not self._wrong.is_set():
            try:
                number, task = self._left.popleft()
            except IndexError:
                return
            try:
                task(self._wrong)
                self._outcomes[number].put(None)
            except Exception as error:
                self._outcomes[number].put(error)


def _media_tasks(
    root: Path, recordings: list[_Recording], payload: Mapping[str, str], *, twice: bool
) -> list[Callable[[Event], None]]:
    """Step 7: every byte is hashed once, as part of the segment that the signed manifest says it is.

    The segments cover their file without a gap, so its digest in the bag's list, which the vault signed, adds
    nothing that could be altered; with `twice` it is computed all the same.
    """
    tasks: list[Callable[[Event], None]] = []
    for one in recordings:
        name = one.media
        if len(one.segments) == 1 and one.segments[0]["sha256"] != payload[name]:
            raise Altered("digest", name, listing="manifest-sha256.txt")
        if "whole" in one.manifest and one.manifest["whole"]["sha256"] != payload[name]:
            raise Altered("not-whole", name)
        tasks += [partial(_check_run, root / name, name, run) for run in _runs(root / name, name, one)]
        tasks += [partial(_check_whole, root / name, name, payload[name])] if twice else []
    return tasks


def _runs(path: Path, name: str, recording: _Recording) -> list[list[tuple[int, Json]]]:
    """The segments of a file with their offsets, in parts of at least `RUN` bytes; the last may be less."""
    size = path.stat().st_size
    runs: list[list[tuple[int, Json]]] = []
    offset = began = 0
    for segment in recording.segments:
        if not runs or offset - began >= RUN:
            runs.append([])
            began = offset
        runs[-1].append((offset, segment))
        offset += segment["size"]
        if offset > size:
            raise Incomplete("cut-short", name, sequence=segment["sequence"])
    if size > offset:
        raise Altered("trailing", name)
    return runs


def _check_run(path: Path, name: str, run: list[tuple[int, Json]], wrong: Event) -> None:
    window = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        file.seek(run[0][0])
        for _, segment in run:
            one, left = hashlib.sha256(), segment["size"]
            while left:
                if wrong.is_set():
                    return
                got = file.readinto(window[: min(CHUNK, left)])
                if not got:
                    raise Incomplete("cut-short", name, sequence=segment["sequence"])
                one.update(window[:got])
                left -= got
            if one.hexdigest() != segment["sha256"]:
                raise Altered("segment", name, sequence=segment["sequence"])


def _check_whole(path: Path, name: str, listed: str, wrong: Event) -> None:
    whole, window = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(window):
            if wrong.is_set():
                return
            whole.update(window[:got])
    if whole.hexdigest() != listed:
        raise Altered("digest", name, listing="manifest-sha256.txt")


def _check_beside(root: Path, name: str, segment: Json, listed: str, wrong: Event) -> None:
    """Step 7 for one segment beside a recording: a file of its own."""
    whole, size = hashlib.sha256(), 0
    with open(root / name, "rb") as file:
        while chunk := file.read(CHUNK):
            if wrong.is_set():
                return
            whole.update(chunk)
            size += len(chunk)
    if (whole.hexdigest(), size) != (segment["sha256"], segment["size"]):
        raise Altered("segment", name, sequence=segment["sequence"])
    if segment["sha256"] != listed:
        raise Altered("digest", name, listing="manifest-sha256.txt")


def _check_timestamps(
    root: Path,
    files: list[str],
    vkeys: Sequence[str],
    checkpoint: Checkpoint,
    trusted: Mapping[str, x509.Certificate] | None,
) -> list[tuple[int, datetime]]:
    """Step 8. Returns the size of each stamped checkpoint and the time of its token."""
    certificates, used, stamps = {}, set(), []
    for name in files:
        if name.startswith("keys/tsa-"):
            with within(name):
                certificates[name] = load_certificate(_read(root, name))
                identity = certificate_id(certificates[name])
                if name != f"keys/tsa-{identity}.pem":
                    raise Altered("key-name")
                if trusted is not None and identity not in trusted:
                    raise Untrusted("untrusted-key")
    for stem in sorted({name.rpartition(".")[0] for name in files if name.startswith("timestamps/")}):
        # Read before anything is checked, so that a missing one is what is said.
        token, stamped, path = (_read(root, f"{stem}.{end}") for end in ("tsr", "checkpoint", "consistency"))
        with within(f"{stem}.checkpoint"):
            earlier = verify_note_by_any(stamped.decode("utf-8", "replace"), vkeys)
            if stem != f"timestamps/{earlier.size}":
                raise Altered("stamp-name")
        with within(f"{stem}.consistency"):
            hashes_ = [unbase64(line) for line in path.decode("ascii", "replace").splitlines()]
            verify_consistency(earlier.size, checkpoint.size, hashes_, earlier.root, checkpoint.root)
        with within(f"{stem}.tsr"):
            name, moment = _stamped_by(token, stamped, certificates)
        used.add(name)
        stamps.append((earlier.size, moment))
    for name in sorted(set(certificates) - used):
        raise Altered("unused-stamp-key", name)
    return stamps


def _stamped_recordings(
    recordings: list[_Recording], proved: list[tuple[Json, int]], stamps: list[tuple[int, datetime]], *, need: bool
) -> dict[str, datetime]:
    """Step 8 over all: for each recording of which a token covers every manifest, when the last of them was covered.
    Raises `Incomplete` where `need` and there is none for one. What is open has no manifest that one could be on."""
    first = {}
    for said, index in proved:
        if said["kind"] == "manifest" and (moments := [at for size, at in stamps if size > index]):
            first[said["recording"], said.get("number")] = min(moments)
    bare: set[str] = set()
    found: dict[str, datetime] = {}
    for one in recordings:
        at = first.get((one.id, one.number))
        if at is not None:
            found[one.id] = max(at, found.get(one.id, at))
        elif need:
            raise Incomplete("no-timestamp", f"recordings/{one.name}")
        else:
            bare.add(one.id)
    return {id_: at for id_, at in found.items() if id_ not in bare}


def _stamped_by(token: bytes, data: bytes, certificates: Mapping[str, x509.Certificate]) -> tuple[str, datetime]:
    """The certificate file that a token is by, and its time."""
    for name, certificate in certificates.items():
        try:
            return name, verify_timestamp(token, data, certificate)
        except Untrusted as error:
            if error.slug != "other-authority":
                raise
    raise Untrusted("other-authority")


# --- What it says ------------------------------------------------------------------------------

# Each sentence a person may read, in Chinese and English; the slugs are for programs.
SENTENCES = {
    "not-base64": ("不是规范的 base64", "not canonical base64"),
    "not-json": ("不是有效的 JSON 对象", "not a valid JSON object"),
    "member": ("字段 {name} 缺失或类型不对", "member {name} is missing or of the wrong type"),
    "not-a-key": ("不是 PEM 格式的 Ed25519 公钥", "not an Ed25519 public key in PEM"),
    "bad-signature": ("签名与内容不符", "the signature does not match the content"),
    "bad-signature-line": ("签名格式不对", "a signature is malformed"),
    "no-trusted-signature": ("没有可信密钥的签名", "it bears no signature by a trusted key"),
    "wrong-type": ("类型不是 {kind}", "the payload type is not {kind}"),
    "receipt-of-other": ("凭证的 {name} 与片段不符", "{name} in the receipt is not the segment's"),
    "not-included": ("日志包含证明不成立", "the inclusion proof does not hold"),
    "not-consistent": ("日志一致性证明不成立", "the consistency proof does not hold"),
    "not-a-vkey": ("不是有效的 Ed25519 vkey", "not a valid Ed25519 verifier key"),
    "not-a-note": ("不是有效的签名文本", "not a valid signed note"),
    "not-a-checkpoint": ("不是有效的检查点", "not a valid checkpoint"),
    "unsigned-checkpoint": ("没有该日志密钥的签名", "it is not signed by this log key"),
    "same-witness": ("同一把见证人密钥给了两次", "the same witness key is given twice"),
    "too-few-witnesses": (
        "只有 {have} 个给定的见证人联署，需要 {need} 个",
        "only {have} of the given witnesses cosigned it, {need} are needed",
    ),
    "other-log": ("检查点属于另一个日志", "the checkpoint is of another log"),
    "not-a-proof": ("不是有效的 tlog-proof", "not a valid tlog-proof"),
    "bad-salt": ("盐值应为 32 字节", "the salt must be 32 bytes"),
    "unreadable": ("无法读取（{reason}）", "cannot be read ({reason})"),
    "missing": ("文件缺失", "the file is missing"),
    "too-large": ("文件过大", "the file is too large"),
    "not-text": ("不是 UTF-8 文本", "not UTF-8 text"),
    "link": ("是链接或特殊文件，不接受", "it is a link or a special file"),
    "not-a-folder": ("不是文件夹；请先解开 .tar", "not a folder; unpack the .tar first"),
    "not-a-bag": ("不是 BagIt 1.0", "not BagIt 1.0"),
    "not-a-listing": ("有一行不是 sha256sum 的格式：{line!r}", "a line is not sha256sum's: {line!r}"),
    "out-of-place": ("列有不属于这里的路径 {path!r}", "it lists {path!r}, which is out of place"),
    "other-listing": ("{path} 应列在另一份摘要表里", "{path} belongs in the other listing"),
    "listed-missing": ("列在 {listing}，但文件缺失", "listed in {listing}, but missing"),
    "unlisted": ("{listing} 没有列出这个文件", "not listed in {listing}"),
    "digest": ("内容与 {listing} 所列摘要不符", "its digest is not the one listed in {listing}"),
    "no-recording": ("没有任何记录", "there is no recording"),
    "key-name": ("文件名与密钥不符", "its name is not its key id"),
    "other-vkey": ("与 keys/log.pem 不是同一把密钥", "not the key in keys/log.pem"),
    "other-succession": ("密钥接替声明不属于这两把密钥", "the succession is not of these two keys"),
    "no-key-proof": ("缺少这把密钥的日志证明", "the log proof of this key is missing"),
    "revoked-key": ("这把密钥已被吊销", "this key was revoked"),
    "signed-after-revocation": (
        "签名密钥已被吊销，且日志在吊销之前没有记载这份清单",
        "the key that signed it was revoked, and the log does not tell of it before that",
    ),
    "closed-after-revocation": (
        "终端的密钥在封存之前已被吊销",
        "the terminal's key was revoked before this was closed",
    ),
    "receipt-after-revocation": (
        "片段 {sequence} 的凭证由已吊销的密钥签名，且日志在吊销之前没有记载",
        "the receipt of segment {sequence} is by a key that was revoked, and the log does not tell of it before that",
    ),
    "untrusted-key": ("不在给定的可信密钥之中", "it is not among the trusted keys"),
    "no-terminal-key": ("缺少终端公钥 {name!r}", "the terminal's key {name!r} is missing"),
    "unused-key": ("不属于任何记录", "it belongs to no recording"),
    "raw-body": ("与已签名的内容不同", "not the bytes that were signed"),
    "raw-signature": ("与所附签名不同", "not the signature"),
    "other-recording": ("不是这条记录的清单", "not the manifest of this recording"),
    "bad-segment": ("片段 {before} 之后的片段格式不对", "the segment after {before} is malformed"),
    "count": ("{name} 与所列片段不符", "{name} does not match the listed segments"),
    "missing-differ": ("缺失片段与终端所签不符", "the missing segments are not those the terminal signed"),
    "no-earlier-manifest": ("缺少此前编号的清单", "the manifest with the number before is missing"),
    "listed-twice": ("片段 {sequence} 已列在另一份清单", "segment {sequence} is listed in another manifest too"),
    "nothing-receipted": ("没有任何凭证", "there is no receipt in it"),
    "out-of-order": ("凭证的次序或序号不对", "the receipts are not in the order of what they are of"),
    "no-version-proof": ("缺少版本 {version} 的日志证明", "the log proof of version {version} is missing"),
    "other-version": ("与日志记载的版本 {version} 不符", "version {version} is not as the log says"),
    "no-disposal-proof": ("缺少销毁的日志证明", "the log proof of the disposal is missing"),
    "other-disposal": ("与日志记载的销毁不符", "it is not the disposal that the log tells of"),
    "too-few-custodians": ("销毁指令没有两名保管人", "the order to dispose of it was not by two custodians"),
    "other-copy": ("不是这份记录的副本", "it is not the copy of this recording"),
    "undeclared": ("有片段既未列出也未声明缺失", "a segment is neither listed nor declared missing"),
    "offsets": ("与清单不符", "it does not match the manifest"),
    "receipt-differs": (
        "片段 {sequence} 的 {name} 与清单不符",
        "{name} of segment {sequence} is not the manifest's",
    ),
    "not-whole": (
        "与清单所载整个文件的摘要不符",
        "it is not the whole file whose digest the manifest has",
    ),
    "other-media": (
        "片段 {sequence} 的凭证所写的 {name} 与前面的不同",
        "the receipt of segment {sequence} says another {name} than those before it",
    ),
    "unlocked": ("片段 {sequence} 并未锁定", "segment {sequence} is not locked as the manifest says"),
    "no-receipt": ("缺少片段 {sequence} 的凭证", "no receipt for segment {sequence}"),
    "more-receipts": ("凭证多于片段", "more receipts than segments"),
    "other-checkpoint": ("所附检查点与材料的不同", "its checkpoint is not the one of the export"),
    "proof-name": ("文件名与所证事项不符", "its name is not the act it proves"),
    "no-manifest-proof": ("缺少清单的日志证明", "the log proof of the manifest is missing"),
    "other-manifest": ("与日志记载的清单摘要不符", "its digest is not the one in the log"),
    "no-segment-proof": ("缺少片段 {sequence} 的日志证明", "the log proof of segment {sequence} is missing"),
    "no-conflict-proof": (
        "片段 {sequence} 有不同内容，缺少其日志证明",
        "segment {sequence} was sealed with different content, and the log proof of that is missing",
    ),
    "no-enrolment-proof": ("缺少终端登记的日志证明", "the log proof of the enrolment is missing"),
    "other-enrolment": ("与日志中的终端登记不符", "not the key enrolled in the log"),
    "no-export-proof": ("缺少本次导出的日志证明", "the log proof of this export is missing"),
    "not-a-certificate": ("不是可用的 PEM 证书", "not a usable certificate in PEM"),
    "not-a-token": ("不是有效的时间戳", "not a valid time-stamp token"),
    "token-of-other": ("时间戳所盖的不是这个检查点", "the time-stamp token is not on this checkpoint"),
    "other-authority": ("时间戳不出自所附的时间戳机构证书", "the token is not by an authority's certificate given"),
    "no-authority": ("证书不是专用于时间戳的", "the certificate is not for time stamps alone"),
    "authority-lapsed": ("证书在时间戳所示时间无效", "the certificate was not valid at the token's time"),
    "stamp-name": ("文件名与检查点不符", "its name is not the size of its checkpoint"),
    "unused-stamp-key": ("不属于任何时间戳", "it belongs to no time-stamp token"),
    "no-timestamp": ("没有给定机构的时间戳", "there is no time-stamp token for it"),
    "segment": ("片段 {sequence} 的内容与清单不符", "segment {sequence} is not the one in the manifest"),
    "cut-short": ("在片段 {sequence} 处中断", "it ends within segment {sequence}"),
    "trailing": ("末尾有多余内容", "there are bytes after the last segment"),
    # The steps, and the verdict on an export with nothing wrong.
    "bag": (
        "封装完整：{files} 个文件，没有多余，除音像外摘要相符",
        "bag: {files} files, none unlisted; digests of all but the media agree",
    ),
    "keys": ("密钥是给定的可信密钥", "keys: those trusted"),
    "keys-followed": (
        "给定密钥经 {count} 次有双方签名的接替，交接到签署本材料的密钥",
        "keys: {count} successions, each signed by both keys, lead from those trusted to those that signed",
    ),
    "keys-revoked": (
        "日志载明有 {count} 把相关密钥已被吊销：其签名只在日志于吊销之前已有记载时采信",
        "keys: the log tells that {count} of the keys concerned were revoked; what they signed is believed only "
        "where the log told of it before that",
    ),
    "keys-own": ("密钥取自材料本身，尚未与外部核对", "keys: taken from the export itself, not yet compared"),
    "checkpoint": (
        "日志检查点签名有效：{origin}，{size} 条",
        "checkpoint: {origin}, {size} entries, well signed",
    ),
    "cosigned": (
        "检查点有 {have} 个给定见证人的有效联署（至少需要 {need} 个）：{names}",
        "checkpoint: cosigned by {have} of the given witnesses ({need} needed): {names}",
    ),
    "cosigned-unchecked": (
        "检查点上另有 {count} 行其他密钥的签名，因未给出其公钥而没有核验：{names}",
        "checkpoint: {count} more signatures, not verified since their keys were not given: {names}",
    ),
    "manifests": (
        "清单签名有效：{recordings} 条记录，{segments} 个片段，默克尔根与所签一致",
        "manifests: {recordings} recordings, {segments} segments, well signed, roots as they were signed",
    ),
    "supplements": (
        "其中 {supplements} 份是封存后补充的清单，不改动先前的清单",
        "supplements: {supplements} of the manifests hold what came after a closing; none alters an earlier one",
    ),
    "by-server": (
        "注意：{name} 由服务器代为封存（{reason}），终端没有签名；其末尾是否完整，终端未作声明",
        "note: {name} was closed by the server ({reason}) and the terminal did not sign; that nothing is missing at "
        "its end nobody but the server says",
    ),
    "whole": (
        "{name} 是分段上传的文件，收齐后由服务器关闭，来源没有签名；清单载有整个文件的摘要，与所附文件一致",
        "{name} was uploaded in pieces and closed by the server when complete, without its source's signature; the "
        "manifest has the digest of the whole file, which is the one enclosed",
    ),
    "taken-over": (
        "{name} 不是实时上传：终端于 {at} 从记录设备接管的文件（原因 {reason}），接管声明由终端签名；"
        "清单载有整个文件的摘要，与所附文件一致",
        "{name} was not streamed: a terminal took the file over from a recorder at {at} (reason: {reason}) and "
        "signed that; the manifest has the digest of the whole file, which is the one enclosed",
    ),
    "taken-over-in-part": (
        "注意：{name} 不是实时上传：终端于 {at} 从记录设备接管文件（原因 {reason}），但没有收全",
        "note: {name} was not streamed: a terminal took the file over from a recorder at {at} (reason: {reason}), "
        "and not all of it came",
    ),
    "remuxed": (
        "注意：{name} 的音像在送达证据库之前由媒体网关 {by} 拆开并重新封装，封存的是重新封装后的内容",
        "note: the gateway {by} took the media of {name} apart and together again before they came to the vault; "
        "what was sealed is what came out of it",
    ),
    "beside": (
        "另有 {segments} 个已封存片段未列入终端的关闭声明，一并附上并核验",
        "beside: {segments} more sealed segments that the closing does not speak of are enclosed and checked",
    ),
    "open": (
        "注意：{name} 有 {segments} 个片段尚未封存成清单（not closed yet），其后和其间是否还有内容，没有人作出声明",
        "note: {segments} segments of {name} are not closed yet; that nothing is missing among or after them nobody "
        "says",
    ),
    "series": (
        "文件系列：{series} 个，共 {versions} 个版本",
        "series: {series} with {versions} versions",
    ),
    "disposed": (
        "{name} 已于 {at} 按两名保管人的指令 {order} 销毁，本包有其清单、凭证和销毁凭证，没有内容",
        "{name} was disposed of by order {order} of two custodians on {at}: manifests, receipts and tombstone, no "
        "media",
    ),
    "copies": (
        "另附 {copies} 份便于播放的副本，与列表相符；副本不是记录本身",
        "copies: {copies} for players, as listed; a copy, not the record",
    ),
    "receipts": (
        "凭证签名有效：{segments} 份，与清单一致",
        "receipts: {segments}, well signed, as the manifests say",
    ),
    "proofs": (
        "日志证明成立：{proofs} 份，清单、片段、终端登记和本次导出均已入日志",
        "proofs: {proofs} hold; manifests, segments, enrolments and this export are in the log",
    ),
    "media": ("音像逐字节相符：{size} 字节", "media: all {size} bytes agree"),
    "listing": (
        "文件列表由证据库签名：说明文件和本程序也未被替换",
        "listing: signed by the vault; no other file, this program included, was exchanged",
    ),
    "stamps": (
        "时间戳有效：{tokens} 个，出自给定的机构；{recordings} 条记录最迟于 {at} UTC 已在日志中",
        "time: {tokens} tokens of the authorities given; {recordings} recordings were in the log by {at} UTC",
    ),
    "stamps-own": (
        "时间戳有效：{tokens} 个，机构证书取自材料本身；{recordings} 条记录最迟于 {at} UTC 已在日志中",
        "time: {tokens} tokens, by certificates from the export itself; {recordings} recordings were in the log "
        "by {at} UTC",
    ),
    "verified": (
        "验证通过：材料完整、未被改动，签名出自可信密钥",
        "Verified: complete, unaltered, signed by the trusted keys",
    ),
    "verified-open": (
        "验证通过：所含内容未被改动，签名出自可信密钥；其中有尚未封存的记录，就其本性不完整",
        "Verified: unaltered, signed by the trusted keys; part of it is not closed yet and so incomplete by nature",
    ),
    "consistent": (
        "材料内部一致。这只说明前后相符：请把下列密钥指纹与单位另行公布的核对，再行采信",
        "The export agrees with itself. That is all it shows until the key fingerprints below have been "
        "compared with those published elsewhere",
    ),
}


# --- Command line ---------------------------------------------------------------------------------


def load_trust(paths: Iterable[str | Path]) -> dict[str, Ed25519PublicKey]:
    """Read trusted keys, each file a PEM public key or a note vkey, by key id (`Unreadable`)."""
    keys = {}
    for path in paths:
        with within(os.fspath(path)):
            try:
                data = Path(path).read_bytes()
                key = load_public_key(data) if data.startswith(b"-----") else parse_vkey(data.decode()).key
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "UTF-8"
                raise Unreadable("unreadable", reason=reason) from None
            keys[key_id(raw_key(key))] = key
    return keys


def load_origins(paths: Iterable[str | Path]) -> set[str]:
    """The names of the logs whose keys among these files are note vkeys (`Unreadable`)."""
    found = set()
    for path in paths:
        with within(os.fspath(path)):
            try:
                data = Path(path).read_bytes()
                if not data.startswith(b"-----"):
                    found.add(parse_vkey(data.decode()).name)
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "UTF-8"
                raise Unreadable("unreadable", reason=reason) from None
    return found


def load_authorities(paths: Iterable[str | Path]) -> dict[str, x509.Certificate]:
    """Read certificates of time-stamping authorities by `certificate_id` (`Unreadable`)."""
    found = {}
    for path in paths:
        with within(os.fspath(path)):
            try:
                certificate = load_certificate(Path(path).read_bytes())
            except OSError as error:
                raise Unreadable("unreadable", reason=error.strerror) from None
            found[certificate_id(certificate)] = certificate
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"用法不对 / wrong usage: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parser = _Parser(description="离线验证全程导出的材料 / verify a Quancheng export offline")
    parser.add_argument("directory", metavar="DIR", help="解开后的导出文件夹 / the unpacked export")
    parser.add_argument(
        "--trust",
        metavar="KEY",
        nargs="+",
        action="extend",
        help="另行取得的 vault.pem 和 log.vkey / keys obtained elsewhere",
    )
    parser.add_argument(
        "--witness",
        metavar="VKEY",
        nargs="+",
        action="extend",
        help="日志见证人的公钥 / keys of the log's witnesses, as they publish them",
    )
    parser.add_argument(
        "--need",
        metavar="K",
        type=int,
        help="至少需要几个见证人的联署，默认全部 / how many of them must have cosigned, by default all",
    )
    parser.add_argument(
        "--tsa",
        metavar="PEM",
        nargs="+",
        action="extend",
        help="时间戳机构的证书，须另行取得 / certificates of time-stamping authorities, obtained elsewhere",
    )
    parser.add_argument(
        "--twice",
        action="store_true",
        help="片段之外再算整个文件的摘要 / hash whole media files too, beside their segments",
    )
    parser.add_argument("--quiet", action="store_true", help="只给结论 / print the verdict alone")
    options = parser.parse_args(arguments)
    given = options.witness or []
    need = len(given) if options.need is None else options.need
    if not min(len(given), 1) <= need <= len(given):
        parser.error("--need 应在 1 和 --witness 的个数之间 / must be between 1 and the number of --witness")

    def show(number: int, chinese: str, english: str) -> None:
        print(f"{number}. {chinese}\n   {english}", flush=True)

    try:
        trusted = load_trust(options.trust) if options.trust else None
        origins = load_origins(options.trust or [])
        witnesses = parse_witnesses(given)
        authorities = load_authorities(options.tsa) if options.tsa else None
    except VerificationError as error:
        print(f"{error.chinese}\n{error.english}")
        return error.code
    shown = None if options.quiet else show
    report = verify_bundle(
        options.directory,
        trusted,
        shown,
        witnesses=witnesses,
        need=need,
        authorities=authorities,
        twice=options.twice,
        origins=origins,
    )
    print(f"{report.chinese}\n{report.english}")
    if report.code == VERIFIED and trusted is None:
        for name, fingerprint in report.fingerprints.items():
            print(f"  {fingerprint}  {name}")
    return report.code


if __name__ == "__main__":
    sys.exit(main())
