"""What the terminal says of itself while it records or sends, so that the server knows what it is missing.

Only the newest matters: one that is lost is not made up for, and a link that is down is the uplinks' to tell of.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from services.terminal.api import Api, CallFailed
from services.terminal.carried import Carried, Stock
from services.vault.contract import wire

EVERY_SECONDS = 5.0
AGAIN_SECONDS = 1.0
"""After one that did not get through."""
_LAST_SECONDS = 2.0
MAX_RECORDINGS = 50
State = Literal["recording", "draining", "stopped"]


@dataclass
class Heartbeat:
    """Say `now` after a change that must not wait."""

    api: Api
    spool: Stock
    state: State = "draining"
    capturing: bool = False
    live: UUID | None = None
    """Of `recordings`, the one that is being recorded."""
    recordings: dict[UUID, Carried] = field(default_factory=dict)
    _run: UUID = field(default_factory=uuid4)
    _due: asyncio.Event = field(default_factory=asyncio.Event)

    def now(self) -> None:
        self._due.set()

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """While the block lasts; its end is told as well, unless that takes too long."""
        going = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            going.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await going
            self.state, self.capturing, self.live = "stopped", False, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._tell()

    async def _beat(self) -> None:
        while True:
            self._due.clear()
            full = self.spool.full
            pause = EVERY_SECONDS if await self._tell() else AGAIN_SECONDS
            until = time.monotonic() + pause
            # Room comes back without anybody's saying so.
            while not self._due.is_set() and time.monotonic() < until and self.spool.full == full:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), min(1.0, pause))

    async def _tell(self) -> bool:
        try:
            await self.api.heartbeat(self.told())
        except CallFailed:
            return False
        return True

    def told(self) -> dict[str, Any]:
        named = sorted(self.recordings.values(), key=lambda one: (one.id != self.live, one.id))
        return {
            "run": str(self._run),
            "monotonic_ms": round(time.monotonic() * 1000),
            "device_time": wire.rfc3339(datetime.now(UTC)),
            "state": self.state,
            "capturing": self.capturing,
            "spool_used": self.spool.used,
            "spool_limit": self.spool.limit,
            "spool_full": self.spool.full,
            "recordings": [self._held(one) for one in named[:MAX_RECORDINGS]],
        }

    def _held(self, recording: Carried) -> dict[str, Any]:
        # Copied in one step: other threads take up and free segments meanwhile.
        pending = list(recording.pending.values())
        oldest = min(pending, key=lambda ask: ask.sequence, default=None)
        return {
            "id": str(recording.id),
            "live": recording.id == self.live,
            "next_sequence": recording.next_sequence,
            "pending": len(pending),
            "pending_bytes": sum(ask.size for ask in pending),
            "pending_ms": sum(ask.duration_ms for ask in pending),
            "skipped": recording.skipped,
            "oldest_at": oldest and wire.rfc3339(oldest.started_at),
        }
