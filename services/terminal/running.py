"""What every run of the terminal has: its key, a connection, whom it believes, and how a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable
from typing import Any, NoReturn

from services.terminal.api import Api
from services.terminal.home import Enrolled, Home
from services.terminal.pins import Follower, Pinned
from services.terminal.progress import Progress

DONE, REMAINS = 0, 1
"""Exit codes: all receipted and closed; something still waits."""


class Running:
    """Signals stop it: the first in good order within `drain_seconds`, the second at once."""

    def __init__(self, home: Home, enrolled: Enrolled, progress: Progress, *, drain_seconds: float):
        self._progress, self._drain_seconds = progress, drain_seconds
        self._key = home.key()
        self._api = Api(enrolled.api, self._key)
        follower = Follower(home, enrolled, self._api, progress)
        self._pinned = Pinned(enrolled.receipt_keys(), enrolled.vault.lock, follower, enrolled.revoked)
        self._stopping = asyncio.Event()

    @contextlib.asynccontextmanager
    async def _asking_for_keys(self) -> AsyncIterator[None]:
        """Once at the beginning, so that a key that was revoked meanwhile is known to be."""
        asking = asyncio.create_task(self._pinned.learn(quietly=True))
        try:
            yield
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await asking

    async def _drained(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """All of these done, or `drain_seconds` after the first signal; then none goes on."""
        everything: asyncio.Future[Any] = asyncio.gather(*tasks)
        told: asyncio.Future[Any] = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({everything, told}, return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            await asyncio.wait({everything}, timeout=self._drain_seconds)
        told.cancel()
        everything.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await everything

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told_to_stop)

    def _told_to_stop(self) -> None:
        if self._stopping.is_set():
            self._leave_at_once()
        self._stopping.set()
        self._progress.tell("stopping", reason="收到停止信号")

    def _leave_at_once(self) -> NoReturn:
        """What is on disk is whole at every instant, so there is nothing to tidy."""
        os._exit(130)
