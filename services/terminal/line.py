"""What the two halves of an uplink share, sending and ending: calls about one recording, and what refusals mean."""

from __future__ import annotations

import asyncio

from services.terminal.api import Api, Backoff, CallFailed, Refused
from services.terminal.carried import Carried
from services.terminal.progress import Progress
from services.vault.contract import verify, wire

WINDOW = 32
"""Segments asked for and not yet receipted, at most."""
FINAL = {"recording-differs", "closing-differs", "bad-closing", "key-revoked", "takeover-differs", "whole-differs"}
"""Refusals of the recording as a whole that no repetition changes."""


class RecordingStuck(Exception):
    """No repetition will help: the server holds this recording closed, or otherwise than we do."""


class Line:
    def __init__(self, recording: Carried, api: Api, progress: Progress):
        self._recording, self._api, self._progress = recording, api, progress
        self.backoff = Backoff()
        # A receipt shows that the opening has arrived.
        self._unknown = not recording.receipted

    async def open_if_unknown(self) -> None:
        if self._unknown:
            await self._api.open(self._recording.id, self._recording.started_at, self._recording.opened_as)
            self._unknown = False

    def know(self, error: CallFailed) -> None:
        """Some refusals say what to do before asking again."""
        if not isinstance(error, Refused):
            return
        slug = error.problem.slug
        if slug == "no-such-recording":
            self._unknown = True
        elif slug in FINAL:
            raise RecordingStuck(error.problem.title)

    async def pause(self, error: CallFailed) -> None:
        pause = self.backoff.next(error.retry_after)
        self.tell_retry(str(error), pause)
        await asyncio.sleep(pause)

    def tell_retry(self, reason: str, seconds: float, sequence: int | None = None) -> None:
        self._progress.tell(
            "retry",
            recording=str(self._recording.id),
            reason=reason,
            seconds=round(seconds, 2),
            **({} if sequence is None else {"sequence": sequence}),
        )


def why(error: Exception) -> str:
    return error.chinese if isinstance(error, verify.VerificationError) else str(error)


def name_of(ask: wire.SegmentAsk) -> wire.SegmentName:
    return wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256)
