"""Terms and locks: how long a recording is kept, and that the store's locks follow (DESIGN rule 5, section 6).

A lock is never more than a year ahead. The recording's *term* says until when it is kept; ninety days before its
locks lapse they are renewed up to the term, and no further: a lapse authorises nothing, it only makes a disposal
possible. What is under a hold is flagged in the store and locked for a year ahead, again and again.

*Settling* a recording (`settle`, a job) makes the store what the rows say, whatever was done before:

1. What is wanted: held where an active hold covers it, and the date.
2. Every sealed object of it that was last asked for something else is asked for that: first all flags, then all
   dates. What the store was asked is recorded batch by batch, so that a killed job goes on where it was.
3. When to look next.

Once a month the store is asked of every held object whether it is as it was asked (`reconcile`, a job); what is not
sounds an alarm and is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors, jobs
from services.vault.alarms import Alarms
from services.vault.contract import wire
from services.vault.models import KeptFile, Recording, Term
from services.vault.stores.port import Store, StoredObject

SETTLE = "settle-locks"
RECONCILE = "reconcile-hold"
HOLD_MISSING = "hold-missing"
FARTHEST = timedelta(days=365)
RENEW_BEFORE = timedelta(days=90)
_HELD_EVERY = timedelta(days=30)
_SLACK = timedelta(days=1)
_BATCH, AT_ONCE = 512, 16
_LATER = timedelta(hours=1)

_COVERED = """
    EXISTS (SELECT FROM vault.held_recordings AS h JOIN vault.holds ON holds.id = h.hold_id
            WHERE h.recording_id = :recording AND holds.state = 'active')
"""
_COVERS = text(f"SELECT {_COVERED}")
_WANTED = text(f"""
    SELECT state, kind, keep_until, permanent, active_at, {_COVERED} AS held
    FROM vault.recordings WHERE id = :recording
""")  # noqa: S608
_OBJECTS = """
    SELECT 'segments' AS part, key, version, retain_until, held, sequence, sha256, number FROM vault.segments
    WHERE recording_id = :recording AND state = 'sealed' AND ({which}) AND key > :after
    UNION ALL
    SELECT 'manifests', key, version, retain_until, held, 0, '', number FROM vault.manifests
    WHERE recording_id = :recording AND version IS NOT NULL AND ({which}) AND key > :after
    ORDER BY key LIMIT :limit
