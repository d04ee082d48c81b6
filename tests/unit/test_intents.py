"""The intent that an object carries is believed by the vault's signature over it and the object's own key alone."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.vault import intents
from services.vault.contract import wire
from services.vault.keys import Keys
from services.vault.sealing import segment_key

RECORDING = UUID("01a21429-ffea-72a4-a7f1-e892d7f974b3")
AT = datetime(2026, 11, 25, 8, 30, 0, 123000, tzinfo=UTC)
KEYS = Keys("quancheng.test/1", Ed25519PrivateKey.generate(), [Ed25519PrivateKey.generate()])
TRUSTED = [Ed25519PublicKey.from_public_bytes(KEYS.receipt_public)]
ASK = wire.SegmentAsk(
    sequence=7, sha256="a" * 64, size=9, media="media", started_at=AT, duration_ms=4000, monotonic_ms=2**53
)
PLAIN: dict[str, Any] = {"source": RECORDING, "started_at": AT, "format": "mp4", "remuxed_by": None}
OPENING: Any = SimpleNamespace(kind="recording", key_id="b" * 64, **PLAIN)
KEY = segment_key(RECORDING, ASK.sequence, ASK.sha256)


def signed(**changes: Any) -> str:
    return intents.signed(KEYS, KEY, OPENING, ASK.model_copy(update=changes), AT)


def test_what_was_signed_comes_back_whole() -> None:
    found = intents.opened(signed(), KEY, TRUSTED)
    assert found is not None
    assert (found.ask, found.asked_at, found.opened_as) == (ASK, AT, AT)
    assert (found.kind, found.source, found.key_id) == ("recording", RECORDING, "b" * 64)


def test_a_file_s_metadata_and_a_source_without_a_key_come_back() -> None:
    ask = ASK.model_copy(update={"media": "file", "metadata_sha256": "c" * 64})
    opening: Any = SimpleNamespace(kind="series", key_id=None, **PLAIN)
    found = intents.opened(intents.signed(KEYS, KEY, opening, ask, AT), KEY, TRUSTED)
    assert found is not None
    assert (found.ask, found.key_id, found.kind) == (ask, None, "series")


def test_what_the_media_are_comes_back_and_is_not_told_where_it_is_as_by_default() -> None:
    opening: Any = SimpleNamespace(
        kind="recording", key_id=None, **PLAIN | {"format": "ts", "remuxed_by": "MediaMTX"}
    )
    found = intents.opened(intents.signed(KEYS, KEY, opening, ASK, AT), KEY, TRUSTED)
    assert found is not None and (found.format, found.remuxed_by) == ("ts", "MediaMTX")
    found = intents.opened(signed(), KEY, TRUSTED)
    assert found is not None and (found.format, found.remuxed_by) == ("mp4", None)
    body = signed().partition(".")[0]
    assert not {"format", "remuxed_by"} & json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).keys()


def test_it_fits_into_what_stores_keep_with_an_object() -> None:
    longest = ASK.model_copy(update={"media": "file", "metadata_sha256": "c" * 64, "size": wire.MAX_SEGMENT_BYTES})
    opening: Any = SimpleNamespace(
        kind="recording", key_id="b" * 64, **PLAIN | {"format": "mov", "remuxed_by": "\U00020bb7" * 64}
    )
    assert len(intents.signed(KEYS, KEY, opening, longest, AT)) < intents.MAX_CHARACTERS
    assert signed().isascii()


@pytest.mark.parametrize(
    "key",
    [
        segment_key(RECORDING, 8, ASK.sha256),
        segment_key(RECORDING, 7, "d" * 64),
        KEY.replace("01a2", "01a3"),
        f"recordings/{RECORDING}/manifest-0000",
    ],
)
def test_under_another_key_it_is_nothing(key: str) -> None:
    assert intents.opened(signed(), key, TRUSTED) is None


def test_another_s_signature_or_an_altered_body_is_nothing() -> None:
    others = Keys("quancheng.test/1", Ed25519PrivateKey.generate(), [Ed25519PrivateKey.generate()])
    assert intents.opened(intents.signed(others, KEY, OPENING, ASK, AT), KEY, TRUSTED) is None
    body, signature = signed().split(".")
    told = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    told["size"] = 10
    longer = base64.urlsafe_b64encode(wire.canonical(told)).decode().rstrip("=")
    assert intents.opened(f"{longer}.{signature}", KEY, TRUSTED) is None


@pytest.mark.parametrize("carried", ["", ".", "a.b.c", "é.é", "=" * 50, "a" * 5000, signed() + "A", signed()[:-3]])
def test_garbage_is_nothing(carried: str) -> None:
    assert intents.opened(carried, KEY, TRUSTED) is None
