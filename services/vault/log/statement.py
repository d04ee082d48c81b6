"""Statements: what a leaf of the log stands for, told only to whom it concerns. Pure.

A statement is canonical JSON with `kind`, `act` (UUID), `at` and the fields of its kind. The leaf is
SHA-256(32 random bytes || statement), so the public log shows that something happened and not what.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.vault.contract.verify import PROOF_HEADER, statement_leaf
from services.vault.contract.wire import canonical, rfc3339

FIELDS: dict[str, frozenset[str]] = {
    "segments": frozenset({"recording", "segments"}),
    "conflict": frozenset({"recording", "sequence", "sha256"}),
    "series": frozenset({"series", "version", "sha256", "metadata_sha256"}),
    "manifest": frozenset({"recording", "number", "sha256"}),
    "viewing": frozenset({"recording", "person", "purpose", "until"}),
    "export": frozenset({"recordings", "person", "purpose"}),
    "enrolment": frozenset({"recorder", "key_id", "public_key"}),
    "key": frozenset({"purpose", "key_id", "public_key"}),
    "retirement": frozenset({"purpose", "key_id"}),
    "revocation": frozenset({"purpose", "key_id", "code", "reason"}),
    "custodian": frozenset({"key_id", "public_key", "enrolled", "order", "order_sha256"}),
    "term": frozenset({"recording", "keep_until", "basis", "schedule"}),
    "hold": frozenset({"hold", "case", "recordings"}),
    "release": frozenset({"hold", "case", "order", "order_sha256", "custodians"}),
    "rebuild": frozenset({"size", "published_size"}),
    "disposal": frozenset({"recording", "order", "order_sha256", "custodians", "manifests"}),
}
"""Kinds and the fields each must have; more are allowed."""


class StatementUnfit(ValueError):
    """A statement of unknown kind, or without a field of its kind, or with one that is not its own to set."""


def build(kind: str, act: UUID, at: datetime, fields: Mapping[str, Any]) -> bytes:
    """The statement's bytes. `fields` is plain JSON (ids and times as text). Raises StatementUnfit."""
    if kind not in FIELDS:
        raise StatementUnfit(f"unknown kind {kind!r}")
    if missing := FIELDS[kind] - fields.keys():
        raise StatementUnfit(f"{kind} lacks {', '.join(sorted(missing))}")
    if reserved := fields.keys() & {"kind", "act", "at"}:
        raise StatementUnfit(f"{kind} may not set {', '.join(sorted(reserved))}")
    return canonical({**fields, "kind": kind, "act": str(act), "at": rfc3339(at)})


def leaf_data(salt: bytes, statement: bytes) -> bytes:
    """The entry in the log (32 bytes); its Merkle leaf hash is `verify.leaf_hash` of this."""
    return statement_leaf(salt, statement)


def proof_text(index: int, hashes: Sequence[bytes], checkpoint: str, salt: bytes, statement: bytes) -> str:
    """A C2SP tlog-proof whose extra data is salt || statement: with the log's key it needs nothing else."""
    lines = [
        PROOF_HEADER,
        f"extra {base64.b64encode(salt + statement).decode()}",
        f"index {index}",
        *(base64.b64encode(one).decode() for one in hashes),
    ]
    return "\n".join(lines) + "\n\n" + checkpoint
