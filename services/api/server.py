"""The HTTP protocol of the api's process: uvicorn's, which hands on all that a client sent before it hung up.

Encoders send their last bytes and close without waiting for an answer; uvicorn by itself forgets what it had not
handed on by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent


class _Cycle(RequestResponseCycle):
    _ended = False

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


class Protocol(HttpToolsProtocol):
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _Cycle
