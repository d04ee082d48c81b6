"""Terms and locks: how long a recording is kept, and that the store's locks follow (DESIGN rule 5, section 6).

A lock is never more than a year ahead. The recording's *term* says until when it is kept; ninety days before its
locks lapse they are renewed up to the term, and no further: a lapse authorises nothing, it only makes a disposal
possible. What is under a hold is flagged in the store and locked for a year ahead, again and again.

*Settling* a recording (`settle`, a job) makes the store what the rows say, whatever was done before:

1. What is wanted: held where an active hold covers it, and the date.
2. Every sealed object of it that was last asked for something else is asked for that: first all flags, then all
   dates. What the store was asked is recorded batch by batch, so that a killed job goes on where it was; while a
   flag is being changed its row says neither, so that whoever comes after a kill asks again. One that fails keeps
   no other back.
3. When to look next.

Once a month the store is asked of every held object whether it is flagged and locked as it was asked (`reconcile`, a
job); what is not sounds an alarm, is locked again as far as is on record, and its recording is settled again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors, jobs, many, tallies
from services.vault.alarms import Alarms
from services.vault.contract import wire
from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import KeptFile, Recording, Term
from services.vault.sampling import DIFFERS
from services.vault.stores.port import Store, StoredObject

SETTLE = "settle-locks"
RECONCILE = "reconcile-hold"
HOLD_MISSING = "hold-missing"
RENEWAL_FAILED = "renewal-failed"
FARTHEST = timedelta(days=365)
RENEW_BEFORE = timedelta(days=90)
_HELD_EVERY = timedelta(days=30)
_SLACK = timedelta(days=1)
_LIVE_EVERY = timedelta(seconds=30)
_BATCH = 512
LATER = timedelta(hours=1)
"""When what was entered as a job is entered again, where no job has been done by then."""

COVERED = """
    EXISTS (SELECT FROM vault.held_recordings AS h JOIN vault.holds ON holds.id = h.hold_id
            WHERE h.recording_id = :recording AND holds.state = 'active')
