"""Work that is worth doing only while whoever asked for it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")
_LOOK_SECONDS = 0.25


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns or raises; it is cancelled once the request's connection is gone, and so is this."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            if not task.done() and await request.is_disconnected():
                raise ConnectionResetError("nobody waits for this any more")
        return task.result()
    finally:
        task.cancel()
