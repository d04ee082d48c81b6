"""What the terminal keeps between runs: its key, who it is, the vault it pinned, and whose turn it is.

HOME/key.pem         Ed25519 private key, made here, never leaves (0600)
HOME/terminal.json   the enrolment's answer: recorder, api, the vault's pinned identity and what took over from it
HOME/lock            held (flock) by the one process that may write
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from services.terminal.spool import write_durably
from services.vault.contract import verify
from services.vault.contract.channel import raw_public
from services.vault.contract.wire import KeyId, VaultIdentity


class TerminalError(Exception):
    """What stops a command; the message is a Chinese sentence for people."""

    exit_code = 1


class NotEnrolled(TerminalError):
    exit_code = 2


class AlreadyEnrolled(TerminalError):
    exit_code = 2


class HomeInUse(TerminalError):
    exit_code = 2


class HomeUnusable(TerminalError):
    exit_code = 2


class Enrolled(BaseModel):
    """terminal.json."""

    model_config = ConfigDict(frozen=True)

    api: str
    model: str
    recorder: UUID
    name: str
    key_id: KeyId
    vault: VaultIdentity
    earlier: list[str] = []
    """Receipt keys (raw, base64) that were pinned before and handed over: what they signed is believed as before."""
    revoked: dict[str, AwareDatetime] = {}
    """By id, pinned receipt keys that were revoked, and when: they vouch for nothing that began after that."""

    def receipt_keys(self) -> dict[str, Ed25519PublicKey]:
        """The pinned keys, and no others, by id. Raises ValueError where key and id disagree."""
        raws = [base64.b64decode(each, validate=True) for each in (self.vault.receipt_key, *self.earlier)]
        if verify.key_id(raws[0]) != self.vault.receipt_key_id:
            raise ValueError("the vault's receipt key is not the one its id names")
        return {verify.key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in raws}

    def pinning(self, keys: Iterable[bytes]) -> Enrolled:
        """The same with these keys (raw) pinned, the last of them as the vault's own."""
        more = list(dict.fromkeys(map(_text, keys)))
        pinned = [each for each in (*self.earlier, self.vault.receipt_key) if each not in more] + more
        told = {"receipt_key": pinned[-1], "receipt_key_id": verify.key_id(base64.b64decode(pinned[-1]))}
        return self.model_copy(update={"vault": self.vault.model_copy(update=told), "earlier": pinned[:-1]})

    def trusting(self, key: bytes, now: datetime) -> Enrolled:
        """The same with this key (raw) pinned because somebody says so: those before it handed over to none."""
        pinned = self.pinning([key])
        gone = {identity: now for identity in self.receipt_keys() if identity != pinned.vault.receipt_key_id}
        kept = {name: at for name, at in pinned.revoked.items() if name != pinned.vault.receipt_key_id}
        return pinned.model_copy(update={"revoked": kept}).distrusting(gone)

    def distrusting(self, revoked: Mapping[str, datetime]) -> Enrolled:
        """The same with these keys revoked as far as they are pinned, at the earliest time that was told."""
        told = {name: at for name, at in revoked.items() if name in self.receipt_keys()}
        first = {name: min(at, self.revoked.get(name, at)) for name, at in told.items()}
        return self.model_copy(update={"revoked": self.revoked | first})


class Home:
    def __init__(self, path: Path):
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(f"终端目录无法使用：{path}（{error.strerror}）。") from error
        self._key, self._about = path / "key.pem", path / "terminal.json"

    def lock(self) -> Lock:
        return Lock(self.path)

    def enrolled(self) -> Enrolled:
        try:
            enrolled = Enrolled.model_validate_json(self._about.read_bytes())
            enrolled.receipt_keys()
        except FileNotFoundError as error:
            raise NotEnrolled(f"本终端尚未登记：{self.path}。请先运行 enroll。") from error
        except (ValidationError, ValueError) as error:
            raise HomeUnusable(f"登记文件已损坏：{self._about}。") from error
        return enrolled

    def keep(self, enrolled: Enrolled) -> None:
        write_durably(self._about, enrolled.model_dump_json(indent=2).encode() + b"\n")

    def key(self) -> Ed25519PrivateKey:
        """This terminal's key. Raises NotEnrolled where there is none."""
        try:
            key = load_pem_private_key(self._key.read_bytes(), None)
        except FileNotFoundError as error:
            raise NotEnrolled(f"本终端没有密钥：{self._key}。请先运行 enroll。") from error
        except ValueError as error:
            raise HomeUnusable(f"终端密钥已损坏：{self._key}。") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise HomeUnusable(f"终端密钥不是 Ed25519：{self._key}。")
        return key

    def new_key(self) -> Ed25519PrivateKey:
        """The key to enrol with: a new one, or the one of an attempt that never got its answer."""
        if self._about.exists():
            raise AlreadyEnrolled(f"本终端已经登记，不会覆盖：{self._about}。")
        if not self._key.exists():
            key = Ed25519PrivateKey.generate()
            write_durably(self._key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        return self.key()


class Lock:
    """Held while a process may write to the home; the system lets it go when the process dies."""

    def __init__(self, home: Path):
        self._path = home / "lock"
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise HomeInUse(f"另一个终端程序正在使用 {self._path.parent}，同一目录只能运行一个。") from error
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def public_text(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(raw_public(key)).decode()
