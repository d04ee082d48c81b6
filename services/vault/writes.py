"""Whether what the vault itself writes reaches the store: log, manifests, time-stamps.

    async with writes.of("log"):
        await publisher.publish()

What fails is repeated from the rows by whoever called; here it becomes an alarm about what cannot be written, at once
where the store is full or has something else in its place, and after ten seconds where it gives no good answer, until
the same has succeeded again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from services.vault.alarms import Alarms
from services.vault.errors import StoredDiffers, StoreFull, StoreUnavailable

FULL, AWAY, FORKED = "store-full", "store-away", "store-forked"
What = Literal["log", "manifests", "timestamps"]
_AWAY_SECONDS, _AGAIN_SECONDS = 10.0, 60.0
_NAMES: dict[What, str] = {"log": "日志", "manifests": "清单", "timestamps": "时间戳"}


class OwnWrites:
    def __init__(self, alarms: Alarms):
        self._alarms = alarms
        self._fine: set[What] = set()
        self._failing: dict[What, float] = {}
        self._told: dict[What, float] = {}

    @asynccontextmanager
    async def of(self, what: What) -> AsyncIterator[None]:
        try:
            yield
        except StoreUnavailable as error:
            await self._failed(what, error)
            raise
        except StoredDiffers as error:
            self._fine.discard(what)
            detail = f"存储中已有的{_NAMES[what]}与证据库将写入的不同（{error}）：数据库可能不是原来的，或存储被改动"
            await self._alarms.sound(FORKED, what, detail)
            raise
        # Another process may have sounded it and died: the first success clears it, whoever sounded it.
        if what not in self._fine:
            for kind in (FULL, AWAY, FORKED):
                await self._alarms.clear(kind, what)
            self._fine.add(what)
            self._failing.pop(what, None)
            self._told.pop(what, None)

    async def _failed(self, what: What, error: StoreUnavailable) -> None:
        now, full = asyncio.get_running_loop().time(), isinstance(error, StoreFull)
        self._fine.discard(what)
        since = self._failing.setdefault(what, now)
        if not full and now - since < _AWAY_SECONDS:
            return
        if now - self._told.get(what, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return
        why = "存储空间不足" if full else "存储没有正常应答"
        detail = f"证据库的{_NAMES[what]}写不进存储：{why}（{error}）。恢复后自动补写，无须重做"
        await self._alarms.sound(FULL if full else AWAY, what, detail)
        self._told[what] = now
