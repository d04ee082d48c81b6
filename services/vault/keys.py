"""The vault's private keys: the only file that touches them.

They lie in one folder (0700, files 0600), encrypted under a passphrase that comes from a file of its own:

    receipt.pem        signs receipts, manifests, listings of exports, tombstones
    log.pem            signs checkpoints
    log.previous.pem   signs checkpoints beside it, from a rotation until it is retired
    *.next.pem         made by a rotation that is not through yet

Which of them sign, the database says; a file is known by the public key that belongs to it and not by its name. So a
rotation that died half-way is finished where the database knows the new key, and undone where it does not (`settle`).
Keys are made at the very first start; once the log knows a key, a missing file is a loss that is reported and never
papered over by a new key. A key that is found there in the clear is encrypted at the next start. What authenticates
tickets of the local folder is derived from the receipt key.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from services.vault.contract.verify import SUCCESSION_TYPE, key_id, pae
from services.vault.contract.wire import Envelope, Signature, canonical
from services.vault.errors import KeyFault
from services.vault.log.note import sign_checkpoint, vkey

PURPOSES = ("receipt", "log")
_LOCAL_STORE = b"quancheng/local-store-tickets/v1"
MIN_PASSPHRASE = 20

Known = Mapping[str, Sequence[bytes]]
"""By purpose, the public keys that the database says sign now: the current one, then what signs beside it."""


class Fresh:
    """A key that was made and does not sign for the vault yet."""

    def __init__(self, key: Ed25519PrivateKey):
        self._key = key
        self.public = raw(key.public_key())
        self.key_id = key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class Keys:
    """Signs on the vault's behalf; no private key leaves it. It never changes: after a rotation there is another."""

    def __init__(self, origin: str, receipt: Ed25519PrivateKey, logs: Sequence[Ed25519PrivateKey]):
        self.origin = origin
        self._receipt, self._logs = receipt, tuple(logs)
        self.local_secret = HKDF(hashes.SHA256(), 32, salt=None, info=_LOCAL_STORE).derive(
            receipt.private_bytes_raw()
        )
        self.receipt_public = raw(receipt.public_key())
        self.log_public = raw(logs[0].public_key())
        self.receipt_key_id = key_id(self.receipt_public)
        self.log_key_ids = [key_id(raw(key.public_key())) for key in logs]
        self.log_vkey = vkey(origin, self.log_public)

    @property
    def signing(self) -> dict[str, list[str]]:
        """The ids of what signs, by purpose, the current one first."""
        return {"receipt": [self.receipt_key_id], "log": list(self.log_key_ids)}

    def envelope(self, payload_type: str, payload: dict[str, object]) -> Envelope:
        """A DSSE envelope by the receipt key over the canonical bytes of `payload`."""
        body = canonical(payload)
        return _envelope(payload_type, body, {self.receipt_key_id: self._receipt})

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
        """Signed by the log's key, and by the one before it until that is retired."""
        return sign_checkpoint(self.origin, size, root, *self._logs)

    def hand_over(self, purpose: str, fresh: Fresh, told: dict[str, object]) -> Envelope:
        """A succession: what the current key of this purpose and `fresh` both sign, the first vouching for the
        second and the second showing that it exists. `told` says when and why."""
        old = self._receipt if purpose == "receipt" else self._logs[0]
        old_id = key_id(raw(old.public_key()))
        payload = told | {
            "purpose": purpose,
            "old": old_id,
            "new": fresh.key_id,
            "public_key": base64.b64encode(fresh.public).decode(),
        }
        return _envelope(SUCCESSION_TYPE, canonical(payload), {old_id: old, fresh.key_id: fresh})


def _envelope(payload_type: str, body: bytes, signers: Mapping[str, Ed25519PrivateKey | Fresh]) -> Envelope:
    message = pae(payload_type, body)
    return Envelope(
        payloadType=payload_type,
        payload=base64.b64encode(body).decode(),
        signatures=[
            Signature(keyid=identity, sig=base64.b64encode(key.sign(message)).decode())
            for identity, key in signers.items()
        ],
    )


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


def load(folder: Path, origin: str, known: Known, passphrase: bytes) -> Keys:
    """At the start of a process, alone with the folder: read the keys that sign, and make those that never were. What
    else lies there stays, since the database may turn out to be an old one. Raises KeyFault with one clear sentence,
    and then nothing was changed."""
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_folder(folder)
        found = _find(folder, known, passphrase)
        for purpose in PURPOSES:
            if purpose not in known:
                path = folder / f"{purpose}.pem"
                if not path.exists():
                    _create(path, _encrypted(Ed25519PrivateKey.generate(), passphrase))
                found[purpose] = [(path, _private(path, passphrase))]
        for pairs in found.values():
            for path, key in pairs:
                if b"ENCRYPTED" not in _read(path):
                    _create(path, _encrypted(key, passphrase))
        return _keys(origin, found)


