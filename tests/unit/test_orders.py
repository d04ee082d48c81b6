"""Orders of custodians: what is signed is what is seen, and nobody is two by a look-alike name. Pure."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from services.vault.contract import custody

KEY = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()


def read(**fields: Any) -> custody.AnyOrder:
    now = datetime.now(UTC)
    told = {
        "id": uuid7(),
        "vault": "quancheng.test/one",
        "reason": "测试",
        "issued_at": now,
        "expires_at": now + timedelta(days=1),
    }
    return custody.ORDERS.validate_python(told | fields)


@pytest.mark.parametrize("hidden", ["\x9b2K", "\u202e", "\u2028编号：别的", "\x85", "\u200b", "\x7f"])
def test_an_order_with_characters_that_do_not_show_is_no_order(hidden: str) -> None:
    with pytest.raises(ValidationError):
        read(act="release", hold=uuid7(), reason=f"复议已终结{hidden}")
    with pytest.raises(ValidationError):
        read(act="dispose", basis=f"期限届满{hidden}", recordings=[uuid7()])


@pytest.mark.parametrize("name", ["张三 ", " 张三", "张\u200b三", "张三\u3000", "Ｌi Hua", "Li  Hua"])
def test_a_look_alike_name_is_no_second_person(name: str) -> None:
    with pytest.raises(ValidationError):
        read(act="enrol-custodian", name=name, public_key=KEY)


@pytest.mark.parametrize("name", ["张三", "阿依古丽·买买提", "Li Hua"])
def test_a_name_as_it_is_written_is_taken(name: str) -> None:
    assert isinstance(read(act="enrol-custodian", name=name, public_key=KEY), custody.EnrolCustodian)


def forged(raw: bytes) -> bool:
    """Whether a signature that nobody made holds under this key, for one message in some."""
    key, nobody = Ed25519PublicKey.from_public_bytes(raw), (1).to_bytes(32, "little") + bytes(32)
    for number in range(200):
        try:
            key.verify(nobody, str(number).encode())
        except InvalidSignature:
            continue
        return True
    return False


@pytest.mark.parametrize("raw", sorted(custody._SMALL_ORDER))
def test_a_key_that_anybody_can_sign_under_is_no_custodian_s(raw: bytes) -> None:
    assert forged(raw)
    for each in (raw, raw[:31] + bytes([raw[31] | 0x80])):
        with pytest.raises(ValidationError):
            read(act="enrol-custodian", name="张三", public_key=base64.b64encode(each).decode())


def test_an_order_says_for_which_vault_it_is_and_so_does_the_tool() -> None:
    order = read(act="release", hold=uuid7(), vault="quancheng.test/two")
    assert "证据库：quancheng.test/two" in custody._shown(order)
    for vault in (None, "", "有名", "A/B"):
        with pytest.raises(ValidationError):
            read(act="release", hold=uuid7(), vault=vault)


def test_the_digest_of_an_order_is_that_of_the_bytes_that_are_signed() -> None:
    order = read(act="release", hold=uuid7())
    envelope = custody.sign_order(order, Ed25519PrivateKey.generate())
    assert custody.order_sha256(envelope) == hashlib.sha256(custody.order_bytes(order)).hexdigest()
