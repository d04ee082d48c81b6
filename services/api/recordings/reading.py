"""Sealed bytes from the store, by read tickets that stay between vault, api and store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from uuid import UUID

import httpx

from services.api.errors import NoSuchSegment, VaultUnavailable
from services.api.recordings.sharing import Shared
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused

_log = logging.getLogger("quancheng.recordings")
_CHUNK = 256 * 1024
SHARED_BYTES = 16 * 1024 * 1024
"""The largest segment that is read at once for all who watch; a live one is far below."""
_KEPT_BYTES = 64 * 1024 * 1024
_KEPT_COUNT = 512


class Reader:
    def __init__(self, vault: VaultClient, store: httpx.AsyncClient):
        self._vault, self._store = vault, store
        self._shared = Shared[tuple[UUID, int, str]](_KEPT_BYTES, _KEPT_COUNT)

    async def checked(self, recording: UUID, name: wire.SegmentName) -> bytes:
        """All of it, as it was sealed: read and compared once for all who ask at about the same time. Whoever asks
        has seen to it that he may. Raises NoSuchSegment, VaultUnavailable."""
        key = (recording, name.sequence, name.sha256)
        return await self._shared.get(key, lambda: self._compared(recording, name))

    async def _compared(self, recording: UUID, name: wire.SegmentName) -> bytes:
        data = await self.whole(recording, name)
        if await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()) != name.sha256:
            _log.error("segment %s %s of %s is not what was sealed", name.sequence, name.sha256, recording)
            raise VaultUnavailable(f"segment {name.sequence} is not what was sealed")
        return data

    async def stream(self, recording: UUID, name: wire.SegmentName) -> tuple[int, AsyncIterator[bytes]]:
        """Size and bytes of one sealed segment. Raises NoSuchSegment, VaultUnavailable."""
        (ticket,) = await self.tickets(recording, [name])
        return ticket.size, await self.opened(ticket)

    async def tickets(self, recording: UUID, names: list[wire.SegmentName]) -> list[wire.ReadTicket]:
        """For at most 64 segments, good for 14 minutes. Raises NoSuchSegment, VaultUnreachable, VaultRefused."""
        try:
            return (await self._vault.read_tickets(recording, wire.ReadTicketsRequest(items=names))).tickets
        except VaultRefused as error:
            if error.problem.slug == "no-such-segment":
                raise NoSuchSegment from error
            raise

    async def opened(self, ticket: wire.ReadTicket) -> AsyncIterator[bytes]:
        """Raises VaultUnavailable."""
        request = self._store.build_request("GET", ticket.url, headers=ticket.headers)
        try:
            response = await self._store.send(request, stream=True)
        except httpx.HTTPError as error:
            raise VaultUnavailable from error
        if response.status_code != 200:
            await response.aclose()
            raise VaultUnavailable(f"the store answered {response.status_code}")
        return _bytes(response)

    async def whole(self, recording: UUID, name: wire.SegmentName) -> bytes:
        """All of it at once. Raises NoSuchSegment, VaultUnavailable."""
        _, chunks = await self.stream(recording, name)
        try:
            return b"".join([chunk async for chunk in chunks])
        except httpx.HTTPError as error:
            raise VaultUnavailable from error


async def _bytes(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw(_CHUNK):
            yield chunk
    finally:
        await response.aclose()
