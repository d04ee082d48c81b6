"""One thing that is done to many objects of the store, whatever becomes of single ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.vault import errors

AT_ONCE = 16


async def each(
    rows: Sequence[Any], do: Callable[[Any], Awaitable[None]]
) -> tuple[list[Any], list[Any], list[Exception]]:
    """At most `AT_ONCE` at a time: those that are done, those that are not in the store, and what else failed. After
    as many failures the rest is left, since the store is away then."""
    waiting = iter(rows)
    done: list[Any] = []
    missing: list[Any] = []
    failed: list[Exception] = []

    async def work() -> None:
        for row in waiting:
            try:
                await do(row)
                done.append(row)
            except errors.NotInStore:
                missing.append(row)
            except Exception as error:
                failed.append(error)
            if len(failed) >= AT_ONCE:
                return

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return done, missing, failed
