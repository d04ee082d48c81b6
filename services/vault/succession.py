"""Rotation, retirement and revocation of the vault's own keys; each is a statement in the log.

*Rotation.* The old key and the new one sign a succession (DSSE, two signatures), which the `key` statement carries:
whoever trusts the old key may follow it to the new one.

1. The new key is written to `<purpose>.next.pem`.
2. In one transaction, alone with the right to sign: the old key is superseded, the new one is current, and the
   statement waits for its index. Nothing signed by the old key is stored after this.
3. The file gets its name; a receipt key's old file is destroyed by that. The log's old key signs each checkpoint
   beside the new one until it is retired (`retire`), so that witnesses and readers who know the old one alone go on
   in the meantime; then its file is destroyed too.

A process that dies before 2 has committed leaves a file that the next start removes; after it, one that the next
start gives its name; each of them once it has seen that its database is not an old one.

*Revocation.* What the key signed counts only where the log told of it before the index of the `revocation`
statement. So the receipts that are stored here and that no minute's statement has told of yet are told first, in the
same transaction: what the vault itself gave out stays good, and what somebody else signs does not become so. If the
key is the current one a new key takes its place in the same transaction, without a succession: the `key` statement
names what it `replaces`, and whoever verifies must be given it by another way.

Tickets of the local folder are authenticated by what derives from the receipt key. A process that turns to a new
key takes tickets of the old one for as long as they live, at most 15 minutes; one that starts after a rotation, and
every one after a revocation, refuses them, and their holder is given another by asking again.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors, keys, minutes
from services.vault.contract import wire
from services.vault.contract.verify import key_id
from services.vault.keyring import alone, files_alone, on_record
from services.vault.keys import Fresh, Keys
from services.vault.log import statement
from services.vault.log.note import vkey
from services.vault.log.sequencer import enter
from services.vault.models import KeyRecord
from services.vault.settings import Settings

Purpose = Literal["receipt", "log"]
_WAIT_SECONDS = 20


@dataclass(frozen=True)
class Change:
    """The statement's act, and the key that is current after it."""

    act: UUID
    key_id: str
    public_key: bytes
    purpose: str


async def listed(db: AsyncConnection) -> Sequence[Any]:
    """Every key there ever was, the newest first; at most MAX_KEYS."""
    query = select(KeyRecord).order_by(col(KeyRecord.since).desc(), col(KeyRecord.purpose)).limit(wire.MAX_KEYS)
    return (await db.execute(query)).all()


async def told(engine: AsyncEngine, origin: str) -> wire.VaultKeys:
    """What anybody may know of them: no reasons."""
    async with engine.connect() as db:
        rows = await listed(db)
    return wire.VaultKeys(
        origin=origin,
        keys=[
            wire.VaultKey(
                purpose=row.purpose,
                key_id=row.key_id,
                public_key=base64.b64encode(row.public_key).decode(),
                vkey=vkey(origin, row.public_key) if row.purpose == "log" else None,
                since=row.since,
                superseded_at=row.superseded_at,
                retired_at=row.retired_at,
                revoked_at=row.revoked_at,
                replaces=row.replaces,
                succession=row.succession,
                act=row.act,
                revoked_act=row.revoked_act,
            )
            for row in rows
        ],
    )


async def found(db: AsyncConnection, own: Keys) -> None:
    """At the very first start: the two keys and a statement for each. Raises KeyFault where another process has
    just done so with others."""
    for purpose, public in (("receipt", own.receipt_public), ("log", own.log_public)):
        act, now = uuid7(), datetime.now(UTC)
        row = {"key_id": key_id(public), "purpose": purpose, "public_key": public, "act": act, "since": now}
        made = insert(KeyRecord).values(row).on_conflict_do_nothing().returning(col(KeyRecord.key_id))
        if (await db.execute(made)).one_or_none():
            await enter(db, act, statement.build("key", act, now, _fields(purpose, public)))
    signing = col(KeyRecord.superseded_at).is_(None)
    recorded = {row.purpose: row.public_key for row in await db.execute(select(KeyRecord).where(signing))}
    if recorded != {"receipt": own.receipt_public, "log": own.log_public}:
        raise errors.KeyFault(
            "另一个证据库进程刚以别的密钥登记了自己；同一数据库的各进程须使用同一密钥文件夹，拒绝启动。"
        )


async def rotate(engine: AsyncEngine, settings: Settings, purpose: Purpose, reason: str) -> Change:
    """`reason` stands in the succession, which anybody may read. Raises KeyFault, KeyRetiring."""
    passphrase = await asyncio.to_thread(keys.read_passphrase, settings.keys_passphrase_file)
    async with files_alone(engine):
        own = await _settled(engine, settings, passphrase)
        if purpose == "log" and len(own.log_key_ids) > 1:
            raise errors.KeyRetiring
        # 1. The new key, on the disk.
        fresh = await asyncio.to_thread(keys.prepare, settings.keys, purpose, passphrase)
        # 2. One transaction.
        now = datetime.now(UTC)
        handed = own.hand_over(purpose, fresh, {"at": wire.rfc3339(now), "reason": reason})
        try:
            async with engine.begin() as db:
                await alone(db, _WAIT_SECONDS)
                values: dict[str, Any] = {"superseded_at": now}
                if purpose == "receipt":
                    values["retired_at"] = now
                current = col(KeyRecord.superseded_at).is_(None) & (col(KeyRecord.purpose) == purpose)
                old = own.signing[purpose][0]
                ended = update(KeyRecord).where(current, col(KeyRecord.key_id) == old).values(values)
                if not (await db.execute(ended)).rowcount:
                    raise errors.KeyNotCurrent
                act = await _introduce(db, purpose, fresh, now, old, reason, handed)
        except Exception:
            await _undone(engine, settings, purpose, fresh)
            raise
        # 3. The names.
        await _named(engine, settings, passphrase)
    return Change(act, fresh.key_id, fresh.public, purpose)