"""
_MARK = {
    "segments": """
        UPDATE vault.segments AS s SET {what} FROM unnest(CAST(:sequences AS integer[]), CAST(:digests AS text[]))
        AS told(sequence, sha256)
        WHERE s.recording_id = :recording AND s.sequence = told.sequence AND s.sha256 = told.sha256
    """,
    "manifests": """
        UPDATE vault.manifests SET {what}
        WHERE recording_id = :recording AND number = ANY(CAST(:numbers AS integer[]))
    """,
}


@dataclass(frozen=True)
class Defaults:
    """How long what nobody set a term for is kept, after its source was last active."""

    recording: timedelta = timedelta(days=184)
    """Six months, by analogy with the police rule."""


class Retention:
    def __init__(self, engine: AsyncEngine, store: Store, alarms: Alarms, *, defaults: Defaults | None = None):
        self._engine, self._store, self._alarms = engine, store, alarms
        self._defaults = defaults or Defaults()

    async def set_term(self, recording: UUID, term: wire.SetTerm) -> None:
        """The last term set holds, and the earlier ones stay on record. A lock that is in force stays as it is."""
        now = datetime.now(UTC)
        async with self._engine.begin() as db:
            this = select(col(Recording.state)).where(col(Recording.id) == recording).with_for_update()
            state = await db.scalar(this)
            if state is None:
                raise errors.NoSuchRecording
            if state in ("disposing", "disposed"):
                raise errors.RecordingDisposed
            told = term.model_dump()
            await db.execute(insert(Term).values(recording_id=recording, at=now, **told))
            values = {"keep_until": term.keep_until, "permanent": term.keep_until is None, "renew_at": now}
            await db.execute(update(Recording).where(col(Recording.id) == recording).values(**values))
            await jobs.enter(db, SETTLE, str(recording))

    def ends(self, row: Any) -> datetime | None:
        """When a recording's term ends; None where it is kept for good."""
        if row.permanent:
            return None
        default: datetime = row.active_at + self._defaults.recording
        return row.keep_until or default

    async def settle(self, subject: str) -> None:
        recording, now = UUID(subject), datetime.now(UTC)
        # 1. What is wanted.
        async with self._engine.connect() as db:
            row = (await db.execute(_WANTED, {"recording": recording})).one_or_none()
        if row is None or row.state in ("disposing", "disposed"):
            return
        until = (now + FARTHEST).replace(microsecond=0)
        if not row.held and (end := self.ends(row)) is not None:
            until = min(until, end)
        # 2. Ask for it: flags, then dates.
        wrong: dict[str, Any] = {"which": "held IS DISTINCT FROM :held", "held": bool(row.held)}
        await self._each(recording, wrong, lambda one: self._hold(one, row.held), "held = :held")
        edge = min(until, now + (FARTHEST - _HELD_EVERY if row.held else RENEW_BEFORE))
        if until > now:
            short = {"which": "retain_until IS NULL OR retain_until < :edge", "edge": edge, "until": until}
            longer = "retain_until = greatest(retain_until, CAST(:until AS timestamptz))"
            await self._each(recording, short, lambda one: self._store.extend(one.key, one.version, until), longer)
        # 3. When to look next.
        await self._look_next(recording, now, bool(row.held))

    async def reconcile(self, subject: str) -> None:
        """A held object whose flag is gone is flagged again; that, and one that is gone itself, is an alarm."""

        async def look(one: Any) -> None:
            found = await self._store.head(one.key, one.version)
            if found is not None and not found.held:
                await self._store.hold(one.key, one.version, True)
            told = (
                "存储中已没有这一版本"
                if found is None
                else ""
                if found.held
                else "存储中的留存标志已被清除，已重新设置"
            )
            if told:
                await self._alarms.sound(HOLD_MISSING, one.key, told)

        await self._each(UUID(subject), {"which": "held"}, look, None)

    async def enter_due(self, *, limit: int = 500) -> int:
        """Enter a job for each recording whose locks are to be looked at; returns how many there were."""
        query = select(col(Recording.id)).where(col(Recording.renew_at) <= datetime.now(UTC))
        async with self._engine.begin() as db:
            due = (await db.scalars(query.order_by(col(Recording.renew_at)).limit(limit))).all()
            for recording in due:
                await jobs.enter(db, SETTLE, str(recording))
                if await db.scalar(_COVERS, {"recording": recording}):
                    await jobs.enter(db, RECONCILE, str(recording))
            # Asked for again in an hour where the job has not moved it on by then.
            await db.execute(
                update(Recording).where(col(Recording.id).in_(due)).values(renew_at=datetime.now(UTC) + _LATER)
            )
        return len(due)

    async def renew_files(self, *, limit: int = 500) -> int:
        """The log's own sealed files, which are kept for good; returns how many were renewed."""
        now = datetime.now(UTC)
        until = (now + FARTHEST).replace(microsecond=0)
        query = select(KeptFile).where(col(KeptFile.retain_until) < now + RENEW_BEFORE)
        async with self._engine.connect() as db:
            rows = (await db.execute(query.order_by(col(KeptFile.retain_until)).limit(limit))).all()
        await _all(rows, lambda one: self._store.extend(one.key, one.version, until))
        async with self._engine.begin() as db:
            these = col(KeptFile.key).in_([row.key for row in rows])
            await db.execute(update(KeptFile).where(these).values(retain_until=until))
        return len(rows)

    async def _hold(self, one: Any, on: bool) -> None:
        await self._store.hold(one.key, one.version, on)

    async def _each(
        self, recording: UUID, which: dict[str, Any], do: Callable[[Any], Awaitable[None]], mark: str | None
    ) -> None:
        """`do` for every sealed object of the recording that `which` names, and record it batch by batch."""
        query = text(_OBJECTS.format(which=which["which"]))
        values = {name: value for name, value in which.items() if name != "which"} | {"recording": recording}
        after = ""
        while True:
            async with self._engine.connect() as db:
                asked = {name: value for name, value in values.items() if f":{name}" in query.text}
                rows = (await db.execute(query, asked | {"after": after, "limit": _BATCH})).all()
            if not rows:
                return
            await _all(rows, do)
            after = rows[-1].key
            if mark:
                async with self._engine.begin() as db:
                    await _mark(db, rows, mark, values)

    async def _look_next(self, recording: UUID, now: datetime, held: bool) -> None:
        earliest = """
            SELECT min(retain_until) FROM (
                SELECT retain_until FROM vault.segments WHERE recording_id = :recording AND state = 'sealed'
                UNION ALL
                SELECT retain_until FROM vault.manifests WHERE recording_id = :recording AND version IS NOT NULL
            ) AS locks
        """
        async with self._engine.begin() as db:
            first: datetime | None = await db.scalar(text(earliest), {"recording": recording})
            row = (await db.execute(_WANTED.bindparams(recording=recording))).one()
            end = self.ends(row)
            following: datetime | None = now + _HELD_EVERY
            if not held:
                following = max(now + _SLACK, (first or now + RENEW_BEFORE) - RENEW_BEFORE)
                # Locked to the end of its term and past the last change: nothing is left to renew.
                if row.state == "closed" and first is not None and end is not None and first >= end - _SLACK:
                    following = None
            await db.execute(update(Recording).where(col(Recording.id) == recording).values(renew_at=following))


