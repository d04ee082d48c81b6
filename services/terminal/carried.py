"""What an uplink carries: segments that are hashed and lie still, in the spool or where a recorder left its file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from services.vault.contract import wire


class Readable(Protocol):
    """The bytes of one segment, from its beginning to its end. Blocks on the disk."""

    def read(self, size: int, /) -> bytes | None: ...


class Carried(Protocol):
    """One recording on its way. Its methods block on the disk: call them off the event loop."""

    id: UUID
    started_at: datetime
    pending: dict[int, wire.SegmentAsk]
    """Not yet receipted, by sequence."""
    receipted: dict[int, wire.SegmentAsk]
    next_sequence: int
    skipped: int
    taken_over: dict[str, Any] | None
    """What the closing says of a finished file."""
    opened_as: dict[str, Any] | None
    """The same, and what is for the api alone."""

    @property
    def ended_at(self) -> datetime: ...

    def open(self, ask: wire.SegmentAsk) -> AbstractContextManager[Readable]:
        """Raises SegmentDamaged where that segment alone is gone."""

    def check(self, ask: wire.SegmentAsk) -> None:
        """Raises SegmentDamaged where the bytes are no longer those that were hashed."""

    def accept(self, ask: wire.SegmentAsk, receipt: wire.Envelope) -> None: ...

    def leaves(self) -> list[wire.SegmentAsk]: ...

    def missing(self) -> list[int]: ...

    def closing(self) -> wire.Envelope | None: ...

    def keep_closing(self, closing: wire.Envelope) -> None: ...

    def retire(self, closed: wire.ClosedRecording, *, forget: bool) -> None: ...


class Stock(Protocol):
    """Where the carried lies: bytes that wait for their receipts, of at most `limit`."""

    @property
    def used(self) -> int: ...

    @property
    def limit(self) -> int: ...

    @property
    def full(self) -> bool: ...
