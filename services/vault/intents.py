"""The intent that an object carries: enough to seal it again by, should the rows be lost before the log told of it.

A ticket signs it into a header, the store keeps it with the object, and nobody believes it unless the vault's own
signature over it and the object's key holds. It serves `rebuild.py` alone; sealing goes by the rows.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.vault.contract import wire
from services.vault.contract.verify import VerificationError, check_signature, pae
from services.vault.keys import Keys

INTENT_TYPE = "application/vnd.quancheng.intent.v1+json"
MAX_CHARACTERS = 1500
"""What a store keeps of user metadata with an object is 2 KB at least."""
SEGMENT_KEY = re.compile(r"recordings/([0-9a-f-]{36})/(\d{10})-([0-9a-f]{64})", re.ASCII)
_OPENING = ("kind", "source", "key_id", "opened_as", "asked_at", "format", "remuxed_by")


class Intent(wire.Message):
    """A segment as it was asked for, and how its recording was opened."""

    kind: Literal["recording", "series"]
    source: UUID
    key_id: wire.KeyId | None
    opened_as: wire.Moment
    """The device's time of the recording's begin."""
    format: wire.Format = "mp4"
    remuxed_by: wire.Remuxer | None = None
    ask: wire.SegmentAsk
    asked_at: wire.Moment


def signed(keys: Keys, key: str, opening: Any, ask: wire.SegmentAsk, asked_at: datetime) -> str:
    """What a ticket for `key` carries; `opening` is the recording's kind, source, key_id, started_at,
    format and remuxed_by."""
    told = ask.model_dump(mode="json", exclude={"sequence", "sha256"}, exclude_none=True)
    told |= {"started_at": wire.rfc3339(ask.started_at), "asked_at": wire.rfc3339(asked_at)}
    told |= {"kind": opening.kind, "source": str(opening.source), "opened_as": wire.rfc3339(opening.started_at)}
    told |= wire.media_told(opening.format, opening.remuxed_by)
    if opening.key_id is not None:
        told["key_id"] = opening.key_id
    body = wire.canonical(told)
    signature = keys.sign_encoded(_message(key, body))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (body, signature))


def opened(carried: str, key: str, trusted: Iterable[Ed25519PublicKey]) -> Intent | None:
    """The intent that the object under `key` carries; None where it is not one that the vault signed for it."""
    place = SEGMENT_KEY.fullmatch(key)
    if place is None or len(carried) > MAX_CHARACTERS:
        return None
    try:
        body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in carried.split("."))
        if not any(_holds(one, signature, _message(key, body)) for one in trusted):
            return None
        told = json.loads(body)
        told |= wire.media_of(told)
        opening = {name: told.pop(name, None) for name in _OPENING}
        ask = told | {"sequence": int(place[2]), "sha256": place[3]}
        return Intent.model_validate_json(wire.canonical(opening | {"ask": ask}))
    except (ValueError, binascii.Error):
        return None


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        check_signature(key, signature, message)
    except VerificationError:
        return False
    return True


def _message(key: str, body: bytes) -> bytes:
    return pae(INTENT_TYPE, key.encode() + b"\n" + body)
