"""Calls to the store over connections that are kept: what is asked is sent, and what came back is told.

aiohttp spends an eighth of what httpx does on a call as small as most of these are, and no threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

import aiohttp
from yarl import URL

from services.vault.errors import StoreUnavailable

_CHUNK = 256 * 1024
_CHUNK_SECONDS = 60.0
"""How long a reader waits for a chunk, however it trickles."""
_ANSWER_SECONDS = 12.0
"""How long an answer may take as a whole, beside the time its bytes need: less than the api waits for ours."""
_SLOWEST_BYTES_PER_SECOND = 64 * 1024
_CONNECT_SECONDS = 3.0
_AT_ONCE = 64
_UNASKED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def _seconds_for(size: int) -> float:
    """How long a call that moves so many bytes may take, however it trickles."""
    return _ANSWER_SECONDS + size / _SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True)
class Answer:
    method: str
    url: str
    status_code: int
    headers: Mapping[str, str]
    """By name, in whatever case."""
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


class Calls:
    """At most 64 connections, opened in the event loop that first calls. Redirections are answers like any other:
    nobody is sent elsewhere."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | BinaryIO = b"", *, size: int = 0
    ) -> Answer:
        """Raises StoreUnavailable where no answer comes within 12 s and what the content's bytes need,
        however it trickles; of a file, `size` bytes."""
        seconds = _seconds_for(len(content) if isinstance(content, bytes) else size)
        timeout = aiohttp.ClientTimeout(seconds, sock_connect=_CONNECT_SECONDS)
        try:
            async with self._request(method, url, headers, timeout, content) as response:
                return Answer(method, url, response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreUnavailable(f"{method}, within {seconds:.0f} s: {error!r}") from error

    @asynccontextmanager
    async def reading(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose bytes are taken piece by piece, each within seconds. Raises StoreUnavailable, also
        for what the block reads."""
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_ANSWER_SECONDS)
        try:
            async with self._request("GET", url, headers, timeout) as response:
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise StoreUnavailable(f"GET: {error!r}") from error

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        content: bytes | BinaryIO = b"",
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_AT_ONCE),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_UNASKED,
                auto_decompress=False,
                read_bufsize=_CHUNK,
            )
        return self._session.request(
            method,
            URL(url, encoded=True),  # as it was signed
            headers=headers,
            data=content or None,
            timeout=timeout,
            allow_redirects=False,
        )


async def chunk_of(response: aiohttp.ClientResponse) -> bytes:
    """The next 256 KiB, or what is left. Raises StoreUnavailable where they do not come."""
    try:
        return await asyncio.wait_for(response.content.readexactly(_CHUNK), _CHUNK_SECONDS)
    except asyncio.IncompleteReadError as end:
        return end.partial
    except TimeoutError as error:
        raise StoreUnavailable(f"no {_CHUNK} bytes in time") from error