"""
_COVERS = text(f"SELECT {COVERED}")
_WANTED = text(f"""
    SELECT state, kind, keep_until, permanent, active_at, {COVERED} AS held
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
_LONGER = "retain_until = greatest(retain_until, CAST(:until AS timestamptz))"
_LENGTHEN = {
    "segments": text(f"""
        UPDATE vault.segments AS s SET {_LONGER} FROM unnest(CAST(:sequences AS integer[]), CAST(:digests AS text[]))
        AS told(sequence, sha256)
        WHERE s.recording_id = :recording AND s.sequence = told.sequence AND s.sha256 = told.sha256
    """),  # noqa: S608
    "manifests": text(f"""
        UPDATE vault.manifests SET {_LONGER}
        WHERE recording_id = :recording AND number = ANY(CAST(:numbers AS integer[]))
    """),  # noqa: S608
}
_STILL_HELD = {
    "segments": text(
        "SELECT held FROM vault.segments"
        " WHERE recording_id = :recording AND sequence = :sequence AND sha256 = :sha256"
    ),
    "manifests": text("SELECT held FROM vault.manifests WHERE recording_id = :recording AND number = :number"),
}
_SEALED = text(f"""
    UPDATE vault.recordings SET objects = objects + :more WHERE id = :recording RETURNING {COVERED}
""")  # noqa: S608
_GONE = ("disposing", "disposed")
Mark = Callable[[AsyncConnection, Sequence[Any], dict[str, Any]], Awaitable[None]]
"""How it is recorded, with the values by which they were found, what was done to some objects."""


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
            act = uuid7()
            await db.execute(insert(Term).values(recording_id=recording, at=now, act=act, **told))
            fields = term.model_dump(mode="json") | {"recording": str(recording)}
            if term.keep_until is not None:
                fields["keep_until"] = wire.rfc3339(term.keep_until)
            await enter(db, act, statement.build("term", act, now, fields))
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
        if row is None:
            return
        if row.state in _GONE:
            await self._let_go(recording)
            await self._look_next(recording, now, held=False)
            return
        until = (now + FARTHEST).replace(microsecond=0)
        if not row.held and (end := self.ends(row)) is not None:
            until = min(until, end)
        # 2. Ask for it: flags, then dates.
        wrong: dict[str, Any] = {"which": "held IS DISTINCT FROM :held", "held": bool(row.held)}
        await self._each(
            recording, wrong, lambda one: self._hold(one, row.held), _flags(row.held), before=_flags(None)
        )
        edge = min(until, now + (FARTHEST - _HELD_EVERY if row.held else RENEW_BEFORE))
        if until > now:
            short = {"which": "retain_until IS NULL OR retain_until < :edge", "edge": edge, "until": until}
            await self._each(recording, short, lambda one: self._store.extend(one.key, one.version, until), _lengthen)
        if not row.held:
            await self._let_go(recording)
        # 3. When to look next.
        await self._look_next(recording, now, held=bool(row.held))

    async def reconcile(self, subject: str) -> None:
        """A held object whose flag is gone, whose lock ends before the date on record, or that is gone itself, is an
        alarm. The alarm stands until the object is found as it should be, or no hold covers it any more."""
        recording = UUID(subject)
        gone: list[Any] = []
        fine: list[str] = []

        async def look(one: Any) -> None:
            found = await self._store.head(one.key, one.version)
            short = found is not None and self._short(found, one)
            if found is not None and found.held and not short:
                fine.append(one.key)
                return
            # A release may be clearing flags meanwhile: then the row has ceased to say held before the store did.
            async with self._engine.connect() as db:
                if not await db.scalar(_STILL_HELD[one.part], _named(one) | {"recording": recording}):
                    return
            told = [] if found is not None else ["存储中已没有这一版本"]
            if found is not None and not found.held:
                told.append("存储中的留存标志已被清除，已重新设置")
                gone.append(one)
            if found is not None and short:
                ends = wire.rfc3339(found.retain_until) if found.retain_until else "没有期限"
                told.append(f"存储中的锁定（{ends}）早于登记的 {wire.rfc3339(one.retain_until)}，已重新延长")
            await self._alarms.sound(HOLD_MISSING, one.key, "；".join(told))
            if short:
                await self._store.extend(one.key, one.version, one.retain_until)

        await self._each(recording, {"which": "held"}, look, None)
        for start in range(0, len(fine), _BATCH):
            await self._alarms.clear_all(HOLD_MISSING, fine[start : start + _BATCH])
        if gone:
            async with self._engine.begin() as db:
                await _flags(None)(db, gone, {"recording": recording})
                await jobs.enter(db, SETTLE, subject)

    def _short(self, found: StoredObject, one: Any) -> bool:
        """Whether the store tells of a lock that ends before the date on record, which is still to come."""
        until = one.retain_until
        if self._store.lock == "none" or until is None or until <= datetime.now(UTC):
            return False
        ends = found.retain_until if found.lock == self._store.lock else None
        return ends is None or ends < until.replace(microsecond=0)

    async def enter_due(self, *, limit: int = 500) -> int:
        """Enter a job for each recording whose locks are to be looked at; returns how many there were."""
        query = select(col(Recording.id)).where(col(Recording.renew_at) <= datetime.now(UTC))
        async with self._engine.begin() as db:
            # Recordings before their jobs, as everywhere; one that somebody is at is due again the next time.
            query = query.order_by(col(Recording.renew_at)).limit(limit).with_for_update(skip_locked=True)
            due = sorted((await db.scalars(query)).all())
            for recording in due:
                await jobs.enter(db, SETTLE, str(recording))
                if await db.scalar(_COVERS, {"recording": recording}):
                    await jobs.enter(db, RECONCILE, str(recording))
            # Asked for again in an hour where the job has not moved it on by then.
            await db.execute(
                update(Recording).where(col(Recording.id).in_(due)).values(renew_at=datetime.now(UTC) + LATER)
            )
        return len(due)

    async def renew_files(self, *, limit: int = 500) -> int:
        """The log's own sealed files, which are kept for good; returns how many were renewed. What fails is an alarm
        and keeps no other back."""
        now = datetime.now(UTC)
        until = (now + FARTHEST).replace(microsecond=0)
        query = select(KeptFile).where(col(KeptFile.retain_until) < now + RENEW_BEFORE)
        async with self._engine.connect() as db:
            rows = (await db.execute(query.order_by(col(KeptFile.retain_until)).limit(limit))).all()
        done, missing, failed = await many.each(rows, lambda one: self._store.extend(one.key, one.version, until))
        async with self._engine.begin() as db:
            these = col(KeptFile.key).in_([row.key for row in done])
            await db.execute(update(KeptFile).where(these).values(retain_until=until))
        await self._alarms.clear_all(RENEWAL_FAILED, [row.key for row in done])
        for one in missing:
            await self._alarms.sound(RENEWAL_FAILED, one.key, f"存储中已没有版本 {one.version}，锁定无法续期")
        told = f"存储拒绝或没有应答，至少 {len(failed)} 个日志文件的锁定未能续期（{failed[0]}）" if failed else ""
        if rows:
            await self._alarms.settle(RENEWAL_FAILED, "kept-files", told)
        return len(done)

    async def _let_go(self, recording: UUID) -> None:
        """Nothing of it is to be held, so that no flag of it is missing."""
        await self._alarms.clear_under(HOLD_MISSING, f"recordings/{recording}/")

    async def _hold(self, one: Any, on: bool) -> None:
        await self._store.hold(one.key, one.version, on)

    async def _each(
        self,
        recording: UUID,
        which: dict[str, Any],
        do: Callable[[Any], Awaitable[None]],
        mark: Mark | None,
        *,
        before: Mark | None = None,
    ) -> None:
        """`do` for every sealed object of the recording that `which` names, and record it batch by batch. One that
        is not in the store is an alarm; whatever else failed is raised when the others are done."""
        query = text(_OBJECTS.format(which=which["which"]))
        values = {name: value for name, value in which.items() if name != "which"} | {"recording": recording}
        after = ""
        failures: list[Exception] = []
        while True:
            async with self._engine.connect() as db:
                asked = {name: value for name, value in values.items() if f":{name}" in query.text}
                rows = (await db.execute(query, asked | {"after": after, "limit": _BATCH})).all()
            if before and rows:
                async with self._engine.begin() as db:
                    await before(db, rows, values)
            done, missing, failed = await many.each(rows, do)
            if mark and done:
                async with self._engine.begin() as db:
                    await mark(db, done, values)
            for one in missing:
                await self._alarms.sound(DIFFERS, one.key, f"存储中已没有版本 {one.version}")
            failures += failed
            if len(failed) >= many.AT_ONCE or (failures and not rows):
                raise failures[0]
            if not rows:
                return
            after = rows[-1].key

    async def _look_next(self, recording: UUID, now: datetime, *, held: bool) -> None:
        """`held`: what the objects were just asked for."""
        earliest = """
            SELECT min(retain_until) FROM (
                SELECT retain_until FROM vault.segments WHERE recording_id = :recording AND state = 'sealed'
                UNION ALL
                SELECT retain_until FROM vault.manifests WHERE recording_id = :recording AND version IS NOT NULL
            ) AS locks
        """
        this = col(Recording.id) == recording
        async with self._engine.begin() as db:
            first: datetime | None = await db.scalar(text(earliest), {"recording": recording})
            # What is sealed, held or disposed of meanwhile has its own say, before this or after.
            await db.execute(select(col(Recording.id)).where(this).with_for_update(key_share=True))
            row = (await db.execute(_WANTED.bindparams(recording=recording))).one()
            await db.execute(update(Recording).where(this).values(renew_at=self._following(row, first, now, held)))

    def _following(self, row: Any, first: datetime | None, now: datetime, held: bool) -> datetime | None:
        if row.state in _GONE:
            return None
        if bool(row.held) != held:
            return now + LATER
        if held:
            return now + _HELD_EVERY
        end = self.ends(row)
        # Locked to the end of its term and past the last change: nothing is left to renew.
        # A series is never closed, and what comes to it later sets the date anew.
        ended = row.state == "closed" or row.kind == "series"
        if ended and first is not None and end is not None and first >= end - _SLACK:
            return None
        return max(now + _SLACK, (first or now + RENEW_BEFORE) - RENEW_BEFORE)


