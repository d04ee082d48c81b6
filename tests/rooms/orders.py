"""Custodians of a test's own and the orders they sign."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uuid_utils.compat import uuid7

from services.vault.contract import custody, wire
from services.vault.contract.verify import key_id


@dataclass
class Keeper:
    name: str
    key: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def public_text(self) -> str:
        return base64.b64encode(self.public).decode()

    @property
    def key_id(self) -> str:
        return key_id(self.public)


ORIGIN = "quancheng.test/custody"
"""The vault that the orders are for: a system under test runs by this name."""


def keeper(name: str) -> Keeper:
    return Keeper(name, Ed25519PrivateKey.generate())


def order(act: str, **fields: Any) -> custody.AnyOrder:
    now = datetime.now(UTC)
    told: dict[str, Any] = {"id": uuid7(), "act": act, "vault": ORIGIN, "reason": "测试", "issued_at": now}
    return custody.ORDERS.validate_python(told | {"expires_at": now + timedelta(days=1)} | fields)


def signed(what: custody.AnyOrder, *keepers: Keeper) -> wire.Envelope:
    return custody.join([custody.sign_order(what, each.key) for each in keepers])
