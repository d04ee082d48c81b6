"""Pruning: partial tiles that a full one has superseded are removed after a while (C2SP tlog-tiles allows it).

Whoever follows a checkpoint of a moment ago may still ask for its partial tiles, so the full one has to be public
for `after` first; the newest checkpoint's are never those of a full tile. How far it has come stands in a row, and
what is removed twice is gone: it may be killed anywhere and is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault.log import tiles, tree
from services.vault.models import LogCheckpoint, LogHead
from services.vault.stores.port import Store

_TILES = 64
"""Full tiles of level 0 whose partial ones are looked for in one run."""


class Pruner:
    def __init__(self, engine: AsyncEngine, store: Store, *, after: timedelta):
        self._engine, self._store, self._after = engine, store, after

    async def prune(self) -> int:
        """One run; how many files were removed. Raises StoreUnavailable."""
        public = select(col(LogCheckpoint.size)).where(col(LogCheckpoint.published_lines).is_not(None))
        public = public.where(col(LogCheckpoint.at) < func.now() - self._after)
        async with self._engine.connect() as db:
            done = int((await db.execute(select(col(LogHead.pruned_size)))).scalar_one())
            size = await db.scalar(public.order_by(col(LogCheckpoint.size).desc()).limit(1)) or 0
        upto = min(size, done + _TILES * tiles.WIDTH) // tiles.WIDTH * tiles.WIDTH
        if upto <= done:
            return 0
        removed = 0
        for level, number in _full(done, upto):
            removed += await self._store.unpublish(tiles.tile_path(level, number) + ".p/")
            if level == 0:
                removed += await self._store.unpublish(tiles.entries_path(number) + ".p/")
        async with self._engine.begin() as db:
            await db.execute(update(LogHead).where(col(LogHead.pruned_size) == done).values(pruned_size=upto))
        return removed


def _full(old: int, new: int) -> Iterator[tuple[int, int]]:
    """The tiles that are full in the tree of the size `new` and were not in that of `old`."""
    for level in range(tree.LEVELS):
        for number in range((old >> 8 * level) // tiles.WIDTH, (new >> 8 * level) // tiles.WIDTH):
            yield level, number
