"""Which keys this process signs with, and that nothing is stored that another signed.

The database says which keys sign (`succession.py` changes it), the folder holds them (`keys.py`). Any number of
processes may run while a key is rotated:

1. Whoever stores a signature does so in a transaction that first shares the right to sign (`hold`): until it ends no
   key is rotated or revoked, and it is refused where the key that signed is not the current one any more.
2. What was refused reads the keys anew and signs again (`signed`). A process that nobody asks for a signature looks
   each second, so that what it tells of itself is true.
3. Where the new key cannot be read here, this process signs no more and says why; what was asked of it may be asked
   again, of it or another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors, keys
from services.vault.contract import wire
from services.vault.contract.verify import key_id
from services.vault.keys import Keys
from services.vault.models import KeyRecord
from services.vault.settings import Settings

_log = logging.getLogger("quancheng.vault.keys")
_TRIES, _READS, _PAUSE_SECONDS = 3, 5, 0.2
_SHARE = text("SELECT pg_advisory_xact_lock_shared(hashtext('quancheng-vault-signing'))")
_ALONE = text("SELECT pg_advisory_xact_lock(hashtext('quancheng-vault-signing'))")
_LOCK_NOT_AVAILABLE = "55P03"
_FILES = "hashtext('quancheng-vault-key-files')"
T = TypeVar("T")


class KeyChanged(Exception):
    """What was signed was not signed by the current key: sign again."""


class Keyring:
    """The keys of a running process. `turned` is called with the new ones whenever they became others, and with
    whether what the earlier receipt key stands for is still good: not where it was revoked."""

    def __init__(self, engine: AsyncEngine, settings: Settings, passphrase: bytes, own: Keys):
        self.keys = own
        self.turned: Callable[[Keys, bool], None] = lambda _, __: None
        self._engine, self._settings, self._passphrase = engine, settings, passphrase
        self._renewing = asyncio.Lock()
        self._fault = ""

    @property
    def origin(self) -> str:
        return self.keys.origin

    def envelope(self, payload_type: str, payload: dict[str, object]) -> wire.Envelope:
        return self.keys.envelope(payload_type, payload)

    async def share(self, db: AsyncConnection) -> None:
        """To the end of this transaction no key is rotated or revoked. Before the transaction locks rows that a
        revocation must tell of; `hold` is enough for any other."""
        await db.execute(_SHARE)

    async def hold(self, db: AsyncConnection, purpose: str, signers: Sequence[str]) -> None:
        """To the end of this transaction the keys that sign stay as they are. Raises KeyChanged unless they are
        `signers`, the current one first. One lock in memory and one row, whatever the history."""
        await db.execute(_SHARE)
        if [row.key_id for row in await _signing(db, purpose)] != list(signers):
            raise KeyChanged

    async def signed(self, step: Callable[[], Awaitable[T]]) -> T:
        """What `step` gives, begun anew with the keys that sign now where it raised KeyChanged. Raises
        SigningStopped where they cannot be read."""
        for _ in range(_TRIES):
            try:
                return await step()
            except KeyChanged:
                await self.renew()
        raise errors.SigningStopped("the keys changed again and again")

    async def renew(self) -> None:
        """Read the keys anew if the database names others than these. Raises SigningStopped."""
        async with self._renewing:
            known = await on_record(self._engine)
            if _ids(known) == self.keys.signing:
                return
            own = await self._read(known)
            this = col(KeyRecord.key_id) == self.keys.receipt_key_id
            async with self._engine.connect() as db:
                revoked = await db.scalar(select(col(KeyRecord.revoked_at)).where(this))
            self._fault, self.keys = "", own
            _log.warning("证据库的签名密钥已更换，现由 %s… 签发，日志由 %s… 签署。", *_short(own))
            self.turned(own, revoked is None)

    async def _read(self, known: keys.Known) -> Keys:
        for left in reversed(range(_READS)):
            try:
                return await asyncio.to_thread(
                    keys.read, self._settings.keys, self._settings.origin, known, self._passphrase
                )
            except errors.KeyFault as fault:
                # A rotation gives the files their names just now, or they are not for us to read.
                if not left:
                    self._say(str(fault))
                    raise errors.SigningStopped(str(fault)) from fault
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError("the loop above returns or raises")

    def _say(self, fault: str) -> None:
        if fault != self._fault:
            _log.critical("签名密钥已更换，本进程读不到新的密钥，已停止签发：%s", fault)
        self._fault = fault


def _short(own: Keys) -> tuple[str, str]:
    return own.receipt_key_id[:16], own.log_key_ids[0][:16]


async def on_record(engine: AsyncEngine) -> dict[str, list[bytes]]:
    """By purpose, the public keys that sign now, the current one first; empty before the very first start."""
    async with engine.connect() as db:
        known = {purpose: [row.public_key for row in await _signing(db, purpose)] for purpose in keys.PURPOSES}
    return {purpose: publics for purpose, publics in known.items() if publics}


async def _signing(db: AsyncConnection, purpose: str) -> Sequence[Any]:
    query = select(col(KeyRecord.key_id), col(KeyRecord.public_key))
    query = query.where(col(KeyRecord.purpose) == purpose, col(KeyRecord.retired_at).is_(None))
    return (await db.execute(query.order_by(col(KeyRecord.superseded_at).nulls_first()))).all()


def _ids(known: dict[str, list[bytes]]) -> dict[str, list[str]]:
    return {purpose: [key_id(public) for public in publics] for purpose, publics in known.items()}


async def alone(db: AsyncConnection, seconds: int) -> None:
    """To the end of this transaction nothing that is signed is stored. Raises SigningBusy where that cannot be had
    within `seconds`."""
    await db.execute(text(f"SET LOCAL lock_timeout = {seconds * 1000}"))
    try:
        await db.execute(_ALONE)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise errors.SigningBusy from error


@asynccontextmanager
async def files_alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """No other process gives, takes or renames key files meanwhile."""
    async with engine.connect() as plain:
        db = await plain.execution_options(isolation_level="AUTOCOMMIT")
        await db.execute(text(f"SELECT pg_advisory_lock({_FILES})"))
        try:
            yield
        finally:
            await db.execute(text(f"SELECT pg_advisory_unlock({_FILES})"))
