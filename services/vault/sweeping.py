"""Sweeping: what was put and never committed is found and sealed, so that nothing in the store is unknown to us.

A holder may die between steps 3 and 4 of the sealing cycle, and a PUT that began in time may trickle in long after
its ticket lapsed. So every intent that nobody commits is looked for: first when its last ticket has lapsed, then at
twice that time after the ticket, and so on for a day; what is found is sealed by the very steps 4 and 5. After that
the intent lapses, and a new ask brings it back.

1. Claim. Due intents, found by a partial index however long the history is, get a lease: any number of vaults
   may sweep, and what one that dies had claimed is due again when the lease is over.
2. Look and seal: steps 4 and 5 of `sealing.py`, a few objects at once and at a steady pace, so that holders who
   wait for their receipts hardly notice.
3. What was not there gets its next look, or lapses. What the store did not tell of is due again when the lease is
   over, and keeps none of the others waiting.

`account_for` goes the other way, from the store to the rows, before a recording is closed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Row, literal, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault.alarms import Alarms
from services.vault.contract import wire
from services.vault.errors import StoredDiffers, StoreUnavailable
from services.vault.models import Manifest, Segment, Stray
from services.vault.sealing import Sealing, lock, prefix_of, segment_key
from services.vault.stores.port import Store, StoredName

_log = logging.getLogger("quancheng.vault.sweeping")
_BATCH, _AT_ONCE, _LOOKS_PER_SECOND, _NAMES_AT_ONCE = 256, 8, 40.0, 1000
_LEASE = timedelta(minutes=2)
_SEGMENT_KEY = re.compile(r"recordings/[0-9a-f-]{36}/(\d{10})-([0-9a-f]{64})", re.ASCII)
STRAY = "stray-object"
_WHY = {
    "unknown": "没有人申请过它",
    "differs": "与申请的内容不符",
    "other-version": "不是登记的那一版本",
    "deleted": "是一个删除标记",
}

_CLAIM = text("""
    WITH due AS (
        SELECT recording_id, sequence, sha256 FROM vault.segments
        WHERE state = 'asked' AND sweep_at <= now() ORDER BY sweep_at LIMIT :batch FOR UPDATE SKIP LOCKED
    )
    UPDATE vault.segments AS s SET sweep_at = now() + CAST(:lease AS interval) FROM due
    WHERE s.recording_id = due.recording_id AND s.sequence = due.sequence AND s.sha256 = due.sha256
    RETURNING s.recording_id, s.sequence, s.sha256, s.ticket_at, now() AS claimed_at
""")
# A new ask since the claim has a schedule of its own.
_LATER = text("""
    UPDATE vault.segments AS s
    SET sweep_at = told.at, state = CASE WHEN told.at IS NULL THEN 'lapsed' ELSE 'asked' END
    FROM unnest(
        CAST(:sequences AS integer[]), CAST(:digests AS char(64)[]), CAST(:tickets AS timestamptz[]),
        CAST(:times AS timestamptz[])
    ) AS told(sequence, sha256, ticket_at, at)
    WHERE s.recording_id = :recording AND s.sequence = told.sequence AND s.sha256 = told.sha256
    AND s.state = 'asked' AND s.ticket_at = told.ticket_at
