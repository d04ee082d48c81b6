"""The server as the holder of bytes: what a source pushes is sealed by the same cycle that a terminal goes through.

1. Ask       by sequence, digest and size
2. Ticket    for exactly these bytes
3. Put       straight to the store
4. Check     commit
5. Receipt   is the vault's; the segment is indexed here
6. Free      whoever pushed is answered, and the bytes go

Nothing is kept on disk meanwhile: bytes that cannot be sealed in time are lost, and the recording shows a gap.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import httpx

from services.api.database import Sessions
from services.api.errors import VaultUnavailable
from services.api.recordings import service
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultUnreachable

SEAL_SECONDS = 60.0
"""How long the vault and the store may be away before bytes in memory are given up."""
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 3.0
_PASSING = {"store-unavailable", "clock-drift", "not-stored", "not-asked"}


@dataclass(frozen=True)
class Piece:
    """Bytes to seal as one segment."""

    data: bytes
    media: wire.Media
    started_at: datetime
    duration_ms: int
    monotonic_ms: int
    begins_anew: bool = False
    metadata_sha256: str | None = None

    def ask(self, sequence: int, sha256: str) -> wire.SegmentAsk:
        return wire.SegmentAsk(
            sequence=sequence,
            sha256=sha256,
            size=len(self.data),
            media=self.media,
            started_at=self.started_at,
            duration_ms=self.duration_ms,
            monotonic_ms=self.monotonic_ms,
            metadata_sha256=self.metadata_sha256,
        )


class Holder:
    """`store` is a client for the tickets' addresses."""

    def __init__(self, sessions: Sessions, vault: VaultClient, store: httpx.AsyncClient):
        self._sessions, self._vault, self._store = sessions, vault, store

    async def seal(self, recording: UUID, sequence: int, piece: Piece, sha256: str | None = None) -> None:
        """Returns once the segment is sealed and indexed; the same again changes nothing. Raises VaultUnavailable
        where that did not come about within a minute, and VaultRefused."""
        sealed = await self.sealed(recording, sequence, piece, sha256)
        async with self._sessions.begin() as db:
            await service.index(db, recording, [service.columns(sealed) | {"begins_anew": piece.begins_anew}])

    async def sealed(
        self, recording: UUID, sequence: int, piece: Piece, sha256: str | None = None
    ) -> wire.SealedSegment:
        """The same, and whoever asked indexes it."""
        ask = piece.ask(sequence, sha256 or await digest(piece.data))
        wait = _FIRST_WAIT
        try:
            async with asyncio.timeout(SEAL_SECONDS):
                while (sealed := await self._try(recording, ask, piece.data)) is None:
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
        except TimeoutError as error:
            raise VaultUnavailable from error
        return sealed

    async def _try(self, recording: UUID, ask: wire.SegmentAsk, data: bytes) -> wire.SealedSegment | None:
        """One way through the cycle; None where it has to be gone again."""
        name = wire.SegmentName(sequence=ask.sequence, sha256=ask.sha256)
        try:
            asked = await self._vault.exchange(recording, wire.ExchangeRequest(asks=[ask]))
            if asked.sealed:
                return asked.sealed[0]
            if not asked.tickets:
                _require_passing(asked)
                return None
            ticket = asked.tickets[0]
            answer = await self._store.request(ticket.method, ticket.url, headers=ticket.headers, content=data)
            if answer.status_code not in (200, 412):
                return None
            committed = await self._vault.exchange(recording, wire.ExchangeRequest(commits=[name]))
            if not committed.sealed:
                _require_passing(committed)
                return None
            return committed.sealed[0]
        except (VaultUnreachable, httpx.HTTPError):
            return None


def _require_passing(result: wire.ExchangeResult) -> None:
    """Raises VaultUnavailable for a problem that time does not mend."""
    for problem in result.problems:
        if problem.slug not in _PASSING:
            raise VaultUnavailable(problem.slug)


async def digest(data: bytes) -> str:
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