async def settle_if_held(db: AsyncConnection, recording: UUID) -> None:
    """What was just sealed into a held recording is flagged too, within seconds."""
    if await db.scalar(_COVERS, {"recording": recording}):
        await jobs.enter(db, SETTLE, str(recording), due=datetime.now(UTC) + timedelta(seconds=5))


async def covered(db: AsyncConnection, recording: UUID) -> bool:
    """Whether an active hold covers it."""
    return bool(await db.scalar(_COVERS, {"recording": recording}))


async def keep(engine: AsyncEngine, stored: StoredObject, retain_until: datetime) -> None:
    """A sealed file that belongs to no recording is renewed and sampled from now on."""
    # One that was put before a crash, and is only put on record now, is locked as it was then.
    until = stored.retain_until or retain_until
    values = {"key": stored.key, "version": stored.version, "retain_until": until}
    row = insert(KeptFile).values(values | {"sha256": stored.sha256, "size": stored.size})
    async with engine.begin() as db:
        await db.execute(row.on_conflict_do_nothing())


async def _all(rows: Sequence[Any], do: Callable[[Any], Awaitable[None]]) -> None:
    """At most `AT_ONCE` at a time; the first that fails ends it, after those under way."""
    waiting = iter(rows)

    async def work() -> None:
        for row in waiting:
            await do(row)

    done = await asyncio.gather(*(work() for _ in range(AT_ONCE)), return_exceptions=True)
    if failed := [one for one in done if isinstance(one, BaseException)]:
        raise failed[0]


async def _mark(db: AsyncConnection, rows: Sequence[Any], what: str, values: dict[str, Any]) -> None:
    segments = [row for row in rows if row.part == "segments"]
    manifests = [row for row in rows if row.part == "manifests"]
    named = {name: value for name, value in values.items() if f":{name}" in what} | {"recording": values["recording"]}
    if segments:
        told = {"sequences": [row.sequence for row in segments], "digests": [row.sha256 for row in segments]}
        await db.execute(text(_MARK["segments"].format(what=what)), named | told)
    if manifests:
        await db.execute(
            text(_MARK["manifests"].format(what=what)),
            named | {"numbers": [row.number for row in manifests]},
        )
