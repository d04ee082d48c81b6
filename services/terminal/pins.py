"""Whom this terminal believes: the vault's keys it pinned at enrolment, and those that successions lead to from them.

A receipt or manifest by a key that is not known makes it ask for the vault's keys. A succession signed by a pinned
key and by the one it hands over to is followed, and the new key is pinned beside the old, durably, before anything is
believed by it; nothing else is. Where a key was revoked no succession leads on: whoever runs the terminal is given
the new key by another way and has it pinned by `trust`. From when a key was revoked, as `trust` or the vault tells,
it vouches for nothing that began later; a server that lies about that can only keep the spool from being freed.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.terminal.api import Api, CallFailed
from services.terminal.home import Enrolled, Home
from services.terminal.progress import Progress
from services.vault.contract import verify, wire

_PAUSE_SECONDS = 5.0
_CLOCKS_DIFFER = timedelta(minutes=15)


@dataclass
class Pinned:
    """What signs receipts, and the weakest lock they may tell of. `follower` looks for keys that took over."""

    keys: Mapping[str, Ed25519PublicKey]
    lock: wire.Lock
    follower: Follower | None = None
    revoked: Mapping[str, datetime] = field(default_factory=dict)

    def vouching(self, began: datetime) -> Mapping[str, Ed25519PublicKey]:
        """The keys that are believed about what began then."""
        revoked = {name for name, at in self.revoked.items() if began >= at + _CLOCKS_DIFFER}
        return {name: key for name, key in self.keys.items() if name not in revoked}

    async def learn(self, *, quietly: bool = False) -> bool:
        """Whether there are more keys now. `quietly`: of a link that is down nothing is said. Raises OSError (the
        disk)."""
        if self.follower is None:
            return False
        before, enrolled = self.keys, await self.follower.look(quietly=quietly)
        self.keys, self.revoked = enrolled.receipt_keys(), enrolled.revoked
        return self.keys.keys() != before.keys()


@dataclass
class Follower:
    home: Home
    enrolled: Enrolled
    api: Api
    progress: Progress
    _looked: float = -_PAUSE_SECONDS
    _said: str = ""
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self, *, quietly: bool = False) -> Enrolled:
        """What is pinned, after the vault's keys were asked for, at most every five seconds."""
        async with self._one:
            if time.monotonic() - self._looked >= _PAUSE_SECONDS:
                # What was asked for no reason keeps nobody who has one from asking.
                self._looked = self._looked if quietly else time.monotonic()
                try:
                    await self._follow(await self.api.keys())
                except CallFailed as error:
                    if not quietly:
                        self._say(f"查不到证据库的密钥（{error}），稍后再查")
                except verify.VerificationError as error:
                    self._say(f"证据库的密钥接替声明未通过验证，不予采信（{error.chinese}）")
            return self.enrolled

    async def _follow(self, told: wire.VaultKeys) -> None:
        gone = {one.key_id: one.revoked_at for one in told.keys if one.purpose == "receipt" and one.revoked_at}
        before, followed = self.enrolled, followed_by(self.enrolled, told).distrusting(gone)
        if followed != before:
            # An address that is given for one run stays of that run.
            kept = followed.model_copy(update={"api": self.home.enrolled().api})
            await asyncio.to_thread(self.home.keep, kept)
            self.enrolled = followed
        if followed.vault != before.vault:
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
