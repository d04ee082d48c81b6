"""Whom this terminal believes: the vault's keys it pinned at enrolment, and those that successions lead to from them.

A receipt or manifest by a key that is not known makes it ask for the vault's keys. A succession signed by a pinned
key and by the one it hands over to is followed, and the new key is pinned beside the old, durably, before anything is
believed by it; nothing else is. Where a key was revoked no succession leads on: whoever runs the terminal is given
the new key by another way and has it pinned by `trust`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.terminal.api import Api, CallFailed
from services.terminal.home import Enrolled, Home
from services.terminal.progress import Progress
from services.vault.contract import verify, wire

_PAUSE_SECONDS = 5.0


@dataclass
class Pinned:
    """What signs receipts, and the weakest lock they may tell of. `follower` looks for keys that took over."""

    keys: Mapping[str, Ed25519PublicKey]
    lock: wire.Lock
    follower: Follower | None = None

    async def learn(self) -> bool:
        """Whether there are more keys now. Raises OSError (the disk)."""
        found = await self.follower.look() if self.follower else None
        if not found or found.keys() == self.keys.keys():
            return False
        self.keys = found
        return True


@dataclass
class Follower:
    home: Home
    enrolled: Enrolled
    api: Api
    progress: Progress
    _looked: float = -_PAUSE_SECONDS
    _said: str = ""
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self) -> Mapping[str, Ed25519PublicKey]:
        """The keys to believe, after the vault's were asked for, at most every five seconds."""
        async with self._one:
            if time.monotonic() - self._looked >= _PAUSE_SECONDS:
                self._looked = time.monotonic()
                try:
                    await self._follow(await self.api.keys())
                except CallFailed as error:
                    self._say(f"查不到证据库的密钥（{error}），稍后再查")
                except verify.VerificationError as error:
                    self._say(f"证据库的密钥接替声明未通过验证，不予采信（{error.chinese}）")
            return self.enrolled.receipt_keys()

    async def _follow(self, told: wire.VaultKeys) -> None:
        followed = followed_by(self.enrolled, told)
        if followed != self.enrolled:
            await asyncio.to_thread(self.home.keep, followed)
            self.enrolled = followed
            self.progress.tell("followed", key_id=followed.vault.receipt_key_id)
        elif not any(one.key_id in self.enrolled.receipt_keys() for one in told.keys if one.superseded_at is None):
            self._say("证据库的签名密钥已更换，没有可信的接替声明；请向管理员核对新公钥后运行 trust，片段都在暂存区")

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            self.progress.tell("error", reason=reason)


def followed_by(enrolled: Enrolled, told: wire.VaultKeys) -> Enrolled:
    """What is pinned once every succession that leads on is followed. Raises VerificationError."""
    vault = enrolled.vault
    receipts = verify.follow(enrolled.receipt_keys()[vault.receipt_key_id], _successions(told, "receipt"), "receipt")
    if len(receipts) > 1:
        enrolled = enrolled.pinning(verify.raw_key(key) for key in receipts[1:])
    if logs := _successions(told, "log"):
        log = verify.parse_vkey(vault.log_vkey)
        last = verify.raw_key(verify.follow(log.key, logs, "log")[-1])
        material = base64.b64encode(verify.ED25519_NOTE + last).decode()
        vkey = f"{log.name}+{verify.note_key_id(log.name, last).hex()}+{material}"
        enrolled = enrolled.model_copy(update={"vault": enrolled.vault.model_copy(update={"log_vkey": vkey})})
    return enrolled


def _successions(told: wire.VaultKeys, purpose: str) -> dict[str, dict[str, object]]:
    """By the id of the key that hands over."""
    known = [one for one in told.keys if one.purpose == purpose and one.succession and one.replaces]
    return {str(one.replaces): one.succession.model_dump() for one in known if one.succession}
