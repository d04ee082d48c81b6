"""Sealed bytes for ffmpeg, which has to look at a file's end before its beginning: HTTP by range on the loopback.

An address is good for one process and for as long as that runs: 256 random bits that nobody else is told. What is
given out has been compared with its digest, all of its segment, before.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from services.api.errors import ApiError
from services.api.recordings.reading import Reader
from services.vault.contract import ranges, wire
from services.vault.contract.client import VaultRefused, VaultUnreachable

_HEAD_BYTES = 8192
_HEAD_SECONDS = 10.0
_AT_ONCE = 1024 * 1024


@dataclass(frozen=True)
class File:
    """The sealed segments of a recording end to end; `ends` is where each of them ends."""

    recording: UUID
    names: list[wire.SegmentName]
    ends: list[int]

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0


class Lender:
    def __init__(self, reader: Reader):
        self._reader = reader
        self._lent: dict[str, File] = {}
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def lend(self, file: File) -> AsyncIterator[str]:
        """The address of a file within the block."""
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_HEAD_BYTES)
        token = secrets.token_urlsafe(32)
        self._lent[token] = file
        try:
            yield f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{token}"
        finally:
            del self._lent[token]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                async with asyncio.timeout(_HEAD_SECONDS):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                await self._answer(head, writer)
        finally:
            writer.close()

    async def _answer(self, head: list[str], writer: asyncio.StreamWriter) -> None:
        method, _, rest = head[0].partition(" ")
        token = rest.split(" ")[0].removeprefix("/")
        file = self._lent.get(token)
        if method != "GET" or file is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        try:
            part = ranges.asked(headers.get("range"), None, "", file.size)
        except ranges.Unsatisfiable:
            said = f"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */{file.size}"
            writer.write(f"{said}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            return
        first, end = part or (0, file.size)
        said = "HTTP/1.1 200 OK"
        if part:
            said = f"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {first}-{end - 1}/{file.size}"
        said += f"\r\ncontent-length: {end - first}\r\naccept-ranges: bytes\r\nconnection: close\r\n\r\n"
        writer.write(said.encode())
        with contextlib.suppress(ApiError, VaultRefused, VaultUnreachable):  # it ends short, and so does the process
            await self._give(file, first, end, token, writer)

    async def _give(self, file: File, first: int, end: int, token: str, writer: asyncio.StreamWriter) -> None:
        place = bisect_right(file.ends, first)
        while first < end and token in self._lent:
            data = await self._reader.checked(file.recording, file.names[place])
            start = file.ends[place] - len(data)
            stop = min(end, file.ends[place])
            while first < stop:
                writer.write(data[first - start : min(stop, first + _AT_ONCE) - start])
                await writer.drain()
                first = min(stop, first + _AT_ONCE)
            place += 1