async def retire(engine: AsyncEngine, settings: Settings, identity: str) -> Change:
    """The log's previous key signs no more. The same again changes nothing. Raises NoSuchKey, KeyNotRetiring."""
    passphrase = await asyncio.to_thread(keys.read_passphrase, settings.keys_passphrase_file)
    async with files_alone(engine):
        now, act = datetime.now(UTC), uuid7()
        async with engine.begin() as db:
            await alone(db, _WAIT_SECONDS)
            row = await _row(db, identity)
            if row.superseded_at is None:
                raise errors.KeyNotRetiring
            if row.retired_at is None:
                this = col(KeyRecord.key_id) == identity
                await db.execute(update(KeyRecord).where(this).values(retired_at=now, retired_act=act))
                fields = {"purpose": row.purpose, "key_id": identity}
                await enter(db, act, statement.build("retirement", act, now, fields))
            else:
                act = row.retired_act or row.act
        await _named(engine, settings, passphrase)
    return Change(act, identity, row.public_key, row.purpose)


async def revoke(
    engine: AsyncEngine, settings: Settings, identity: str, code: wire.RevocationCode, reason: str
) -> Change:
    """`reason` stays private, as statements are. If the key is current a new one takes its place; the old one's file
    need not be readable. The same again changes nothing. Raises NoSuchKey, KeyFault."""
    passphrase = await asyncio.to_thread(keys.read_passphrase, settings.keys_passphrase_file)
    async with files_alone(engine):
        async with engine.connect() as db:
            before = await _row(db, identity)
        if before.revoked_at is not None:
            return Change(before.revoked_act, identity, before.public_key, before.purpose)
        purpose, fresh = before.purpose, None
        if before.superseded_at is None:
            # 1. The new key, on the disk, once no other that signs lies under its name.
            with suppress(errors.KeyFault):
                await _settled(engine, settings, passphrase)
            fresh = await asyncio.to_thread(keys.prepare, settings.keys, purpose, passphrase, spared=True)
        # 2. One transaction.
        now, act = datetime.now(UTC), uuid7()
        try:
            async with engine.begin() as db:
                await alone(db, _WAIT_SECONDS)
                row = await _row(db, identity)
                if (row.superseded_at, row.revoked_at) != (before.superseded_at, None):
                    raise errors.KeyNotCurrent
                if purpose == "receipt":
                    await minutes.state_all(db)
                values = {"superseded_at": row.superseded_at or now, "retired_at": row.retired_at or now}
                values |= {"revoked_at": now, "revoked_act": act, "revoked_code": code, "revoked_reason": reason}
                await db.execute(update(KeyRecord).where(col(KeyRecord.key_id) == identity).values(values))
                fields = {"purpose": purpose, "key_id": identity, "code": code, "reason": reason}
                await enter(db, act, statement.build("revocation", act, now, fields))
                if fresh:
                    await _introduce(db, purpose, fresh, now, identity, reason, None)
        except Exception:
            if fresh:
                await _undone(engine, settings, purpose, fresh)
            raise
        # 3. The names.
        if fresh or before.retired_at is None:
            await _named(engine, settings, passphrase, spared=fresh is not None)
    current = fresh or before
    return Change(act, current.key_id, current.public if fresh else before.public_key, purpose)


async def _introduce(
    db: AsyncConnection,
    purpose: str,
    fresh: Fresh,
    now: datetime,
    replaces: str,
    reason: str,
    handed: wire.Envelope | None,
) -> UUID:
    act = uuid7()
    envelope = handed.model_dump() if handed else None
    row = {"key_id": fresh.key_id, "purpose": purpose, "public_key": fresh.public, "act": act, "since": now}
    row |= {"replaces": replaces, "succession": envelope, "reason": reason}
    await db.execute(insert(KeyRecord).values(row))
    fields = _fields(purpose, fresh.public) | {"replaces": replaces} | ({"succession": envelope} if handed else {})
    await enter(db, act, statement.build("key", act, now, fields))
    return act


def _fields(purpose: str, public: bytes) -> dict[str, Any]:
    return {"purpose": purpose, "key_id": key_id(public), "public_key": base64.b64encode(public).decode()}


async def _row(db: AsyncConnection, identity: str) -> Any:
    row = (await db.execute(select(KeyRecord).where(col(KeyRecord.key_id) == identity))).one_or_none()
    if row is None:
        raise errors.NoSuchKey
    return row


async def _settled(engine: AsyncEngine, settings: Settings, passphrase: bytes) -> Keys:
    known = await on_record(engine)
    if not known:
        raise errors.KeyFault("证据库尚未启动过，还没有密钥。")
    await asyncio.to_thread(keys.settle, settings.keys, known, passphrase)
    return await asyncio.to_thread(keys.read, settings.keys, settings.origin, known, passphrase)


async def _undone(engine: AsyncEngine, settings: Settings, purpose: str, fresh: Fresh) -> None:
    """Destroy a key that did not become one. Whether it did is asked, since an answer may have been lost; a database
    that is away leaves that to the next start."""
    known = await on_record(engine)
    if fresh.public not in known.get(purpose, []):
        await asyncio.to_thread(keys.forget, settings.keys, purpose)


async def _named(engine: AsyncEngine, settings: Settings, passphrase: bytes, *, spared: bool = False) -> None:
    try:
        await _settled(engine, settings, passphrase)
    except errors.KeyFault as fault:
        if not spared:
            raise errors.KeyFault(
                f"更换已经生效并记入日志，但密钥文件还没有归位：{fault}修复后重新启动即可。"
            ) from fault
