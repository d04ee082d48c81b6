"""What the vault asks of a store, whichever it is.

A store keeps *evidence* under write-once keys and *publishes* the log's public files. It is believed in
nothing but what `head` reads back: version, size, checksum, lock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.vault.contract.wire import Lock

Part = tuple[int, int]
"""From the first byte up to, and without, the second."""


@dataclass(frozen=True)
class PutTicket:
    """A signed PUT: every header is sent as given; it lapses at `expires_at`."""

    url: str
    headers: dict[str, str]
    expires_at: datetime


@dataclass(frozen=True)
class GetTicket:
    url: str
    headers: dict[str, str]


@dataclass(frozen=True)
class StoredObject:
    """What the store answers to a HEAD. `version` is what later reads name; `sha256` is lowercase hex."""

    key: str
    version: str
    size: int
    sha256: str
    lock: Lock
    retain_until: datetime | None
    held: bool = False
    intent: str = ""
    """What its ticket signed into it (`intents.py`), as the store tells it: not to be believed unchecked."""


@dataclass(frozen=True)
class StoredName:
    """One version of one object. `deleted`: no object but a marker that hides those before it."""

    key: str
    version: str
    size: int
    deleted: bool = False


class Store(Protocol):
    """Raises `StoreUnavailable` where it cannot be reached, `StoreUnfit` from `start` where it cannot be used.

    Whether it keeps its promises is another question: `conformance` attacks it and says.
    """

    @property
    def lock(self) -> Lock: ...

    async def start(self) -> None:
        """Make ready what the store needs before its first use."""

    async def stop(self) -> None: ...

    def put_ticket(
        self, key: str, sha256: str, size: int, retain_until: datetime, now: datetime, intent: str = ""
    ) -> PutTicket:
        """Step 2 of sealing: a PUT that only these bytes fit, at most once, with this lock. The store keeps
        `intent` with them."""

    def get_ticket(self, key: str, version: str, now: datetime) -> GetTicket: ...

    async def head(self, key: str, version: str | None = None) -> StoredObject | None:
        """Step 4 of sealing. None where nothing lies under the key, or not this version of it."""

    async def drift(self) -> timedelta:
        """How far the store's clock surely is from ours: positive where it is ahead, zero where none is seen.

        A store tells whole seconds, so up to a second of drift, and the way of the answer, go unseen.
        """

    async def put(self, key: str, data: bytes, retain_until: datetime) -> StoredObject:
        """Seal the vault's own bytes (manifests, statements). The same again answers the same object."""

    async def extend(self, key: str, version: str, retain_until: datetime) -> None:
        """Lock it for longer; it never becomes less. Raises NotInStore where this version is not there."""

    async def hold(self, key: str, version: str, on: bool) -> None:
        """Set or clear the flag of a legal hold, whatever it was. Raises NotInStore."""

    def list(self, prefix: str) -> AsyncIterator[StoredName]:
        """Every version of everything whose key begins with `prefix`, a page at a time. Keys come in order as far
        as their last `/`, and what has one folder in common comes together."""

    def read(self, key: str, version: str, part: Part | None = None) -> AsyncIterator[bytes]:
        """All of it, or a part. Raises NotInStore where this version is not there."""

    async def publish(self, path: str, data: bytes, *, immutable: bool) -> None:
        """Write a public file of the log: durable when this returns; overwritten unless `immutable`."""

    async def unpublish(self, folder: str) -> int:
        """Remove the partial tiles (`….p/`) in a folder of the log; how many there were."""

    async def published(self, path: str) -> bytes | None: ...


class Shredder(Protocol):
    """Deletes versions: another identity, which the serving vault does not have."""

    async def delete(self, key: str, version: str) -> None:
        """Gone when this returns, also where it was gone before. Raises StillLocked where the store refuses."""

    async def stop(self) -> None: ...
