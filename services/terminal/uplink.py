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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.terminal.api import CONNECT_SECONDS, IDLE_SECONDS, Api, Backoff, CallFailed
from services.terminal.carried import Carried, Readable
from services.terminal.ending import Ending
from services.terminal.line import FINAL, WINDOW, Line, RecordingStuck, name_of, why
from services.terminal.pins import Pinned
from services.terminal.progress import Progress
from services.terminal.spool import SegmentDamaged
from services.vault.contract import verify, wire

Drain = Literal["oldest", "newest"]
"""What of a backlog is sent first; the init segment goes before either."""
PUTS = 4
PACE_SECONDS = 0.5
"""A segment alone is exchanged at once; where others are being put beside it, the calls that carry one segment
each would take the time from the bytes."""
_SLOWEST_BYTES_PER_SECOND = 32 * 1024
_TICKET_MARGIN_SECONDS = 5.0
_PIECE = 1024 * 1024
"""Bytes read at a time, so that a put takes no more memory than this whatever its segment's length."""


async def _pieces(file: Readable) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece


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


@dataclass(order=True)
class _Ticketed:
    place: int
    way: _Way = field(compare=False)
    ticket: wire.Ticket = field(compare=False)
    expires: float = field(compare=False)


class Uplink:
    """Sends one recording until all of it is receipted and it is closed.

    `on_segment_seconds` hears how long the server would like segments to be. Call `wake` when a segment has
    been spooled, `end` when no more will come.
    """

    def __init__(
        self,
        recording: Carried,
        api: Api,
        key: Ed25519PrivateKey,
        pinned: Pinned,
        progress: Progress,
        *,
        forget: bool = False,
        drain: Drain = "oldest",
        on_segment_seconds: Callable[[int], None] | None = None,
    ):
        self._recording, self._api, self._key, self._pinned = recording, api, key, pinned
        self._progress, self._forget, self._on_segment_seconds = progress, forget, on_segment_seconds
        self._newest_first = drain == "newest"
        self._line = Line(recording, api, progress)
        self._ways: dict[int, _Way] = {}
        self._tickets: asyncio.PriorityQueue[_Ticketed] = asyncio.PriorityQueue()
        self._news = asyncio.Event()
        self._exchanged = -PACE_SECONDS
        self._interrupted: bool | None = None
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
        parts = (self._line, self._recording, self._api, self._key, self._pinned, self._progress)
        await Ending(*parts, forget=self._forget, interrupted=bool(self._interrupted)).close()

    async def _exchange_until_receipted(self) -> None:
        while self._recording.pending or self._interrupted is None:
            self._news.clear()
            self._fill_window()
            now = time.monotonic()
            ready = [self._ways[n] for n in sorted(self._ways, key=self._place) if self._ways[n].not_before <= now]
            asks = [way.ask for way in ready if way.state == "ask"]
            commits = [name_of(way.ask) for way in ready if way.state == "commit"]
            if (asks or commits) and self._pace(now) <= 0:
                self._exchanged = now
                await self._exchange(wire.ExchangeRequest(asks=asks, commits=commits))
            else:
                await self._wait_for_news()

    def _fill_window(self) -> None:
        pending = sorted(self._recording.pending, reverse=self._newest_first)
        if self._newest_first:
            init = [0] if 0 in self._recording.pending else []
            pending = init + pending[:WINDOW]
            # What is newer than the window takes the places of those that nothing was done for yet.
            kept = set(pending)
            self._ways = {n: way for n, way in self._ways.items() if n in kept or way.state != "ask"}
        for sequence in pending:
            if len(self._ways) >= WINDOW:
                break
            ask = self._recording.pending.get(sequence)
            if ask is not None and sequence not in self._ways:
                self._ways[sequence] = _Way(ask)

    def _place(self, sequence: int) -> int:
        """The smaller goes first; the init segment, 0, before all."""
        if not sequence:
            return -wire.MAX_SEQUENCE - 1
        return -sequence if self._newest_first else sequence

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
            await self._line.open_if_unknown()
            answer = await self._api.exchange(self._recording.id, request)
        except CallFailed as error:
            self._line.know(error)
            await self._line.pause(error)
            return
        self._line.backoff.reset()
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
                self._tickets.put_nowait(_Ticketed(self._place(way.ask.sequence), way, ticket, expires))
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
            one = await self._tickets.get()
            if time.monotonic() >= one.expires:
                one.way.state = "ask"
            else:
                await self._put(one.way, one.ticket)
            self._news.set()

    async def _put(self, way: _Way, ticket: wire.Ticket) -> None:
        # 3. Put, once and straight to the store, with the ticket's headers as they are.
        try:
            with await asyncio.to_thread(self._recording.open, way.ask) as file:
                trouble = await self._send(file, way.ask.size, ticket)
            if not trouble:
                way.state = "commit"
                return
            await asyncio.to_thread(self._recording.check, way.ask)
        except SegmentDamaged as error:
            self._ways.pop(way.ask.sequence, None)
            self._progress.tell("error", recording=str(self._recording.id), reason=str(error))
            return
        self._line.tell_retry(trouble, way.again("ask"), way.ask.sequence)

    async def _send(self, file: Readable, size: int, ticket: wire.Ticket) -> str:
        """What went wrong, in words, or nothing."""
        headers = {**ticket.headers, "content-length": str(size)}
        try:
            async with asyncio.timeout(IDLE_SECONDS + size / _SLOWEST_BYTES_PER_SECOND):
                answer = await self._store.request(ticket.method, ticket.url, headers=headers, content=_pieces(file))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return f"存储连接中断（{type(error).__name__}）"
        return "" if answer.status_code in (200, 412) else f"存储回答 {answer.status_code}"

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
                reason=f"片段 {way.ask.sequence} 的凭证未通过验证，不予采信（{why(error)}）",
            )
            way.again("ask")
            return
        # 6. Free: only now.
        try:
            await asyncio.to_thread(self._recording.accept, way.ask, sealed.receipt)
        except OSError as error:
            self._line.tell_retry(f"凭证写不进磁盘（{error.strerror}）", way.again("ask"), way.ask.sequence)
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
            self._pinned.vouching(ask.started_at),
            recording=str(self._recording.id),
            sequence=ask.sequence,
            sha256=ask.sha256,
            size=ask.size,
        )

    def _take_problem(self, problem: wire.ItemProblem) -> None:
        if problem.slug in FINAL:
            raise RecordingStuck(problem.title)
        way = self._way(problem)
        if way is not None:
            self._line.tell_retry(f"{problem.title}（{problem.slug}）", way.again("ask"), problem.sequence)

    def _way(self, name: wire.SegmentName) -> _Way | None:
        way = self._ways.get(name.sequence)
        return way if way is not None and way.ask.sha256 == name.sha256 else None