def settle(folder: Path, known: Known, passphrase: bytes) -> None:
    """Alone with the folder, by a database that is no older than what was published: give the files their names, and
    destroy what signs no more or never did. Raises KeyFault, and then nothing was changed."""
    with _told(folder):
        _check_folder(folder)
        found = _find(folder, known, passphrase)
        for purpose in known:
            _name(folder, purpose, [path for path, _ in found[purpose]])


def read(folder: Path, origin: str, known: Known, passphrase: bytes) -> Keys:
    """While a process runs: the keys that sign now, and nothing in the folder is touched. Raises KeyFault."""
    with _told(folder):
        _check_folder(folder)
        return _keys(origin, _find(folder, known, passphrase))


def lying(folder: Path, purpose: str, passphrase: bytes) -> list[bytes]:
    """The public keys of the files that lie there, for whom no database tells which sign. Raises KeyFault."""
    with _told(folder):
        _check_folder(folder)
        paths = [path for path in (folder / name for name in _names(purpose)) if path.exists()]
        if not paths:
            raise KeyFault(f"密钥文件 {folder / purpose}.pem 丢失。请从备份恢复密钥文件夹。")
        return [raw(_private(path, passphrase).public_key()) for path in paths]


def prepare(folder: Path, purpose: str, passphrase: bytes, *, spared: bool = False) -> Fresh:
    """Make the next key of a purpose, durably, beside those that sign. `spared`: the current one need not be
    readable, since it is being revoked; the others must be, so that all lie under one passphrase. Raises KeyFault."""
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_folder(folder)
        for other in PURPOSES:
            path = folder / f"{other}.pem"
            if path.exists() and not (spared and other == purpose):
                _private(path, passphrase)
        key = Ed25519PrivateKey.generate()
        _create(folder / f"{purpose}.next.pem", _encrypted(key, passphrase))
        return Fresh(key)


def forget(folder: Path, purpose: str) -> None:
    """Destroy a next key that the database does not know."""
    (folder / f"{purpose}.next.pem").unlink(missing_ok=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyFault(f"密钥文件夹 {folder} 无法使用：{error.strerror}。") from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise KeyFault(f"密钥文件夹 {folder} 无法使用：不是文件夹，或不存在。")
    if folder.stat().st_mode & 0o022:
        raise KeyFault(f"密钥文件夹 {folder} 可被其他用户改动，请改为仅本人可用（chmod 700）。")


def _names(purpose: str) -> list[str]:
    return [f"{purpose}.pem", f"{purpose}.next.pem", *(["log.previous.pem"] if purpose == "log" else [])]


Found = dict[str, list[tuple[Path, Ed25519PrivateKey]]]


def _find(folder: Path, known: Known, passphrase: bytes) -> Found:
    """The files of the keys that sign, whatever they are called."""
    found: Found = {}
    for purpose, publics in known.items():
        files: dict[bytes, tuple[Path, Ed25519PrivateKey]] = {}
        faults: list[KeyFault] = []
        for path in (folder / name for name in _names(purpose)):
            try:
                if path.exists():
                    key = _private(path, passphrase)
                    files[raw(key.public_key())] = path, key
            except KeyFault as fault:
                faults.append(fault)
            except FileNotFoundError:
                continue  # renamed by a rotation since it was looked for
        if any(public not in files for public in publics):
            if faults:
                raise faults[0]
            if not files:
                raise KeyFault(
                    f"密钥文件 {folder / purpose}.pem 丢失。请从备份恢复；在此之前证据库拒绝启动。确已无法恢复的，"
                    "按丢失吊销并换新（revoke-key）。"
                )
            raise KeyFault(f"密钥文件 {folder} 中的 {purpose} 密钥与数据库登记的不是同一把，拒绝启动。")
        found[purpose] = [files[public] for public in publics]
    return found


def _keys(origin: str, found: Found) -> Keys:
    return Keys(origin, found["receipt"][0][1], [key for _, key in found["log"]])


def _name(folder: Path, purpose: str, paths: Sequence[Path]) -> None:
    """Give the files that sign their names, the older first, and remove the others."""
    named = [folder / f"{purpose}.pem", folder / f"{purpose}.previous.pem"][: len(paths)]
    for path, name in reversed(list(zip(paths, named, strict=True))):
        if path != name:
            path.rename(name)
    for other in (folder / name for name in _names(purpose)):
        if other not in named:
            other.unlink(missing_ok=True)
    _sync(folder)


def _private(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
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
        if os.geteuid() == 0:
            # Made by root at the command line, it must still be the service's own.
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise KeyFault(f"密钥文件 {path} 对其他用户开放，请改为仅本人可读（chmod 600）。")
    return path.read_bytes()
