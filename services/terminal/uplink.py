"""The terminal's half of the sealing cycle, numbered as in the design:

    1. Ask       name sequence, digest, size and device times
    2. Ticket    the answer: a signed PUT for exactly these bytes
    3. Put       straight to the store; 200, or 412 "already there": either way go on
    4. Check     commit: the vault looks at what the store has
    5. Receipt   its answer, believed only after its signature and contents were verified here
    6. Free      the receipt is on disk, then the bytes go

Asks and commits of many segments share one `exchange`, one exchange is in flight at a time, and puts go on
beside it; while they do, there is at most one exchange in `PACE_SECONDS`. Whatever fails leads back to asking,
with bounded back-off and for as long as the process lives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.terminal.api import CONNECT_SECONDS, IDLE_SECONDS, Api, Backoff, CallFailed, Refused
from services.terminal.closing import (
    ManifestRejected,
    check_manifest,
    closing_payload,
    signed_closing,
    supplement_payload,
    unlisted,
)
from services.terminal.pins import Pinned
from services.terminal.progress import Progress
from services.terminal.spool import RecordingSpool, SegmentDamaged
from services.vault.contract import verify, wire

WINDOW = 32
"""Segments asked for and not yet receipted, at most."""
PUTS = 4
PACE_SECONDS = 0.5
"""A segment alone is exchanged at once; where others are being put beside it, the calls that carry one segment
each would take the time from the bytes."""
_SLOWEST_BYTES_PER_SECOND = 32 * 1024
_TICKET_MARGIN_SECONDS = 5.0
_FINAL = {"recording-differs", "closing-differs", "bad-closing", "key-revoked"}
"""Refusals of the recording as a whole that no repetition changes."""


class _ClosedByServer(Exception):
    """The server closed in our absence: what its manifests do not list is for us to close as a supplement."""


class RecordingStuck(Exception):
    """No repetition will help: the server holds this recording closed, or or otherwise than we do."""


class _WeakerLock(Exception):
    """A receipt for less than the vault promised at enrolment."""


@dataclass
class _Way:
    """How far one segment has come since this process took it up."""

    ask: wire.SegmentAsk
    since: float = field(default_factory=time.monotonic)
    state: str = "ask"  # ask -> put -> commit
    not_before: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)

    def again(self, state: str, at_least: float = 0.0) -> float:
        """Back to an earlier state, after a pause; returns its seconds."""
        pause = self.backoff.next(at_least)
        self.state, self.not_before = state, time.monotonic() + pause
        return pause


class Uplink:
    """Sends one recording until all of it is receipted and it is closed.

    `on_segment_seconds` hears how long the server would like segments to be. Call `wake` when a segment has
    been spooled, `end` when no more will come.
    """

    def __init__(
        self,
        recording: RecordingSpool,
        api: Api,
        key: Ed25519PrivateKey,
        pinned: Pinned,
        progress: Progress,
        *,
        forget: bool = False,
        on_segment_seconds: Callable[[int], None] | None = None,
    ):
        self._recording, self._api, self._key, self._pinned = recording, api, key, pinned
        self._progress, self._forget, self._on_segment_seconds = progress, forget, on_segment_seconds
        self._ways: dict[int, _Way] = {}
        self._tickets: asyncio.Queue[tuple[_Way, wire.Ticket, float]] = asyncio.Queue()
        self._news = asyncio.Event()
        self._backoff = Backoff()
        self._exchanged = -PACE_SECONDS
        self._interrupted: bool | None = None
        # A receipt shows that the opening has arrived.
        self._unknown = not recording.receipted
        self._store = httpx.AsyncClient(timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS), trust_env=False)

    def wake(self) -> None:
        self._news.set()

    def end(self, *, interrupted: bool) -> None:
        self._interrupted = interrupted
        self._news.set()

    async def run(self) -> None:
        """Returns once the recording is closed and put away. Raises RecordingStuck and OSError (the disk)."""
        try:
            async with self._store, asyncio.TaskGroup() as group:
                putters = [group.create_task(self._put_tickets()) for _ in range(PUTS)]
                await self._exchange_until_receipted()
                for putter in putters:
                    putter.cancel()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        await self._close()

    async def _exchange_until_receipted(self) -> None:
        while self._recording.pending or self._interrupted is None:
            self._news.clear()
            self._fill_window()
            now = time.monotonic()
            ready = [way for way in self._ways.values() if way.not_before <= now]
            asks = [way.ask for way in ready if way.state == "ask"]
            commits = [_name(way.ask) for way in ready if way.state == "commit"]
            if (asks or commits) and self._pace(now) <= 0:
                self._exchanged = now
                await self._exchange(wire.ExchangeRequest(asks=asks, commits=commits))
            else:
                await self._wait_for_news()

    def _fill_window(self) -> None:
        for sequence in sorted(self._recording.pending):
            if len(self._ways) >= WINDOW:
                break
            ask = self._recording.pending.get(sequence)
            if ask is not None and sequence not in self._ways:
                self._ways[sequence] = _Way(ask)

    def _pace(self, now: float) -> float:
        """Seconds until the next exchange may go."""
        putting = any(way.state == "put" for way in self._ways.values())
        return self._exchanged + PACE_SECONDS - now if putting else 0.0

    async def _wait_for_news(self) -> None:
        now = time.monotonic()
        least = self._pace(now)
        pauses = [max(least, way.not_before - now) for way in self._ways.values() if way.state != "put"]
        try:
            async with asyncio.timeout(max(0.01, min(pauses)) if pauses else None):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _exchange(self, request: wire.ExchangeRequest) -> None:
        # 1. Ask, and 4. commit what was put.
        try:
            await self._open_if_unknown()
            answer = await self._api.exchange(self._recording.id, request)
        except CallFailed as error:
            self._know(error)
            await self._pause(error)
            return
        self._backoff.reset()
        # 2. Tickets: a ticket's life is counted on the server's clock, so ours may be wrong.
        now, server_time = time.monotonic(), self._api.server_time
        for ticket in answer.tickets:
            way = self._way(ticket)
            if way is not None and way.state == "commit":
                # What we put is not there: ask anew, after a pause.
                way.again("ask")
            elif way is not None and way.state == "ask":
                way.state = "put"
                expires = now + (ticket.expires_at - server_time).total_seconds() - _TICKET_MARGIN_SECONDS
                self._tickets.put_nowait((way, ticket, expires))
        for sealed in answer.sealed:
            await self._take_receipt(sealed)
        for problem in answer.problems:
            self._take_problem(problem)
        self._ask_again_for_the_unanswered(request, answer)
        if self._on_segment_seconds:
            self._on_segment_seconds(answer.segment_seconds)

    def _ask_again_for_the_unanswered(self, request: wire.ExchangeRequest, answer: wire.ExchangeResult) -> None:
        answered = {item.sequence for item in (*answer.tickets, *answer.sealed, *answer.problems)}
        for name in (*request.asks, *request.commits):
            way = self._way(name)
            if way is not None and name.sequence not in answered:
                way.again("ask")

    async def _put_tickets(self) -> None:
        while True:
            way, ticket, expires = await self._tickets.get()
            if time.monotonic() >= expires:
                way.state = "ask"
            else:
                await self._put(way, ticket)
            self._news.set()

    async def _put(self, way: _Way, ticket: wire.Ticket) -> None:
        # 3. Put, once and straight to the store, with the ticket's headers as they are.
        try:
            data = await asyncio.to_thread(self._recording.read, way.ask)
        except SegmentDamaged as error:
            self._ways.pop(way.ask.sequence, None)
            self._progress.tell("error", recording=str(self._recording.id), reason=str(error))
            return
        try:
            async with asyncio.timeout(IDLE_SECONDS + len(data) / _SLOWEST_BYTES_PER_SECOND):
                response = await self._store.request(ticket.method, ticket.url, headers=ticket.headers, content=data)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            self._tell_retry(f"存储连接中断（{type(error).__name__}）", way.again("ask"), way.ask.sequence)
            return
        if response.status_code in (200, 412):
            way.state = "commit"
        else:
            refused = f"存储回答 {response.status_code}"
            self._tell_retry(refused, way.again("ask"), way.ask.sequence)

    async def _take_receipt(self, sealed: wire.SealedSegment) -> None:
        way = self._way(sealed)
        if way is None:
            return
        # 5. Receipt: signed by a pinned key, for this recording, sequence, digest and size.
        try:
            try:
                receipt = self._verified(sealed, way.ask)
            except verify.Untrusted:
                if not await self._pinned.learn():
                    raise
                receipt = self._verified(sealed, way.ask)
            if self._pinned.lock == "compliance" and receipt["store"]["lock"] != "compliance":
                raise _WeakerLock("锁定方式弱于登记时的约定")
        except (verify.VerificationError, _WeakerLock, KeyError, TypeError) as error:
            self._progress.tell(
                "error",
                recording=str(self._recording.id),
                sequence=way.ask.sequence,
                reason=f"片段 {way.ask.sequence} 的凭证未通过验证，不予采信（{_why(error)}）",
            )
            way.again("ask")
            return
        # 6. Free: only now.
        try:
            await asyncio.to_thread(self._recording.accept, way.ask, sealed.receipt)
        except OSError as error:
            self._tell_retry(f"凭证写不进磁盘（{error.strerror}）", way.again("ask"), way.ask.sequence)
            return
        del self._ways[way.ask.sequence]
        self._progress.tell(
            "sealed",
            recording=str(self._recording.id),
            sequence=way.ask.sequence,
            ms=round((time.monotonic() - way.since) * 1000),
            size=way.ask.size,
            kilobytes=-(-way.ask.size // 1024),
            seconds=way.ask.duration_ms / 1000,
            started_at=wire.rfc3339(way.ask.started_at),
        )

    def _verified(self, sealed: wire.SealedSegment, ask: wire.SegmentAsk) -> verify.Json:
        return verify.verify_receipt(
            sealed.receipt.model_dump(),
            self._pinned.keys,
            recording=str(self._recording.id),
            sequence=ask.sequence,
            sha256=ask.sha256,
            size=ask.size,
        )

    def _take_problem(self, problem: wire.ItemProblem) -> None:
        if problem.slug in _FINAL:
            raise RecordingStuck(problem.title)
        way = self._way(problem)
        if way is not None:
            self._tell_retry(f"{problem.title}（{problem.slug}）", way.again("ask"), problem.sequence)

    def _way(self, name: wire.SegmentName) -> _Way | None:
        way = self._ways.get(name.sequence)
        return way if way is not None and way.ask.sha256 == name.sha256 else None

    async def _close(self) -> None:
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
                number, left, last = await unlisted(self._api, self._recording, self._pinned.keys)
                if last is not None and not left:
                    return last
                payload = supplement_payload(self._recording, left, number, interrupted=bool(self._interrupted))
                await self._closed_with(signed_closing(payload, self._key))
            except _ClosedByServer:
                continue
            except CallFailed as error:
                self._know(error)
                await self._pause(error)
            except ManifestRejected as error:
                if not (error.by_unknown_key and await self._pinned.learn()):
                    await self._reject(error)

    async def _closed(self, closing: wire.Envelope) -> wire.ClosedRecording | None:
        """The verified answer to the closing, or None after a pause."""
        try:
            await self._open_if_unknown()
            closed = await self._api.close(self._recording.id, closing)
            try:
                check_manifest(closed, closing, self._pinned.keys)
            except ManifestRejected as error:
                if not (error.by_unknown_key and await self._pinned.learn()):
                    raise
                check_manifest(closed, closing, self._pinned.keys)
            return closed
        except CallFailed as error:
            self._know(error)
            if isinstance(error, Refused) and error.problem.slug == "closed-by-server":
                raise _ClosedByServer from error
            if isinstance(error, Refused) and error.problem.slug == "segments-outstanding":
                await self._offer_again()
            await self._pause(error)
        except ManifestRejected as error:
            await self._reject(error)
        return None

    async def _reject(self, error: ManifestRejected) -> None:
        reason = f"清单未通过验证，不予采信（{_why(error)}）"
        self._progress.tell("error", recording=str(self._recording.id), reason=reason)
        await asyncio.sleep(self._backoff.next())

    def _closing(self) -> wire.Envelope:
        closing = self._recording.closing()
        if closing is None:
            payload = closing_payload(self._recording, interrupted=bool(self._interrupted))
            closing = signed_closing(payload, self._key)
            self._recording.keep_closing(closing)
        return closing

    async def _offer_again(self) -> None:
        """The vault says it lacks what we hold receipts for: name it all again, so that it looks."""
        leaves = self._recording.leaves()
        for start in range(0, len(leaves), WINDOW):
            part = leaves[start : start + WINDOW]
            commits = [_name(ask) for ask in part]
            try:
                await self._api.exchange(self._recording.id, wire.ExchangeRequest(asks=part, commits=commits))
            except CallFailed:
                return

    async def _open_if_unknown(self) -> None:
        if self._unknown:
            await self._api.open(self._recording.id, self._recording.started_at)
            self._unknown = False

    def _know(self, error: CallFailed) -> None:
        """Some refusals say what to do before asking again."""
        if not isinstance(error, Refused):
            return
        slug = error.problem.slug
        if slug == "no-such-recording":
            self._unknown = True
        elif slug in _FINAL:
            raise RecordingStuck(error.problem.title)

    async def _pause(self, error: CallFailed) -> None:
        pause = self._backoff.next(error.retry_after)
        self._tell_retry(str(error), pause)
        await asyncio.sleep(pause)

    def _tell_retry(self, reason: str, seconds: float, sequence: int | None = None) -> None:
        self._progress.tell(
            "retry",
            recording=str(self._recording.id),
            reason=reason,
            seconds=round(seconds, 2),
            **({} if sequence is None else {"sequence": sequence}),
        )


def _why(error: Exception) -> str:
    return error.chinese if isinstance(error, verify.VerificationError) else str(error)


def _name(ask: wire.SegmentAsk) -> wire.SegmentName:
    return wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256)
