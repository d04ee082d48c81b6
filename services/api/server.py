"""The HTTP protocol of the api's process: uvicorn's, which loses nothing of a push that was sent.

Encoders send one request after the other without waiting for answers, and hang up after the last byte. uvicorn by
itself forgets what it had not handed on by then: the rest of the body that is being read, and the requests behind it.
Here a push is read on while the one before it is being sealed, and all that came is handed on, whoever has hung up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from services.vault.contract.wire import MAX_SEGMENT_BYTES

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

PUSH = "/v1/push/"
INFORM = "quancheng.inform"
"""The extension of a request's scope that sends an interim response."""
_QUEUED = 8
_QUEUED_BYTES = MAX_SEGMENT_BYTES + 1024 * 1024
"""How much is read ahead of a connection at most."""


class _Cycle(RequestResponseCycle):
    _ended = False

    def inform(self, status: int, phrase: str, headers: dict[str, str]) -> None:
        """An interim response, for who speaks HTTP/1.1 and has not been answered yet."""
        if self.response_started or self.transport.is_closing() or self.scope["http_version"] != "1.1":
            return
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if message["type"] == "http.disconnect":
            if self.response_complete or self._ended or not (self.body or not self.more_body):
                return message
            message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
            self.body = bytearray()
        self._ended = not message.get("more_body", False)
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if self.transport.is_closing():
            self.disconnected = True
        await super().send(message)

    def lose(self) -> None:
        if not self.response_complete:
            self.disconnected = True
        self.message_event.set()


class Protocol(HttpToolsProtocol):
    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._running: set[RequestResponseCycle] = set()
        self._lost = False

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _Cycle
        if isinstance(self.cycle, _Cycle):
            self.cycle.scope["extensions"] = {INFORM: {"send": self.cycle.inform}}
        self._read_on()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True
        for cycle in (*self._running, *(cycle for cycle, _ in self.pipeline)):
            if isinstance(cycle, _Cycle):
                cycle.lose()
        if not self._running:
            self._start_next()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def noted(scope: Any, receive: Any, send: Any) -> None:
            self._running.add(cycle)
            try:
                await app(scope, receive, send)
            finally:
                self._running.discard(cycle)
                if self._lost and not self._running:
                    self._start_next()

        super()._start_asgi_task(cycle, noted)

    def _start_next(self) -> None:
        """Of a connection that is lost, the next push that had come; nothing else has anybody to answer to."""
        while self.pipeline:
            cycle, app = self.pipeline.pop()
            if cycle.scope["path"].startswith(PUSH):
                self._start_asgi_task(cycle, app)
                return

    def _read_on(self) -> None:
        """A push that waits for its turn is read all the same, since whoever sent it may hang up."""
        if not self.pipeline or not self.cycle.scope["path"].startswith(PUSH) or len(self.pipeline) > _QUEUED:
            return
        if sum(len(cycle.body) for cycle, _ in self.pipeline) < _QUEUED_BYTES:
            self.flow.resume_reading()
