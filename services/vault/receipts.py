"""What a receipt says, and whether what lies in the store is what it would say it of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from services.vault.contract import wire
from services.vault.models import Segment
from services.vault.stores.port import StoredObject


def receipt_payload(
    row: Row[Any] | Segment, media: dict[str, str], stored: StoredObject, sealed_at: datetime
) -> dict[str, Any]:
    """`media`: what is told of its recording's (`wire.media_told`)."""
    told = media | ({"metadata_sha256": row.metadata_sha256} if row.metadata_sha256 else {})
    return told | {
        "recording": str(row.recording_id),
        "sequence": row.sequence,
        "sha256": row.sha256,
        "size": row.size,
        "media": row.media,
        "started_at": wire.rfc3339(row.started_at),
        "duration_ms": row.duration_ms,
        "monotonic_ms": row.monotonic_ms,
        "asked_at": wire.rfc3339(row.asked_at),
        "sealed_at": wire.rfc3339(sealed_at),
        "store": {
            "key": row.key,
            "version": stored.version,
            "lock": stored.lock,
            "retain_until": wire.rfc3339(stored.retain_until) if stored.retain_until else None,
        },
    }


def sealed_segment(row: Row[Any]) -> wire.SealedSegment:
    receipt = wire.Envelope.model_validate(row.receipt)
    return wire.SealedSegment(
        sequence=row.sequence,
        sha256=row.sha256,
        size=row.size,
        media=row.media,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        received_at=row.asked_at,
        sealed_at=row.sealed_at,
        lock=receipt.decoded()["store"]["lock"],
        receipt=receipt,
    )


def fits(row: Row[Any], stored: StoredObject, lock: wire.Lock) -> bool:
    until = stored.retain_until
    locked = lock == "none" or (until is not None and until >= max(row.retain_until, datetime.now(UTC)))
    same = (stored.size, stored.sha256, stored.lock) == (row.size, row.sha256, lock)
    return same and locked and bool(stored.version)
