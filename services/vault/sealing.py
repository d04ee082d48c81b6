"""The sealing cycle, steps 1, 2, 4 and 5 (3 and 6 are the holder's; numbered alike in DESIGN and docs).

1. Ask. The intent is stored: recording, sequence, digest, size, device times, the lock that will be asked.
2. Ticket. A PUT signed for exactly these bytes. It may be asked for again for as long as the segment is not
   sealed; nothing about the intent changes.
3. Put. The holder of the bytes, straight to the store: 200, or 412 "already there".
4. Check. On commit the object is looked at in the store; version, size, checksum and lock are compared with
   the intent, and nothing else in the store's metadata is believed.
5. Receipt. In one transaction the segment becomes sealed and the signed receipt is stored; where another digest
   of its sequence was sealed before, that conflict enters the log in the same transaction. The same commit again
   answers the same receipt.
6. Free. The holder verifies the receipt and only then lets go of the bytes.

A process that dies between any two leaves an intent (asked, perhaps put): asking or committing again goes on, and
where nobody does, the sweeper commits by these same steps (`sweeping.py`).
No transaction is open while the store is spoken to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors, intents
from services.vault.contract import wire
from services.vault.enrolments import require_unrevoked
from services.vault.keyring import Keyring
from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import Enrolment, Recording, Segment
from services.vault.receipts import fits, receipt_payload, sealed_segment
from services.vault.retention import RENEW_BEFORE, count_in
from services.vault.stores.port import Store
from services.vault.watch import Watch

_log = logging.getLogger("quancheng.vault.sealing")
_HEADS_AT_ONCE = 16
_CHECK_SECONDS = 12.0
"""For all of one message: a store that trickles makes its callers ask again, and keeps nobody else waiting."""
_LOCK_SLACK = _SHORTEST_LOCK = timedelta(days=1)


class Sealing:
    """`sweep_after`: how long after a ticket somebody looks for what was put with it and not committed."""

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keyring,
        watch: Watch,
        *,
        retention: timedelta,
        sweep_after: timedelta,
    ):
        self._engine, self._store, self._keys, self._retention = engine, store, keys, retention
        self._watch, self._sweep_after = watch, sweep_after
        self._heads = asyncio.Semaphore(_HEADS_AT_ONCE)

    async def open(self, recording: UUID, opening: wire.OpenRecording) -> None:
        """A recording begins. The same again changes nothing; another source, key, format or remuxer is refused."""
        await self._open(recording, "recording", opening.model_dump())

    async def open_series(self, series: UUID, opening: wire.OpenSeries) -> None:
        """A series begins: versions are sealed by the same cycle, and it is never closed."""
        more = {"key_id": None, "started_at": datetime.now(UTC), **wire.media_of({})}
        await self._open(series, "series", opening.model_dump() | more)

    async def _open(self, recording: UUID, kind: str, opening: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        values = opening | {"id": recording, "kind": kind, "opened_at": now, "active_at": now, "state": "open"}
        values["renew_at"] = now + max(self._retention - RENEW_BEFORE, self._retention / 2)
        enrolled = select(col(Enrolment.recorder)).where(col(Enrolment.key_id) == opening["key_id"])
        async with self._engine.begin() as db:
            if opening["key_id"] is not None and await db.scalar(enrolled) is None:
                raise errors.NoSuchEnrolment
            await require_unrevoked(db, opening["key_id"])
            await db.execute(insert(Recording).values(values).on_conflict_do_nothing())
            found = (await db.execute(select(Recording).where(col(Recording.id) == recording))).one()
        same = ("kind", "source", "key_id", "format", "remuxed_by")
        if any(getattr(found, name) != values[name] for name in same):
            raise errors.RecordingDiffers

    async def exchange(self, recording: UUID, request: wire.ExchangeRequest) -> wire.ExchangeResult:
        """Any number of asks and commits, each with its own outcome; one bad item spoils no other.

        Raises ClockDrift or StoreUnavailable where nothing else came of any of them: commits go on while tickets are
        stopped, and one object that the store does not tell of keeps nothing from the others.
        """
        asked, committed = await asyncio.gather(
            self._ask(recording, request.asks), self.commit(recording, request.commits, by_source=True)
        )
        came = {getattr(item, "slug", None) for item in asked + committed}
        for nothing in (errors.ClockDrift, errors.StoreUnavailable):
            if came == {nothing.slug}:
                raise nothing
        return wire.ExchangeResult(
            tickets=[item for item in asked if isinstance(item, wire.Ticket)],
            sealed=[item for item in asked + committed if isinstance(item, wire.SealedSegment)],
            problems=[item for item in asked + committed if isinstance(item, wire.ItemProblem)],
        )

    async def receipt(self, recording: UUID, sequence: int, sha256: str) -> wire.SealedSegment:
        async with self._engine.connect() as db:
            rows = await _rows(db, recording, [(sequence, sha256)])
        if not rows or rows[sequence, sha256].state not in ("sealed", "disposed"):
            raise errors.NoSuchSegment
        return sealed_segment(rows[sequence, sha256])

    async def _ask(
        self, recording: UUID, asks: Sequence[wire.SegmentAsk]
    ) -> list[wire.Ticket | wire.SealedSegment | wire.ItemProblem]:
        if not asks:
            return []
        # 1. Ask.
        now = datetime.now(UTC)
        # By the database's clock, as the sweeper looks: ours may be set back before it does.
        ticket = {"state": "asked", "ticket_at": func.now(), "sweep_at": func.now() + self._sweep_after}
        async with self._engine.begin() as db:
            opening = await lock(db, recording, by_source=True)
            kind, retain_until = opening.kind, self._locked_until(opening, now)
            if opening.revoked_at is not None:
                return [_problem(ask, errors.KeyRevoked) for ask in asks]
            known = await _rows(db, recording, [(ask.sequence, ask.sha256) for ask in asks])
            beside = await _digests_per_sequence(db, recording, {ask.sequence for ask in asks})
            fresh: dict[tuple[int, str], dict[str, Any]] = {}
            revived: set[tuple[int, str]] = set()
            # In one order everywhere, so that two exchanges over the same segments cannot block each other.
            for ask in sorted(asks, key=lambda ask: (ask.sequence, ask.sha256)):
                name = (ask.sequence, ask.sha256)
                lapsed = name in known and known[name].state == "lapsed" and name not in revived
                if (name in known and not lapsed) or name in fresh or not _suits(ask, kind):
                    continue
                if beside[ask.sequence] >= wire.MAX_DIGESTS_PER_SEQUENCE:
                    known.pop(name, None)
                    continue
                beside[ask.sequence] += 1
                if lapsed:
                    revived.add(name)
                    continue
                fresh[name] = ask.model_dump() | {
                    "recording_id": recording,
                    "key": segment_key(recording, ask.sequence, ask.sha256),
                    "retain_until": retain_until,
                    "asked_at": now,
                    **ticket,
                }
            again = [name for name, row in known.items() if row.state != "sealed"]
            if again:
                await db.execute(update(Segment).where(_named(recording, again)).values(ticket))
            if fresh:
                await db.execute(insert(Segment).values(list(fresh.values())).on_conflict_do_nothing())
                known |= await _rows(db, recording, list(fresh))
        # 2. Ticket.
        return [self._answer_ask(ask, opening, known.get((ask.sequence, ask.sha256)), now) for ask in asks]

    def _locked_until(self, opening: Row[Any], now: datetime) -> datetime:
        """As far ahead as every put is locked, and no further than its term, since nobody can shorten a lock."""
        until = now + self._retention
        if opening.keep_until is not None:
            until = min(until, max(opening.keep_until, now + _SHORTEST_LOCK))
        return until.replace(microsecond=0)

    def _answer_ask(
        self, ask: wire.SegmentAsk, opening: Row[Any], row: Row[Any] | None, now: datetime
    ) -> wire.Ticket | wire.SealedSegment | wire.ItemProblem:
        if row is None:
            return _problem(ask, errors.TooManyDigests if _suits(ask, opening.kind) else errors.OtherKind)
        intent = wire.SegmentAsk.model_validate({name: getattr(row, name) for name in wire.SegmentAsk.model_fields})
        if intent != ask:
            return _problem(ask, errors.AskDiffers)
        if row.state == "sealed":
            return sealed_segment(row)
        if self._watch.drifts:
            return _problem(ask, errors.ClockDrift)
        # Asked again much later, the lock still reaches as far ahead as it should.
        fresh = self._locked_until(opening, now)
        retain_until = fresh if row.retain_until < fresh - _LOCK_SLACK else row.retain_until
        carried = intents.signed(self._keys.keys, row.key, opening, ask, row.asked_at)
        ticket = self._store.put_ticket(row.key, row.sha256, row.size, retain_until, now, carried)
        return wire.Ticket(
            sequence=ask.sequence,
            sha256=ask.sha256,
            url=ticket.url,
            headers=ticket.headers,
            expires_at=ticket.expires_at,
        )

    async def commit(
        self, recording: UUID, names: Sequence[wire.SegmentName], *, by_source: bool = False
    ) -> list[wire.SealedSegment | wire.ItemProblem]:
        """Steps 4 and 5, whoever asks for them: the source, the sweeper, or a closing that finds what was put.
        What is sealed after the recording was closed opens a supplement, or joins the one that is open."""
        return await self._keys.signed(lambda: self._commit(recording, names, by_source)) if names else []

    async def _commit(
        self, recording: UUID, names: Sequence[wire.SegmentName], by_source: bool
    ) -> list[wire.SealedSegment | wire.ItemProblem]:
        async with self._engine.connect() as db:
            rows = await _rows(db, recording, [(name.sequence, name.sha256) for name in names])
        # 4. Check.
        until = asyncio.get_running_loop().time() + _CHECK_SECONDS
        outcomes = await asyncio.gather(*(self._check(rows.get((n.sequence, n.sha256)), n, until) for n in names))
        receipts = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        untold = sum(getattr(outcome, "slug", None) == errors.StoreUnavailable.slug for outcome in outcomes)
        if untold:
            _log.warning("of %s objects of %s the store does not tell of %s", len(names), recording, untold)
        # 5. Receipt.
        if receipts:
            async with self._engine.begin() as db:
                locked = await lock(db, recording, by_source=by_source)
                for signer in {one["receipt"]["signatures"][0]["keyid"] for one in receipts}:
                    await self._keys.hold(db, "receipt", [signer])
                number = locked.number if locked.state == "open" else locked.number + 1
                ordered = sorted(receipts, key=lambda one: (one["sequence"], one["sha256"]))
                becoming = [(one, _becomes_sealed(recording, number, one)) for one in ordered]
                sealed = [one for one, step in becoming if (await db.execute(step)).rowcount]
                if sealed and number != locked.number:
                    opened = {"state": "open", "number": number, "active_at": datetime.now(UTC)}
                    await db.execute(update(Recording).where(col(Recording.id) == recording).values(opened))
                await _state_conflicts(db, recording, sealed)
                if sealed:
                    await count_in(db, recording, len(sealed))
                if locked.kind == "series":
                    await _state_versions(db, [rows[one["sequence"], one["sha256"]] for one in sealed])
                rows = await _rows(db, recording, [(name.sequence, name.sha256) for name in names])
        return [
            outcome if isinstance(outcome, wire.ItemProblem) else sealed_segment(rows[name.sequence, name.sha256])
            for name, outcome in zip(names, outcomes, strict=True)
        ]

    async def _check(
        self, row: Row[Any] | None, name: wire.SegmentName, until: float
    ) -> dict[str, Any] | wire.ItemProblem | None:
        """The values that seal this segment; None if it is sealed already."""
        if row is None:
            return _problem(name, errors.NotAsked)
        if row.state == "sealed":
            return None
        try:
            async with asyncio.timeout_at(until), self._heads:
                stored = await self._store.head(row.key)
        except (TimeoutError, errors.StoreUnavailable) as error:
            _log.debug("the store does not tell of %s: %r", row.key, error)
            return _problem(name, errors.StoreUnavailable)
        if stored is None:
            return _problem(name, errors.NotStored)
        if not fits(row, stored, self._store.lock):
            return _problem(name, errors.StoredDiffers)
        sealed_at = datetime.now(UTC)
        media = wire.media_told(row.format, row.remuxed_by)
        envelope = self._keys.envelope(wire.RECEIPT_TYPE, receipt_payload(row, media, stored, sealed_at))
        return {
            "sequence": row.sequence,
            "sha256": row.sha256,
            "version": stored.version,
            "sealed_at": sealed_at,
            "receipt": envelope.model_dump(),
            # A ticket that was asked for again much later locked it for longer than the intent says.
            "retain_until": max(row.retain_until, stored.retain_until or row.retain_until),
        }


def segment_key(recording: UUID, sequence: int, sha256: str) -> str:
    """Each digest has its own place, so that two digests of one sequence lie beside each other."""
    return f"{prefix_of(recording)}{sequence:010d}-{sha256}"


def prefix_of(recording: UUID) -> str:
    """Where all that is sealed of a recording lies, its manifests too."""
    return f"recordings/{recording}/"


def _becomes_sealed(recording: UUID, number: int, receipt: dict[str, Any]) -> Any:
    values = {name: receipt[name] for name in ("version", "sealed_at", "receipt", "retain_until")}
    return (
        update(Segment)
        .where(col(Segment.recording_id) == recording)
        .where(col(Segment.sequence) == receipt["sequence"], col(Segment.sha256) == receipt["sha256"])
        .where(col(Segment.state) != "sealed")
        .values(state="sealed", sweep_at=None, number=number, **values)
    )


def _problem(name: wire.SegmentName, error: type[errors.VaultError]) -> wire.ItemProblem:
    return wire.ItemProblem(sequence=name.sequence, sha256=name.sha256, slug=error.slug, title=error.title)


async def _state_conflicts(db: AsyncConnection, recording: UUID, sealed: Sequence[dict[str, Any]]) -> None:
    """Where what was just sealed lies beside other sealed digests of its sequence, the log tells of all of them."""
    if not sealed:
        return
    fresh = {(one["sequence"], one["sha256"]) for one in sealed}
    sequences = {sequence for sequence, _ in fresh}
    query = select(col(Segment.sequence), col(Segment.sha256)).where(col(Segment.recording_id) == recording)
    query = query.where(col(Segment.sequence).in_(sequences), col(Segment.state) == "sealed")
    digests: dict[int, list[str]] = defaultdict(list)
    for row in await db.execute(query.order_by(col(Segment.sequence), col(Segment.sha256))):
        digests[row.sequence].append(row.sha256)
    for sequence, beside in digests.items():
        if len(beside) > 1:
            act, new = uuid7(), [sha256 for sha256 in beside if (sequence, sha256) in fresh]
            fields = {"recording": str(recording), "sequence": sequence, "sha256": beside, "new": new}
            await enter(db, act, statement.build("conflict", act, datetime.now(UTC), fields))
            these = (col(Segment.recording_id) == recording) & (col(Segment.sequence) == sequence)
            told = update(Segment).where(these, col(Segment.sha256).in_(new))
            await db.execute(told.values(conflict_act=act))


async def _state_versions(db: AsyncConnection, versions: Sequence[Row[Any]]) -> None:
    """The log tells of each version of a series by itself, with what its keeper recorded of it as a digest."""
    for row in versions:
        act = wire.series_act(row.recording_id, row.sequence, row.sha256)
        fields = {"series": str(row.recording_id), "version": row.sequence}
        fields |= {"sha256": row.sha256, "metadata_sha256": row.metadata_sha256}
        await enter(db, act, statement.build("series", act, datetime.now(UTC), fields))


def _suits(ask: wire.SegmentAsk, kind: str) -> bool:
    """Series hold files, whose first version is 1; recordings hold media."""
    return ask.media == "file" and ask.sequence > 0 if kind == "series" else ask.media != "file"


async def lock(db: AsyncConnection, recording: UUID, *, by_source: bool = False) -> Row[Any]:
    """Alone with the recording until the transaction ends: what is counted here is still so when it is written.
    Its state, the number of the manifest that is collected or was last, how it was opened (kind, source, key_id,
    started_at, format, remuxed_by), its term, and when its source's key was revoked. Raises NoSuchRecording."""
    this = col(Recording.id) == recording
    revoked = select(col(Enrolment.revoked_at)).where(col(Enrolment.key_id) == col(Recording.key_id))
    columns = ("kind", "state", "number", "source", "key_id", "started_at", "format", "remuxed_by", "keep_until")
    told = [*(getattr(Recording, name) for name in columns), revoked.scalar_subquery().label("revoked_at")]
    row = (
        await db.execute(update(Recording).where(this).values(_active(datetime.now(UTC))).returning(*told))
        if by_source
        else await db.execute(select(*told).where(this).with_for_update(key_share=True))
    ).one_or_none()
    if row is None:
        raise errors.NoSuchRecording
    if row.state in ("disposing", "disposed"):
        raise errors.RecordingDisposed
    return row


