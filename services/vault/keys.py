"""The vault's private keys: the only file that touches them.

Two lie in one folder (0700, files 0600), encrypted under a passphrase that comes from a file of its own:
`receipt.pem` signs receipts and manifests, `log.pem` signs checkpoints. They are made once, at the very first start;
once the log knows a key, a missing file is a loss that is reported and never papered over by a new key. A key that
is found there in the clear is encrypted at the next start. What authenticates tickets of the local folder is derived
from the receipt key.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from services.vault.contract.verify import key_id, pae
from services.vault.contract.wire import Envelope, Signature, canonical
from services.vault.errors import KeyFault
from services.vault.log.note import sign_checkpoint, vkey

_RECEIPT, _LOG = "receipt.pem", "log.pem"
_LOCAL_STORE = b"quancheng/local-store-tickets/v1"
MIN_PASSPHRASE = 20


class Keys:
    """Signs on the vault's behalf; no private key leaves it."""

    def __init__(self, origin: str, receipt: Ed25519PrivateKey, log: Ed25519PrivateKey):
        self.origin = origin
        self._receipt, self._log = receipt, log
        self.local_secret = HKDF(hashes.SHA256(), 32, salt=None, info=_LOCAL_STORE).derive(
            receipt.private_bytes_raw()
        )
        self.receipt_public = raw(receipt.public_key())
        self.log_public = raw(log.public_key())
        self.receipt_key_id = key_id(self.receipt_public)
        self.log_vkey = vkey(origin, self.log_public)

    def envelope(self, payload_type: str, payload: dict[str, object]) -> Envelope:
        """A DSSE envelope by the receipt key over the canonical bytes of `payload`."""
        body = canonical(payload)
        signature = self._receipt.sign(pae(payload_type, body))
        return Envelope(
            payloadType=payload_type,
            payload=base64.b64encode(body).decode(),
            signatures=[Signature(keyid=self.receipt_key_id, sig=base64.b64encode(signature).decode())],
        )

    def sign_listing(self, listing: bytes) -> bytes:
        """The receipt key's raw signature over an export's list of files. What it begins with keeps it apart
        from an envelope, whose signed bytes begin with `DSSEv1`."""
        if listing.startswith(b"DSSE"):
            raise ValueError("not a listing")
        return self._receipt.sign(listing)

    def sign_encoded(self, message: bytes) -> bytes:
        """The receipt key's raw signature over a pre-authentication encoding, where an envelope would be too long."""
        if not message.startswith(b"DSSEv1 "):
            raise ValueError("not an encoded message")
        return self._receipt.sign(message)

    def checkpoint(self, size: int, root: bytes) -> str:
        return sign_checkpoint(self.origin, size, root, self._log)


def raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def pem(public: bytes) -> str:
    """SubjectPublicKeyInfo PEM of a raw public key, as stock openssl reads it."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_passphrase(file: Path) -> bytes:
    """The first line of the file. Raises KeyFault with one clear sentence."""
    try:
        if file.stat().st_mode & 0o007:
            raise KeyFault(f"密钥口令文件 {file} 对其他用户开放，请改为仅本人可读（chmod 600）。")
        passphrase = file.read_bytes().partition(b"\n")[0].strip()
    except OSError as error:
        raise KeyFault(f"密钥口令文件 {file} 无法读取：{error.strerror}。没有口令不能启动。") from error
    if len(passphrase) < MIN_PASSPHRASE:
        raise KeyFault(f"密钥口令文件 {file} 中的口令不足 {MIN_PASSPHRASE} 个字符。")
    return passphrase


def load(folder: Path, origin: str, known: dict[str, bytes], passphrase: bytes, *, make: bool = True) -> Keys:
    """Read the keys; with `make`, make those that never were. `known` maps purpose ("receipt", "log") to the public
    key that the database has on record. Raises KeyFault with one clear sentence."""
    try:
        return _load(folder, origin, known, passphrase, make=make)
    except OSError as error:
        raise KeyFault(f"密钥文件夹 {folder} 无法使用：{error.strerror}。") from error


def _load(folder: Path, origin: str, known: dict[str, bytes], passphrase: bytes, *, make: bool) -> Keys:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o022:
        raise KeyFault(f"密钥文件夹 {folder} 可被其他用户改动，请改为仅本人可用（chmod 700）。")
    pairs = {
        purpose: _private(folder / name, passphrase, made_before=purpose in known or not make)
        for purpose, name in (("receipt", _RECEIPT), ("log", _LOG))
    }
    for purpose, public in known.items():
        if raw(pairs[purpose].public_key()) != public:
            raise KeyFault(f"密钥文件 {folder} 中的 {purpose} 密钥与数据库登记的不是同一把，拒绝启动。")
    for purpose, name in (("receipt", _RECEIPT), ("log", _LOG)):
        if b"ENCRYPTED" not in _read(folder / name):
            _create(folder / name, _encrypted(pairs[purpose], passphrase))
    return Keys(origin, pairs["receipt"], pairs["log"])


def _private(path: Path, passphrase: bytes, *, made_before: bool) -> Ed25519PrivateKey:
    if not path.exists():
        if made_before:
            raise KeyFault(f"密钥文件 {path} 丢失。请从备份恢复；在此之前证据库拒绝启动。")
        _create(path, _encrypted(Ed25519PrivateKey.generate(), passphrase))
    content = _read(path)
    try:
        key = load_pem_private_key(content, password=passphrase if b"ENCRYPTED" in content else None)
    except (ValueError, TypeError) as error:
        if b"ENCRYPTED" in content and _whole(content):
            raise KeyFault(f"密钥文件 {path} 的口令不对，或文件已损坏：请核对口令文件，或从备份恢复。") from error
        raise KeyFault(f"密钥文件 {path} 已损坏，无法读取。") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFault(f"密钥文件 {path} 不是 Ed25519 私钥。")
    return key


def _encrypted(key: Ed25519PrivateKey, passphrase: bytes) -> bytes:
    # PBES2, AES-256, few rounds of PBKDF2: the passphrase is long and made by a machine, and stock openssl reads it.
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))


def _whole(content: bytes) -> bool:
    return content.rstrip().endswith(b"-----END ENCRYPTED PRIVATE KEY-----")


def _create(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise KeyFault(f"密钥文件 {path} 对其他用户开放，请改为仅本人可读（chmod 600）。")
    return path.read_bytes()
