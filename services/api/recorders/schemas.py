"""Wire types of recorders and enrolment."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from services.api.database import STORABLE
from services.vault.contract.wire import KeyId, Remuxer, RevocationCode, VaultIdentity

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True, pattern=STORABLE)]
Base64Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Base64Signature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]


Kind = Literal["recorder", "dock", "phone", "encoder", "gateway", "hall-camera", "instrument"]


class NewRecorder(BaseModel):
    """A source of recordings. `kind` says what it is, and with that what its recordings are worth."""

    name: Name
    kind: Kind = "recorder"
    officer_id: UUID | None = None


class KeyView(BaseModel):
    """A key of a recorder; `revocation_index` is the log's, once it tells of the revocation."""

    key_id: KeyId
    model: str
    enrolled_at: datetime
    revoked_at: datetime | None
    revoked_code: RevocationCode | None
    revocation_index: int | None


class NewAddress(BaseModel):
    """`remuxed_by` names the gateway that takes the media apart and together again before it comes here."""

    days: Annotated[int, Field(ge=1, le=366)] = 90
    remuxed_by: Annotated[Remuxer, StringConstraints(strip_whitespace=True)] | None = None


class AddressView(BaseModel):
    id: UUID
    remuxed_by: str | None
    made_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class MadeAddress(AddressView):
    """`url` is told this once: whoever knows it may push. Append a name, as `live.mp4`, `live.ts` or `live.m3u8`.
    `uploads` is the same for files that are uploaded in pieces, `files` for single files that come whole, where a
    source of this kind brings such."""

    url: str
    uploads: str
    files: str | None


class HeartbeatView(BaseModel):
    """What its terminal told last. `clock_offset_ms`: how far the device's clock is ahead of the server's; `unheard`:
    recordings that it named and that nobody has opened here yet."""

    received_at: datetime
    state: Literal["recording", "draining", "stopped"]
    capturing: bool
    spool_used: int
    spool_limit: int
    spool_full: bool
    clock_offset_ms: int
    unheard: int


class RecorderView(BaseModel):
    """`keys` are those it was enrolled with and `addresses` those it may push to, the newest first; at most twenty
    of each."""

    id: UUID
    name: str
    kind: Kind
    officer_id: UUID | None
    created_at: datetime
    keys: list[KeyView] = []
    addresses: list[AddressView] = []
    heartbeat: HeartbeatView | None = None


class Revocation(BaseModel):
    """`reason` stays private: the log's public part shows only that something happened."""

    key_id: KeyId
    code: RevocationCode
    reason: Annotated[
        str, StringConstraints(min_length=2, max_length=500, strip_whitespace=True, pattern=r"^[^\x00-\x1f]*$")
    ]


class RecorderPage(BaseModel):
    items: list[RecorderView]
    next_before: UUID | None = None


class CodeView(BaseModel):
    """Shown once; only its digest is kept."""

    code: str
    expires_at: datetime


class Enrolment(BaseModel):
    """`proof` is the key's Ed25519 signature over `quancheng-enrolment-v1\\n` and the code."""

    code: Annotated[str, StringConstraints(min_length=16, max_length=64)]
    public_key: Base64Key
    proof: Base64Signature
    model: Annotated[str, StringConstraints(max_length=64, pattern=STORABLE)] = ""


class Enrolled(BaseModel):
    """`vault` is what the terminal pins: from now on it believes no receipt by another key."""

    recorder: UUID
    name: str
    key_id: KeyId
    vault: VaultIdentity
