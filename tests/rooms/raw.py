"""HTTP as bytes on a socket: for what a well-behaved client would refuse to send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back; `status` is 0 where the connection ended without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def head(method: str, url: str, headers: Headers, *, target: str | None = None) -> bytes:
    """A request's head. `target` replaces the address's path and query, to the byte."""
    parts = urlsplit(url)
    path = target if target is not None else parts.path + (f"?{parts.query}" if parts.query else "")
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("host", parts.netloc))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def send(
    method: str,
    url: str,
    headers: Headers = (),
    body: bytes = b"",
    *,
    target: str | None = None,
    hang_up: bool = False,
    seconds: float = 10,
) -> Answer:
    """Send these bytes and read until the other side closes; `hang_up` closes without reading."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(head(method, url, headers, target=target) + body)
        await writer.drain()
        if hang_up:
            await asyncio.sleep(0.05)
            return Answer(0, {}, b"")
        async with asyncio.timeout(seconds):
            return await _answer(reader)
    except ConnectionError:
        return Answer(0, {}, b"")
    finally:
        writer.transport.abort()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    except asyncio.IncompleteReadError:
        return Answer(0, {}, b"")
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = b""
    try:
        length = headers.get("content-length")
        body = await (reader.readexactly(int(length)) if length is not None else reader.read())
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    return Answer(int(first.split()[1]), headers, body)
