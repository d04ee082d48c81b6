"""What two custodians sign, and the tool they sign it with.

    python -m services.vault.contract.custody keygen 保管人.pem
    python -m services.vault.contract.custody show order.json
    python -m services.vault.contract.custody sign order.json 保管人.pem > signature-1.json
    python -m services.vault.contract.custody join signature-1.json signature-2.json > signed.json

An order is canonical JSON: `id` (UUID), `act`, `vault` (the origin of its log: no other vault carries it out), what
it is about, `reason`, `issued_at` and `expires_at` (at most seven days later). Each custodian signs the same bytes
(DSSE, Ed25519); the vault carries an order out once two of them, enrolled with it under different names, have.
`keygen` asks for a passphrase twice; the private key never leaves its file.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from services.vault.contract.verify import key_id, pae
from services.vault.contract.wire import Envelope, Message, Moment, Signature, canonical

ORDER_TYPE = "application/vnd.quancheng.order.v1+json"
MAX_LIFE = timedelta(days=7)
MAX_DISPOSED = 1000
MIN_PASSPHRASE = 16


def _shows(value: str) -> str:
    """What is signed is what is seen: nothing that hides, turns round or breaks a line of it."""
    if any(unicodedata.category(each) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") for each in value):
        raise ValueError("contains characters that are not shown")
    return value


def _one_way(value: str) -> str:
    """One person is not two by a space or a wide letter."""
    if " ".join(unicodedata.normalize("NFKC", value).split()) != value:
        raise ValueError("a name is written in one way: NFKC, no space before, after or twice")
    return value


def _binds(value: str) -> str:
    """Under a key of small order signatures can be made by anybody, and stock verifiers take them."""
    raw = base64.b64decode(value)
    if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
        raise ValueError("a key that binds nobody")
    return value


_SMALL_ORDER = frozenset(
    (
        *(number.to_bytes(32, "little") for number in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18)),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    )
)
"""Every way to write a point of small order of edwards25519, without the sign of x."""
_Text = Annotated[str, StringConstraints(min_length=2, max_length=500), AfterValidator(_shows)]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$"), AfterValidator(_binds)]
Origin = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9./-]{2,127}$")]
CustodianName = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(_shows), AfterValidator(_one_way)
]


class _Order(Message):
    id: UUID
    vault: Origin
    reason: _Text
    issued_at: Moment
    expires_at: Moment

    @model_validator(mode="after")
    def _is_short_lived(self) -> _Order:
        if not timedelta() < self.expires_at - self.issued_at <= MAX_LIFE:
            raise ValueError("an order lives at most seven days")
        return self


class Release(_Order):
    """Let go of a hold."""

    act: Literal["release"]
    hold: UUID


class Dispose(_Order):
    """Delete these recordings' media. `basis` is the rule and the appraisal that allow it."""

    act: Literal["dispose"]
    basis: _Text
    recordings: Annotated[list[UUID], Field(min_length=1, max_length=MAX_DISPOSED)]


class EnrolCustodian(_Order):
    act: Literal["enrol-custodian"]
    name: CustodianName
    public_key: PublicKey


class RemoveCustodian(_Order):
    act: Literal["remove-custodian"]
    key_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


AnyOrder = Release | Dispose | EnrolCustodian | RemoveCustodian
ORDERS: TypeAdapter[AnyOrder] = TypeAdapter(Annotated[AnyOrder, Field(discriminator="act")])
_NAMES = {
    "release": "解除复议诉讼留存",
    "dispose": "销毁音像记录（不可恢复）",
    "enrol-custodian": "增加保管人",
    "remove-custodian": "撤销保管人",
}


def order_bytes(order: AnyOrder) -> bytes:
    return canonical(order.model_dump(mode="json"))


def order_sha256(envelope: Envelope) -> str:
    """What the log says of an order: the digest of the bytes that were signed."""
    return hashlib.sha256(base64.b64decode(envelope.payload)).hexdigest()


def sign_order(order: AnyOrder, key: Ed25519PrivateKey) -> Envelope:
    payload = order_bytes(order)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = base64.b64encode(key.sign(pae(ORDER_TYPE, payload))).decode()
    return Envelope(
        payloadType=ORDER_TYPE,
        payload=base64.b64encode(payload).decode(),
        signatures=[Signature(keyid=key_id(public), sig=signature)],
    )


def join(envelopes: list[Envelope]) -> Envelope:
    """One order with the signatures of all. Raises ValueError where they did not sign the same."""
    if len({(each.payloadType, each.payload) for each in envelopes}) != 1:
        raise ValueError("这些签名不是对同一指令作出的。")
    signatures = {(each.keyid, each.sig): each for one in envelopes for each in one.signatures}
    return envelopes[0].model_copy(update={"signatures": list(signatures.values())})


def _read(path: str) -> AnyOrder:
    return ORDERS.validate_json(Path(path).read_bytes())


def _shown(order: AnyOrder) -> str:
    told: dict[str, Any] = order.model_dump(mode="json")
    lines = [f"指令：{_NAMES[order.act]}", f"证据库：{order.vault}", f"编号：{order.id}", f"理由：{order.reason}"]
    if isinstance(order, Dispose):
        lines += [
            f"依据：{order.basis}",
            f"共 {len(order.recordings)} 项：",
            *(f"  {each}" for each in order.recordings),
        ]
    lines += [f"{name}：{told[name]}" for name in ("hold", "name", "public_key", "key_id") if name in told]
    return "\n".join([*lines, f"有效期：{told['issued_at']} 至 {told['expires_at']}"])


def _keygen(path: str) -> None:
    first, second = getpass.getpass("口令（至少 16 个字符）："), getpass.getpass("再输入一次：")
    if first != second or len(first) < MIN_PASSPHRASE:
        raise ValueError("两次口令不同，或不足 16 个字符，未生成密钥。")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(first.encode()))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    print(f"公钥 {base64.b64encode(public).decode()}\n编号 {key_id(public)}")


def _sign(order_path: str, key_path: str) -> None:
    order = _read(order_path)
    print(_shown(order), file=sys.stderr)
    if order.expires_at < datetime.now(UTC):
        raise ValueError("该指令已过有效期，未签名。")
    passphrase = getpass.getpass("以上内容属实且同意，请输入口令签名：")
    key = load_pem_private_key(Path(key_path).read_bytes(), password=passphrase.encode())
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("该文件不是 Ed25519 私钥。")
    print(sign_order(order, key).model_dump_json())


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["keygen", path]:
                _keygen(path)
            case ["show", path]:
                print(_shown(_read(path)))
            case ["sign", order, key]:
                _sign(order, key)
            case ["join", *paths] if len(paths) >= 2:
                print(
                    join([Envelope.model_validate_json(Path(path).read_bytes()) for path in paths]).model_dump_json()
                )
            case _:
                print(__doc__, file=sys.stderr)
                return 64
    except ValidationError as error:
        print(f"指令文件不合规定：{error.errors()[0]['msg']}", file=sys.stderr)
        return 65
    except (OSError, ValueError, TypeError) as error:
        print(f"未完成：{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