async def count_in(db: AsyncConnection, recording: UUID, more: int) -> None:
    """So many objects were just sealed into it, whose row the caller holds. Where it is held they are flagged too,
    within a minute: one job waits for all of them."""
    if await db.scalar(_SEALED, {"recording": recording, "more": more}):
        await jobs.enter(db, SETTLE, str(recording), due=datetime.now(UTC) + _LIVE_EVERY)


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


async def keep_manifests(db: AsyncConnection, recording: UUID) -> None:
    """The manifests of a recording that is disposed of are renewed as files of their own."""
    rows = """
        INSERT INTO vault.kept_files (key, version, retain_until)
        SELECT key, version, coalesce(retain_until, now()) FROM vault.manifests
        WHERE recording_id = :recording AND version IS NOT NULL ON CONFLICT DO NOTHING
    """
    await db.execute(text(rows), {"recording": recording})


def _named(one: Any) -> dict[str, Any]:
    segment = {"sequence": one.sequence, "sha256": one.sha256}
    return segment if one.part == "segments" else {"number": one.number}


def _parts(rows: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    segments = [row for row in rows if row.part == "segments"]
    manifests = [row for row in rows if row.part == "manifests"]
    told = {"sequences": [row.sequence for row in segments], "digests": [row.sha256 for row in segments]}
    parts: list[tuple[str, dict[str, Any]]] = [("segments", told)] if segments else []
    return [*parts, ("manifests", {"numbers": [row.number for row in manifests]})] if manifests else parts


def _flags(held: bool | None) -> Mark:
    async def mark(db: AsyncConnection, rows: Sequence[Any], values: dict[str, Any]) -> None:
        await tallies.alone(db, values["recording"])
        for part, named in _parts(rows):
            await tallies.flag(db, values["recording"], part, named, held)

    return mark


async def _lengthen(db: AsyncConnection, rows: Sequence[Any], values: dict[str, Any]) -> None:
    for part, named in _parts(rows):
        told = named | {"recording": values["recording"], "until": values["until"]}
        await db.execute(_LENGTHEN[part], told)
