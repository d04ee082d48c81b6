"""Keys: of recorders, enrolled and revoked, and of the vault itself."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from services.vault.contract.wire.base import MAX_KEYS, Envelope, KeyId, Lock, Message, Moment

RevocationCode = Literal["compromised", "lost", "withdrawn"]
"""Why a key signs no more: somebody else has or may have it; nobody has it; it is out of use."""


class Enrol(Message):
    """A recorder's public key (32 raw bytes, base64), entered in the log before it may sign anything."""

    recorder: UUID
    public_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]


class RevokeEnrolment(Message):
    """The recorder's key opens, asks and closes nothing from here on; what it sealed stays valid. The same again
    answers the same index."""

    recorder: UUID
    code: RevocationCode
    reason: Annotated[str, StringConstraints(min_length=2, max_length=500, pattern=r"^[^\x00-\x1f]*$")]


class VaultKey(Message):
    """A key of the vault itself. `succession` is signed by the key it `replaces` and by itself, and without one
    nothing leads from the one to the other. `vkey` is a log key's, as note readers and witnesses take it."""

    purpose: Literal["receipt", "log"]
    key_id: KeyId
    public_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]
    vkey: str | None
    since: Moment
    superseded_at: Moment | None
    retired_at: Moment | None
    revoked_at: Moment | None
    replaces: KeyId | None
    succession: Envelope | None
    act: UUID
    revoked_act: UUID | None


class VaultKeys(Message):
    """All of them, the newest first; of more than MAX_KEYS the newest."""

    origin: str
    keys: Annotated[list[VaultKey], Field(max_length=MAX_KEYS)]


class VaultIdentity(Message):
    """What a terminal pins at enrolment and a verifier compares out of band."""

    origin: str
    receipt_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]
    receipt_key_id: KeyId
    log_vkey: str
    lock: Lock