def _active(now: datetime) -> dict[str, Any]:
    """A source was here; what it brings has locks that somebody will have to look at."""
    return {"active_at": now, "renew_at": func.coalesce(col(Recording.renew_at), now + timedelta(days=30))}


async def _rows(
    db: AsyncConnection, recording: UUID, names: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], Row[Any]]:
    """Each with what its recording's media are."""
    media = (col(Recording.format), col(Recording.remuxed_by))
    query: Any = select(Segment, *media).where(_named(recording, names))
    query = query.join(Recording, col(Recording.id) == col(Segment.recording_id))
    return {(row.sequence, row.sha256): row for row in await db.execute(query)}


def _named(recording: UUID, names: Sequence[tuple[int, str]]) -> ColumnElement[bool]:
    key = tuple_(col(Segment.sequence), col(Segment.sha256))
    return and_(col(Segment.recording_id) == recording, key.in_(names))


async def _digests_per_sequence(db: AsyncConnection, recording: UUID, sequences: set[int]) -> Counter[int]:
    """How many digests lie beside each other under each of these sequences, or still may come: not those that were
    asked for and never came."""
    query = (
        select(col(Segment.sequence), func.count())
        .where(col(Segment.recording_id) == recording, col(Segment.sequence).in_(sequences))
        .where(col(Segment.state) != "lapsed")
        .group_by(col(Segment.sequence))
    )
    return Counter(dict((await db.execute(query)).all()))
