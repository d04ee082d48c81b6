"""Tails of uploads, in the staging bucket: the api asks for a ticket, puts, reads and removes.

Every tail has a name of its own, so that a request which was superseded cannot write over what came after it. The
name tells when its ticket was given: what is older than any upload may be is removed, whoever forgot it.
"""

from __future__ import annotations

import secrets
import time
from uuid import UUID

from services.vault.contract import wire
from services.vault.stores.port import GetTicket, PutTicket
from services.vault.stores.staging import Staging

_PREFIX = "uploads/"


class Tails:
    def __init__(self, staging: Staging):
        self._staging = staging

    def put(self, upload: UUID, message: wire.PutTail) -> wire.TailTicket:
        name = f"{int(time.time()):012d}-{secrets.token_hex(8)}"
        return _told(name, "PUT", self._staging.put_ticket(_key(upload, name), message.sha256, message.size))

    def read(self, upload: UUID, name: str) -> wire.TailTicket:
        return _told(name, "GET", self._staging.get_ticket(_key(upload, name)))

    async def remove(self, upload: UUID, name: str) -> None:
        """Raises StoreUnavailable."""
        await self._staging.remove(_key(upload, name))

    async def lapse(self) -> int:
        """Remove what is past its time; returns how many. Raises StoreUnavailable."""
        removed, after, oldest = 0, "", time.time() - wire.TAIL_DAYS * 24 * 3600
        while names := await self._staging.names(_PREFIX, after):
            after = names[-1]
            for key in names:
                second = key.rpartition("/")[2].partition("-")[0]
                if not second.isdigit() or int(second) < oldest:
                    await self._staging.remove(key)
                    removed += 1
        return removed


def _key(upload: UUID, name: str) -> str:
    return f"{_PREFIX}{upload}/{name}"


def _told(name: str, method: str, ticket: PutTicket | GetTicket) -> wire.TailTicket:
    return wire.TailTicket.model_validate(
        {"name": name, "method": method, "url": ticket.url, "headers": ticket.headers}
    )
