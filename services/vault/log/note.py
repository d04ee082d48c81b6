"""Signing checkpoints as notes (C2SP signed-note, tlog-checkpoint). Their reading is `contract.verify`'s."""

from __future__ import annotations

import base64
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.vault.contract.verify import ED25519_NOTE, note_key_id, raw_key


class Signer(Protocol):
    """An Ed25519 private key."""

    def sign(self, data: bytes, /) -> bytes: ...
    def public_key(self) -> Ed25519PublicKey: ...


def vkey(name: str, raw_public_key: bytes) -> str:
    """The verifier key `name+id+base64(0x01 || key)`, as it is published."""
    _check_name(name)
    material = base64.b64encode(ED25519_NOTE + raw_public_key).decode()
    return f"{name}+{note_key_id(name, raw_public_key).hex()}+{material}"


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """What is signed: origin, size in entries and base64 root, a line each."""
    _check_name(origin)
    if size < 0 or len(root) != 32:
        raise ValueError("a checkpoint has a size of 0 or more and a root of 32 bytes")
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def sign_checkpoint(origin: str, size: int, root: bytes, *keys: Signer) -> str:
    """The checkpoint note, signed by the log's key under the name of its origin; by several, a line each, while one
    hands over to the next."""
    text = checkpoint_text(origin, size, root)
    lines = [note_key_id(origin, raw_key(key.public_key())) + key.sign(text.encode()) for key in keys]
    return f"{text}\n" + "".join(f"— {origin} {base64.b64encode(line).decode()}\n" for line in lines)


def _check_name(name: str) -> None:
    if not name or "+" in name or name.split() != [name] or not name.isprintable():
        raise ValueError(f"{name!r} cannot name a key: it is empty or holds a space, a plus or a control character")
