"""The bytes of one request as they come, with the moments in which none do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from starlette.requests import ClientDisconnect

from services.api.errors import ChecksumTooLarge, PushIdle
from services.api.recordings.doors import limits

_PAUSE_SECONDS = 2.0


class Incoming:
    """Raises PushIdle where nothing comes for too long."""

    def __init__(self, request: Request, *, mbit_per_second: float, silence: float):
        self._stream = aiter(request.stream())
        self._rate, self._silence = mbit_per_second * 125_000, silence
        self._began, self._taken = time.monotonic(), 0
        self.broken_off = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        """An empty one is a pause of the sender's. To be closed by whoever does not take them all."""
        heard, waiting = time.monotonic(), asyncio.ensure_future(self._next())
        try:
            while True:
                await asyncio.wait({waiting}, timeout=min(_PAUSE_SECONDS, self._silence))
                if not waiting.done():
                    yield b""
                    if time.monotonic() - heard > self._silence:
                        raise PushIdle
                    continue
                chunk = waiting.result()
                if chunk is None:
                    return
                heard = time.monotonic()
                if chunk:
                    yield chunk
                    await self._pace(len(chunk))
                waiting = asyncio.ensure_future(self._next())
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def whole(self, most: int) -> bytes:
        """All of it at once, as far as it came. Raises ChecksumTooLarge."""
        data = bytearray()
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > most:
                    raise ChecksumTooLarge
        return bytes(data)

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._stream, None)
        except ClientDisconnect:
            self.broken_off = True
            return None

    async def _pace(self, size: int) -> None:
        self._taken += size
        ahead = self._taken / self._rate - (time.monotonic() - self._began)
        if ahead > limits.BURST_SECONDS:
            await asyncio.sleep(ahead - limits.BURST_SECONDS)
