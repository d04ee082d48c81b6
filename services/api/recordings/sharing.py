"""What several ask for at once is made once, and the newest of it is kept in memory, up to a bound."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass
class _Making:
    task: asyncio.Task[bytes]
    waiting: int = 0


class Shared(Generic[K]):
    """At most `limit` bytes and `count` things are kept; what was asked for longest ago goes first. What nobody waits
    for any more is not made to its end."""

    def __init__(self, limit: int, count: int):
        self._limit, self._count = limit, count
        self._kept: OrderedDict[K, bytes] = OrderedDict()
        self._making: dict[K, _Making] = {}
        self._size = 0

    async def get(self, key: K, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Raises what `make` raises, to each who waits."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(asyncio.create_task(make()))
            making.task.add_done_callback(lambda _: self._made(key, making))
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.waiting -= 1
            if not making.waiting and not making.task.done():
                self._forget(key, making)
                making.task.cancel()

    def drop(self, wanted: Callable[[K], bool]) -> None:
        """Forget what is kept under these keys."""
        for key in [key for key in self._kept if wanted(key)]:
            self._size -= len(self._kept.pop(key))

    def _forget(self, key: K, making: _Making) -> None:
        if self._making.get(key) is making:
            del self._making[key]

    def _made(self, key: K, making: _Making) -> None:
        self._forget(key, making)
        if making.task.cancelled() or making.task.exception() is not None:
            return
        self._kept[key] = made = making.task.result()
        self._size += len(made)
        while self._size > self._limit or len(self._kept) > self._count:
            _, oldest = self._kept.popitem(last=False)
            self._size -= len(oldest)