""")


class Sweeper:
    """Looks for an intent until `whole` after its last ticket."""

    def __init__(self, engine: AsyncEngine, store: Store, sealing: Sealing, alarms: Alarms, *, whole: timedelta):
        self._engine, self._store, self._sealing, self._whole = engine, store, sealing, whole
        self._alarms = alarms

    async def sweep(self) -> int:
        """One batch; how many intents the store told of. What it does not tell of is asked again when the lease is
        over, after all that is due before then, and never lapses."""
        # 1. Claim.
        async with self._engine.begin() as db:
            claimed = await db.execute(_CLAIM, {"batch": _BATCH, "lease": _LEASE})
            due = sorted(claimed.all(), key=lambda row: (row.recording_id, row.sequence, row.sha256))
        told = 0
        for recording, rows in groupby(due, key=lambda row: row.recording_id):
            mine = list(rows)
            for start in range(0, len(mine), _AT_ONCE):
                told += await self._look(recording, mine[start : start + _AT_ONCE])
        if told < len(due):
            _log.warning("of %s intents %s wait for the store", len(due), len(due) - told)
        return told

    async def _look(self, recording: UUID, rows: Sequence[Any]) -> int:
        """How many of them the store told of."""
        # 2. Look and seal.
        names = [wire.SegmentName(sequence=row.sequence, sha256=row.sha256) for row in rows]
        outcomes = await self._sealing.commit(recording, names)
        slugs = {(one.sequence, one.sha256): one.slug for one in outcomes if isinstance(one, wire.ItemProblem)}
        for name in [name for name, slug in slugs.items() if slug == StoredDiffers.slug]:
            try:
                await self._account_for(recording, segment_key(recording, *name))
            except StoreUnavailable:
                slugs[name] = StoreUnavailable.slug
        # 3. Later.
        unsealed = {name for name, slug in slugs.items() if slug != StoreUnavailable.slug}
        waiting = [row for row in rows if (row.sequence, row.sha256) in unsealed]
        if waiting:
            told = {
                "recording": recording,
                "sequences": [row.sequence for row in waiting],
                "digests": [row.sha256 for row in waiting],
                "tickets": [row.ticket_at for row in waiting],
                "times": [self._next_look(row.ticket_at, row.claimed_at) for row in waiting],
            }
            async with self._engine.begin() as db:
                await lock(db, recording)
                await db.execute(_LATER, told)
        await asyncio.sleep(len(rows) / _LOOKS_PER_SECOND)
        return len(rows) - sum(slug == StoreUnavailable.slug for slug in slugs.values())

    def _next_look(self, ticket_at: datetime, now: datetime) -> datetime | None:
        """Twice as long after the ticket as now; the last one when the whole time is over."""
        since = now - ticket_at
        return None if since >= self._whole else ticket_at + min(2 * since, self._whole)

    async def account_for(self, recording: UUID) -> None:
        """When this returns, all that lay under the recording's prefix is sealed, or a manifest, or on record as
        a stray. Raises StoreUnavailable."""
        await self._account_for(recording, prefix_of(recording))

    async def _account_for(self, recording: UUID, prefix: str) -> None:
        page: list[StoredName] = []
        async for stored in self._store.list(prefix):
            page.append(stored)
            if len(page) == _NAMES_AT_ONCE:
                await self._account_for_page(recording, page)
                page = []
        await self._account_for_page(recording, page)

    async def _account_for_page(self, recording: UUID, page: Sequence[StoredName]) -> None:
        known = await self._known(recording, page)
        unsealed = [(row.sequence, row.sha256) for row in known.values() if row.state in ("asked", "lapsed")]
        for start in range(0, len(unsealed), _AT_ONCE):
            some = unsealed[start : start + _AT_ONCE]
            names = [wire.SegmentName(sequence=n, sha256=digest) for n, digest in some]
            outcomes = await self._sealing.commit(recording, names)
            if any(getattr(one, "slug", None) == StoreUnavailable.slug for one in outcomes):
                raise StoreUnavailable
        if unsealed:
            known = await self._known(recording, page)
        now = datetime.now(UTC)
        strays = [
            {
                "key": stored.key,
                "version": stored.version,
                "recording_id": recording,
                "size": stored.size,
                "why": why,
                "found_at": now,
            }
            for stored in page
            if (why := _why_stray(stored, known.get(stored.key)))
        ]
        if strays:
            async with self._engine.begin() as db:
                await db.execute(insert(Stray).values(strays).on_conflict_do_nothing())
        for stray in strays:
            key, version, why = (str(stray[name]) for name in ("key", "version", "why"))
            await self._alarms.sound(
                STRAY, key[:512], f"存储中有不属于任何凭证或清单的对象（版本 {version}）：{_WHY[why]}"
            )

    async def _known(self, recording: UUID, page: Sequence[StoredName]) -> dict[str, Row[Any]]:
        """The rows that stand for these keys: segments, and the recording's manifests, which are few."""
        matches = [_SEGMENT_KEY.fullmatch(stored.key) for stored in page]
        names = {(int(match[1]), match[2]) for match in matches if match and int(match[1]) <= wire.MAX_SEQUENCE}
        segments = select(*(getattr(Segment, name) for name in ("key", "version", "state", "sequence", "sha256")))
        segments = segments.where(col(Segment.recording_id) == recording)
        segments = segments.where(tuple_(col(Segment.sequence), col(Segment.sha256)).in_(names))
        manifests = select(col(Manifest.key), col(Manifest.version), literal("manifest").label("state"))
        async with self._engine.connect() as db:
            rows = [*await db.execute(segments)]
            rows += await db.execute(manifests.where(col(Manifest.recording_id) == recording))
        return {row.key: row for row in rows}


def _why_stray(stored: StoredName, row: Row[Any] | None) -> str | None:
    if stored.deleted:
        return "deleted"
    if row is None:
        return "unknown"
    if row.state in ("asked", "lapsed"):
        return "differs"
    # A manifest has no version on record while its way to the store is not finished.
    return "other-version" if row.version not in (None, stored.version) else None
