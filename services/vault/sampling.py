"""Sampling: sealed objects are looked at again at a steady pace, chosen at random, for as long as the vault runs.

1. Draw. Every tenth draw is of a manifest, and every tenth of a kept file: statements and tiles of the log,
   time-stamps, tombstones. Every tenth turn looks again at the alarm that was seen longest ago,
   so that one whose cause is gone is cleared.
2. Examine by HEAD, by version: existence, size, checksum, lock mode, and a retain date no earlier than the one
   on record (a renewal makes it later). One in twenty is read whole and hashed.
3. A difference sounds the alarm `object-differs` about the object's key; none clears it.

How uniform a draw is: a page of the table is drawn uniformly and then a row of that page, at the cost of reading
one page however long the history is. Rows are of nearly one size, so pages hold nearly the same number of them
and any two sealed segments are drawn equally often to within a small factor. Drawing a point among the primary
keys instead would not be: ids are chosen by terminals, and a few far-off ones would draw all attention to
themselves. A page with nothing sealed on it (segments just asked for, rows that moved) is drawn anew, some times.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.vault.alarms import Alarms
from services.vault.errors import StoreUnavailable
from services.vault.stores.port import Store

DIFFERS = "object-differs"
_ALARM_ONE_IN, _WHOLE_ONE_IN = 10, 20
_PAGES_TRIED = 32

# A table that is not partitioned has no tree; one that is has no pages of its own.
_PAGES = text(
    "SELECT relid::oid AS part, pg_relation_size(relid) / current_setting('block_size')::bigint AS pages FROM "
    "(SELECT CAST(:relation AS regclass) AS relid "
    "UNION SELECT relid FROM pg_partition_tree(CAST(:relation AS regclass)) WHERE isleaf) AS parts"
)
_SEGMENTS = "SELECT key, version, size, sha256, retain_until FROM vault.segments WHERE state = 'sealed' AND "
_MANIFESTS = (
    "SELECT key, version, octet_length(envelope) AS size, sha256, retain_until "
    "FROM vault.manifests WHERE version IS NOT NULL AND "
)
_KEPT = "SELECT key, version, size, sha256, retain_until FROM vault.kept_files WHERE "
_ON_PAGE = "tableoid = :part AND ctid >= CAST(:first AS tid) AND ctid < CAST(:next AS tid)"
_SEGMENT_KEY = re.compile(r"recordings/([0-9a-f-]{36})/(\d{10})-([0-9a-f]{64})")
_MANIFEST_KEY = re.compile(r"recordings/([0-9a-f-]{36})/manifest-(\d{4,})")


@dataclass(frozen=True)
class Kind:
    """A table whose rows stand for sealed objects."""

    relation: str
    on_page: TextClause
    by_name: TextClause


SEGMENTS = Kind(
    "vault.segments",
    text(_SEGMENTS + _ON_PAGE),
    text(_SEGMENTS + "recording_id = :recording AND sequence = :number AND sha256 = :sha256"),
)
MANIFESTS = Kind(
    "vault.manifests",
    text(_MANIFESTS + _ON_PAGE),
    text(_MANIFESTS + "recording_id = :recording AND number = :number"),
)


KEPT = Kind("vault.kept_files", text(_KEPT + _ON_PAGE), text(_KEPT + "key = :key"))
_DRAWN = (MANIFESTS, KEPT, *[SEGMENTS] * 8)


@dataclass(frozen=True)
class Sealed:
    """What the vault has on record of one object; None is what it has not."""

    key: str
    version: str
    size: int | None
    sha256: str | None
    retain_until: datetime | None


class Sampler:
    def __init__(self, engine: AsyncEngine, store: Store, alarms: Alarms):
        self._engine, self._store, self._alarms = engine, store, alarms

    async def look(self) -> Sealed | None:
        """One turn: the object that was looked at, or None where there is nothing sealed yet.

        Raises StoreUnavailable: whether the object differs is then not known, and its alarm stays as it was.
        """
        # 1. Draw.
        sealed = await self._alarmed() if one_in(_ALARM_ONE_IN) else None
        sealed = sealed or await self.draw(secrets.choice(_DRAWN))
        if sealed is not None:
            await self.examine(sealed, whole=one_in(_WHOLE_ONE_IN))
        return sealed

    async def draw(self, kind: Kind) -> Sealed | None:
        async with self._engine.connect() as db:
            parts = [(row.part, row.pages) for row in await db.execute(_PAGES, {"relation": kind.relation})]
            total = sum(pages for _, pages in parts)
            for _ in range(_PAGES_TRIED if total else 0):
                rows = await _page(db, kind, parts, secrets.randbelow(total))
                if rows:
                    return _sealed(secrets.choice(rows))
        return None

    async def examine(self, sealed: Sealed, *, whole: bool) -> str:
        """The difference between record and store, in Chinese; empty where there is none."""
        # 2. Examine.
        seen = await self._difference(sealed, whole=whole)
        # 3. Alarm.
        await self._alarms.settle(DIFFERS, sealed.key, seen)
        return seen

    async def _difference(self, sealed: Sealed, *, whole: bool) -> str:
        found = await self._store.head(sealed.key, sealed.version)
        if found is None:
            return f"存储中已没有版本 {sealed.version}"
        seen = []
        if found.version != sealed.version:
            seen.append(f"存储返回了另一版本 {found.version}")
        if found.size != sealed.size and sealed.size is not None:
            seen.append(f"长度应为 {sealed.size}，存储中为 {found.size}")
        if found.sha256 != sealed.sha256 and sealed.sha256 is not None:
            seen.append("校验值与登记的不符")
        if found.lock != self._store.lock:
            seen.append(f"锁定方式应为 {self._store.lock}，存储中为 {found.lock}")
        elif found.lock == "compliance" and sealed.retain_until:
            early = found.retain_until is None or found.retain_until < sealed.retain_until
            seen += ["锁定期限早于登记的日期"] if early else []
        return "；".join(seen) or (await self._misread(sealed) if whole else "")

    async def _misread(self, sealed: Sealed) -> str:
        digest, size = hashlib.sha256(), 0
        try:
            async for chunk in self._store.read(sealed.key, sealed.version):
                digest.update(chunk)
                size += len(chunk)
                if sealed.size is not None and size > sealed.size:
                    break
        except (StoreUnavailable, OSError) as error:
            # The store has just told of this object, so it is not away: it cannot read what it keeps.
            return f"无法完整读出：{error}"
        return "" if sealed.sha256 in (None, digest.hexdigest()) else "内容与登记的校验值不符"

    async def _alarmed(self) -> Sealed | None:
        """The object whose alarm was seen longest ago."""
        key = await self._alarms.longest_unseen(DIFFERS)
        if key is None:
            return None
        kind, named = _named(key)
        async with self._engine.connect() as db:
            row = (await db.execute(kind.by_name, named)).one_or_none()
        if row is None:
            # Disposed of: what there is no more differs from nothing.
            await self._alarms.clear(DIFFERS, key)
        return _sealed(row) if row else None


def one_in(count: int) -> bool:
    return secrets.randbelow(count) == 0


def _named(key: str) -> tuple[Kind, dict[str, Any]]:
    """The table whose row stands for the object under this key, and what finds the row."""
    for kind, pattern in ((SEGMENTS, _SEGMENT_KEY), (MANIFESTS, _MANIFEST_KEY)):
        if match := pattern.fullmatch(key):
            named = {"recording": UUID(match[1]), "number": int(match[2])}
            return kind, named | ({"sha256": match[3]} if kind is SEGMENTS else {})
    return KEPT, {"key": key}


def _sealed(row: Row[Any]) -> Sealed:
    return Sealed(row.key, row.version, row.size, row.sha256, row.retain_until)


async def _page(db: AsyncConnection, kind: Kind, parts: list[tuple[int, int]], page: int) -> list[Row[Any]]:
    """The rows of sealed objects on the page with this number, counted over all parts of the table."""
    for part, pages in parts:
        if page < pages:
            bounds = {"part": part, "first": (page, 0), "next": (page + 1, 0)}
            return list((await db.execute(kind.on_page, bounds)).all())
        page -= pages
    return []
