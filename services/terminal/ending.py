"""The end of an uplink: once every segment is receipted, the recording is closed and put away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.terminal.api import Api, CallFailed, Refused
from services.terminal.carried import Carried
from services.terminal.closing import (
    ManifestRejected,
    check_manifest,
    closing_payload,
    signed_closing,
    supplement_payload,
    unlisted,
)
from services.terminal.line import WINDOW, Line, name_of, why
from services.terminal.pins import Pinned
from services.terminal.progress import Progress
from services.vault.contract import wire


class _ClosedByServer(Exception):
    """The server closed in our absence: what its manifests do not list is for us to close as a supplement."""


class Ending:
    def __init__(
        self,
        line: Line,
        recording: Carried,
        api: Api,
        key: Ed25519PrivateKey,
        pinned: Pinned,
        progress: Progress,
        *,
        forget: bool,
        interrupted: bool,
    ):
        self._line, self._recording, self._api, self._key, self._pinned = line, recording, api, key, pinned
        self._progress, self._forget, self._interrupted = progress, forget, interrupted

    async def close(self) -> None:
        closing = await asyncio.to_thread(self._closing)
        try:
            closed = await self._closed_with(closing)
        except _ClosedByServer:
            closed = await self._supplemented()
        await asyncio.to_thread(self._recording.retire, closed, forget=self._forget)
        self._progress.tell(
            "closed",
            recording=str(self._recording.id),
            segments=closed.segments,
            bytes=closed.bytes,
            megabytes=closed.bytes / 1e6,
            ended_at=wire.rfc3339(closed.ended_at),
            manifest_sha256=closed.manifest_sha256,
            lock=closed.lock,
            closed_by=closed.closed_by,
        )

    async def _closed_with(self, closing: wire.Envelope) -> wire.ClosedRecording:
        while (closed := await self._closed(closing)) is None:
            pass
        return closed

    async def _supplemented(self) -> wire.ClosedRecording:
        """The last manifest, once all that we hold receipts for is in one: the server's, or supplements we sign."""
        while True:
            try:
                number, left, last = await unlisted(self._api, self._recording, self._keys())
                if last is not None and not left:
                    return last
                payload = supplement_payload(self._recording, left, number, interrupted=self._interrupted)
                await self._closed_with(signed_closing(payload, self._key))
            except _ClosedByServer:
                continue
            except CallFailed as error:
                self._line.know(error)
                await self._line.pause(error)
            except ManifestRejected as error:
                if not (error.by_unknown_key and await self._pinned.learn()):
                    await self._reject(error)

    def _keys(self) -> Mapping[str, Ed25519PublicKey]:
        return self._pinned.vouching(self._recording.started_at)

    async def _closed(self, closing: wire.Envelope) -> wire.ClosedRecording | None:
        """The verified answer to the closing, or None after a pause."""
        try:
            await self._line.open_if_unknown()
            closed = await self._api.close(self._recording.id, closing)
            try:
                check_manifest(closed, closing, self._keys())
            except ManifestRejected as error:
                if not (error.by_unknown_key and await self._pinned.learn()):
                    raise
                check_manifest(closed, closing, self._keys())
            return closed
        except CallFailed as error:
            self._line.know(error)
            if isinstance(error, Refused) and error.problem.slug == "closed-by-server":
                raise _ClosedByServer from error
            if isinstance(error, Refused) and error.problem.slug == "segments-outstanding":
                await self._offer_again()
            await self._line.pause(error)
        except ManifestRejected as error:
            await self._reject(error)
        return None

    async def _reject(self, error: ManifestRejected) -> None:
        reason = f"清单未通过验证，不予采信（{why(error)}）"
        self._progress.tell("error", recording=str(self._recording.id), reason=reason)
        await asyncio.sleep(self._line.backoff.next())

    def _closing(self) -> wire.Envelope:
        closing = self._recording.closing()
        if closing is None:
            payload = closing_payload(self._recording, interrupted=self._interrupted)
            closing = signed_closing(payload, self._key)
            self._recording.keep_closing(closing)
        return closing

    async def _offer_again(self) -> None:
        """The vault says it lacks what we hold receipts for: name it all again, so that it looks."""
        leaves = self._recording.leaves()
        for start in range(0, len(leaves), WINDOW):
            part = leaves[start : start + WINDOW]
            commits = [name_of(ask) for ask in part]
            try:
                await self._api.exchange(self._recording.id, wire.ExchangeRequest(asks=part, commits=commits))
            except CallFailed:
                return
