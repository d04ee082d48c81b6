"""What the vault's operator does with its own keys, at the command line, while it runs or not.

    keys                                            every key there was, the newest first
    rotate-key receipt|log --reason 理由             the old key hands over to a new one
    retire-key KEY_ID                               the log's previous key signs no more
    revoke-key KEY_ID --reason 理由 [--code 代码]     compromised 泄露 (by default), lost 丢失, withdrawn 停用

The reason of a rotation stands in the succession, which anybody may read; that of a revocation stays private.
Exit codes: 0 done, 1 refused, 3 keys or database are not to be used, 64 wrong call.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault import database, succession
from services.vault.contract import wire
from services.vault.errors import VaultError
from services.vault.keys import PURPOSES, pem
from services.vault.log.note import vkey
from services.vault.log.publish import check_history
from services.vault.models import LogEntry
from services.vault.settings import Settings
from services.vault.stores import open_store
from services.vault.succession import Change

COMMANDS = ("keys", "rotate-key", "retire-key", "revoke-key")
_WAIT_SECONDS = 5
_NAMES = {"receipt": "凭证密钥", "log": "日志密钥"}


async def run(settings: Settings, arguments: list[str]) -> int:
    engine = database.connect(settings)
    try:
        return await _run(engine, settings, arguments)
    except VaultError as error:
        print(f"✗ {error.title}", file=sys.stderr)
        return 1
    finally:
        await engine.dispose()


async def _run(engine: AsyncEngine, settings: Settings, arguments: list[str]) -> int:
    match arguments:
        case ["keys"]:
            async with engine.connect() as db:
                for row in await succession.listed(db):
                    print(_line(row))
        case ["rotate-key", ("receipt" | "log") as purpose, "--reason", reason] if _fit(reason):
            await _no_older(engine, settings)
            change = await succession.rotate(engine, settings, purpose, reason)
            print(f"✓ 已更换{_NAMES[purpose]}，新密钥 {change.key_id}")
            _tell_public(settings, change)
            if purpose == "log":
                print("上一把仍与新密钥一同联署；见证人登记新密钥之后，请用 retire-key 停用它。")
            await _tell_logged(engine, change.act)
        case ["retire-key", identity]:
            await _no_older(engine, settings)
            change = await succession.retire(engine, settings, identity)
            print(f"✓ 已停用{_NAMES[change.purpose]} {identity}")
            await _tell_logged(engine, change.act)
        case ["revoke-key", identity, "--reason", reason, *more] if _fit(reason) and _code(more):
            await _no_older(engine, settings)
            change = await succession.revoke(engine, settings, identity, _code(more), reason)
            print(f"✓ 已吊销{_NAMES[change.purpose]} {identity}")
            if change.key_id != identity:
                print(f"已换新密钥 {change.key_id}；它没有旧密钥的接替声明，请另行交给核验人、见证人和终端。")
                _tell_public(settings, change)
            await _tell_logged(engine, change.act)
        case _:
            print(__doc__, file=sys.stderr)
            return 64
    return 0


async def _no_older(engine: AsyncEngine, settings: Settings) -> None:
    """On an old dump a change would end another history of the keys, and destroy files that the newer one needs.
    Raises HistoryLost, StoreUnavailable."""
    store = open_store(settings, b"")
    try:
        await check_history(engine, store, settings.origin)
    finally:
        await store.stop()


def _fit(reason: str) -> bool:
    return 2 <= len(reason) <= 500 and reason.isprintable()


def _code(more: list[str]) -> Any:
    """The code that was given, by default `compromised`; None where the call is wrong."""
    match more:
        case []:
            return "compromised"
        case ["--code", code] if code in get_args(wire.RevocationCode):
            return code
    return None


def _line(row: Any) -> str:
    states = [f"{wire.rfc3339(row.since)} 启用"]
    if row.superseded_at is None:
        states.append("现行")
    elif row.retired_at is None:
        states.append("联署中，待停用")
    else:
        states.append(f"{wire.rfc3339(row.retired_at)} 停用")
    if row.revoked_at is not None:
        states.append(f"{wire.rfc3339(row.revoked_at)} 吊销（{row.revoked_code}：{row.revoked_reason}）")
    if row.replaces is not None:
        states.append(f"{'接替' if row.succession else '取代（无接替声明）'} {row.replaces}：{row.reason}")
    return f"{row.key_id} {_NAMES[row.purpose]}（{'，'.join(states)}）"


def _tell_public(settings: Settings, change: Change) -> None:
    print(pem(change.public_key).strip())
    if change.purpose == PURPOSES[1]:
        print(vkey(settings.origin, change.public_key))


async def _tell_logged(engine: AsyncEngine, act: UUID) -> None:
    for _ in range(_WAIT_SECONDS * 5):
        async with engine.connect() as db:
            index = await db.scalar(select(col(LogEntry.position)).where(col(LogEntry.act) == act))
        if index is not None:
            print(f"已记入日志，序号 {index}。")
            return
        await asyncio.sleep(0.2)
    print("已登记；证据库运行时即记入日志。")
