"""Step 4 of a rebuild: every object of every recording, held against the rows.

For each recording, from the rows and the bucket alike:

a. Manifests and tombstone are read; what a manifest lists and no statement has told of has its receipt made again,
   which is the same to the byte.
b. An object that nobody told of is asked for by the intent that it carries. The recording's state follows: disposed,
   closed by its newest manifest, or open.
c. Every sealed object's version, size, checksum and lock are those of its receipt, or it is named. Its lock's date
   and its flag are what the store says.
d. What was asked for in b is sealed by the ordinary steps; what carries no intent is a stray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault import intents, tallies
from services.vault.alarms import Alarms
from services.vault.contract import wire
from services.vault.keys import Keys
from services.vault.models import Manifest, Recording, Segment
from services.vault.rebuild.acts import enrolled
from services.vault.rebuild.ledger import Ledger
from services.vault.rebuild.manifests import NUMBERED, Manifests, manifests_of
from services.vault.retention import COVERED, RENEW_BEFORE
from services.vault.sampling import DIFFERS
from services.vault.stores.port import Store, StoredName, StoredObject
from services.vault.sweeping import Sweeper

_PAGE, _AT_ONCE = 1000, 16
_MAX_NAMED = 100

_STATE = text("""
    UPDATE vault.recordings SET
        state = CASE WHEN :disposal THEN state WHEN :manifests > 0 AND NOT :beyond AND kind = 'recording'
            THEN 'closed' ELSE 'open' END,
        number = CASE WHEN kind = 'series' THEN 0 ELSE :number END,
        active_at = greatest(active_at, (SELECT max(sealed_at) FROM vault.segments WHERE recording_id = :recording)),
        renew_at = CASE WHEN :disposal THEN NULL ELSE now() END
    WHERE id = :recording
""")
_RENEW = text(f"""
    UPDATE vault.recordings AS r SET renew_at = greatest(now(), CASE WHEN {COVERED} THEN now() ELSE
        (SELECT min(retain_until) FROM vault.segments WHERE recording_id = :recording AND state = 'sealed')
        - CAST(:before AS interval) END)
    WHERE id = :recording AND renew_at IS NOT NULL
""")  # noqa: S608
_SEEN = text("""
    UPDATE vault.segments AS s SET retain_until = coalesce(told.until, s.retain_until), held = told.held
    FROM unnest(CAST(:sequences AS integer[]), CAST(:digests AS char(64)[]), CAST(:dates AS timestamptz[]),
        CAST(:flags AS boolean[])) AS told(sequence, sha256, until, held)
    WHERE s.recording_id = :recording AND s.sequence = told.sequence AND s.sha256 = told.sha256
""")


@dataclass
class Found:
    """What the bucket held. `wrong` names the first of what is missing or not as it was sealed."""

    recordings: int = 0
    objects: int = 0
    again: int = 0
    strays: int = 0
    faults: int = 0
    wrong: list[str] = field(default_factory=list)

    def fault(self, key: str, why: str) -> None:
        self.faults += 1
        if len(self.wrong) < _MAX_NAMED:
            self.wrong.append(f"{key}：{why}")


class Objects:
    def __init__(
        self, engine: AsyncEngine, store: Store, keys: Keys, alarms: Alarms, sweeper: Sweeper, ledger: Ledger
    ):
        self._engine, self._store, self._alarms = engine, store, alarms
        self._sweeper, self._trusted = sweeper, ledger.trusted
        self._manifests = Manifests(engine, store, keys, ledger, self._fault)
        self.found = Found()

    async def walk(self, told: Callable[[Found], None]) -> None:
        """Raises StoreUnavailable: run again."""
        async for recording, names in self._recordings():
            await self._recording(recording, names)
            self.found.recordings += 1
            told(self.found)

    async def _recordings(self) -> AsyncIterator[tuple[UUID, list[StoredName]]]:
        """Every recording of the rows or the bucket once, with what lies under it; both come in order of ids."""
        rows = self._ids()
        row = await anext(rows, None)
        async for recording, names in self._listed():
            while row is not None and row < recording:
                yield row, []
                row = await anext(rows, None)
            if row == recording:
                row = await anext(rows, None)
            yield recording, names
        while row is not None:
            yield row, []
            row = await anext(rows, None)

    async def _ids(self) -> AsyncIterator[UUID]:
        after = UUID(int=0)
        while True:
            query = select(col(Recording.id)).where(col(Recording.id) > after).order_by(col(Recording.id))
            async with self._engine.connect() as db:
                page = (await db.scalars(query.limit(_PAGE))).all()
            if not page:
                return
            for each in page:
                yield each
            after = page[-1]

    async def _listed(self) -> AsyncIterator[tuple[UUID, list[StoredName]]]:
        current, names = None, list[StoredName]()
        async for stored in self._store.list("recordings/"):
            try:
                recording = UUID(stored.key.split("/")[1])
            except ValueError:
                self.found.strays += 1
                self.found.fault(stored.key, "不属于任何记录")
                continue
            if recording != current:
                if current is not None:
                    yield current, names
                current, names = recording, []
            names.append(stored)
        if current is not None:
            yield current, names

    async def _recording(self, recording: UUID, names: list[StoredName]) -> None:
        stored = {}
        async for name, head in self._heads([name for name in names if not name.deleted]):
            stored[name.key, name.version] = head
        self.found.objects += len(stored)
        # a.
        manifests = {name: head for name, head in stored.items() if name[0].startswith(manifests_of(recording))}
        for (key, _), head in sorted(manifests.items()):
            await self._manifests.manifest(recording, key, head, stored)
        buried = await self._manifests.tombstone(recording, stored)
        # b.
        segments = {name: head for name, head in stored.items() if name not in manifests and name not in buried}
        intended = await self._adopt(recording, segments)
        await self._state(recording)
        # c.
        unknown = await self._compare(recording, segments)
        # d.
        if unknown or any(name.deleted for name in names):
            self.found.again += len(unknown & intended)
            self.found.strays += len(unknown - intended)
            await self._sweeper.account_for(recording)
        async with self._engine.begin() as db:
            await tallies.count_again(db, recording)

    async def _heads(self, names: list[StoredName]) -> AsyncIterator[tuple[StoredName, StoredObject]]:
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            heads = await asyncio.gather(*(self._store.head(name.key, name.version) for name in part))
            for name, head in zip(part, heads, strict=True):
                if head is not None:
                    yield name, head

    async def _adopt(self, recording: UUID, stored: dict[tuple[str, str], StoredObject]) -> set[tuple[str, str]]:
        """Ask for what no row stands for, where the object carries the vault's own intent."""
        here = select(col(Segment.key)).where(col(Segment.recording_id) == recording)
        async with self._engine.connect() as db:
            known = set(await db.scalars(here))
        found = set()
        for (key, version), head in stored.items():
            if key in known or not head.intent:
                continue
            intent = intents.opened(head.intent, key, self._trusted.values())
            if intent is not None and (intent.ask.sha256, intent.ask.size) == (head.sha256, head.size):
                await self._ask(recording, key, intent, head)
                found.add((key, version))
        return found

    async def _ask(self, recording: UUID, key: str, intent: intents.Intent, head: StoredObject) -> None:
        now = datetime.now(UTC)
        opening: dict[str, Any] = {
            "id": recording,
            "kind": intent.kind,
            "source": intent.source,
            "key_id": intent.key_id,
            "format": intent.format,
            "remuxed_by": intent.remuxed_by,
        }
        opening |= {"started_at": intent.opened_as, "opened_at": intent.asked_at, "active_at": intent.asked_at}
        asked = intent.ask.model_dump() | {"recording_id": recording, "key": key, "asked_at": intent.asked_at}
        asked |= {"state": "asked", "ticket_at": intent.asked_at, "sweep_at": now}
        async with self._engine.begin() as db:
            opening["key_id"] = await enrolled(db, intent.key_id)
            await db.execute(insert(Recording).values(opening | {"state": "open"}).on_conflict_do_nothing())
            row = asked | {"retain_until": head.retain_until or now}
            await db.execute(insert(Segment).values(row).on_conflict_do_nothing())

    async def _state(self, recording: UUID) -> None:
        async with self._engine.begin() as db:
            state = await db.scalar(select(col(Recording.state)).where(col(Recording.id) == recording))
            if state is None:
                return
            numbers = await db.scalars(select(col(Manifest.number)).where(col(Manifest.recording_id) == recording))
            last = max(numbers, default=-1)
            envelopes = select(col(Manifest.envelope)).where(col(Manifest.recording_id) == recording)
            listed = {
                (each.get("sequence", each.get("of_sequence")), each["sha256"])
                for envelope in await db.scalars(envelopes)
                for told in [wire.Envelope.model_validate_json(envelope).decoded()]
                for each in told["segments"] + told["beside"]
            }
            query = select(col(Segment.sequence), col(Segment.sha256)).where(col(Segment.recording_id) == recording)
            found = await db.execute(query.where(col(Segment.state) == "sealed"))
            sealed = {(row.sequence, row.sha256) for row in found}
            beyond = sorted(sealed - listed)
            number = last + 1 if beyond or last < 0 else last
            if beyond:
                names = {"sequences": [each[0] for each in beyond], "digests": [each[1] for each in beyond]}
                await db.execute(NUMBERED, {"recording": recording, "number": number} | names)
            disposal = state in ("disposing", "disposed")
            values = {"recording": recording, "disposal": disposal, "manifests": last + 1, "beyond": bool(beyond)}
            await db.execute(_STATE, values | {"number": max(number, 0)})

    async def _compare(self, recording: UUID, stored: dict[tuple[str, str], StoredObject]) -> set[tuple[str, str]]:
        """Hold the sealed rows against the store; returns what no sealed row stands for."""
        query = select(Segment).where(col(Segment.recording_id) == recording)
        async with self._engine.connect() as db:
            state = await db.scalar(select(col(Recording.state)).where(col(Recording.id) == recording))
            rows = (await db.execute(query.where(col(Segment.state).in_(("sealed", "disposed"))))).all()
        seen, gone = [], []
        for row in rows:
            head = stored.get((row.key, row.version))
            if head is None:
                gone.append(row)
                continue
            seen.append((row, head))
            if (head.size, head.sha256, head.lock) != (row.size, row.sha256, self._store.lock):
                await self._fault(row.key, "与凭证不符")
        if state in ("disposing", "disposed"):
            await self._disposed(recording, gone)
        else:
            for row in gone:
                await self._fault(row.key, "存储中已不存在这一版本")
        await self._seen(recording, seen)
        return stored.keys() - {(row.key, row.version) for row in rows}

    async def _seen(self, recording: UUID, seen: list[tuple[Any, StoredObject]]) -> None:
        if seen:
            told = {
                "sequences": [row.sequence for row, _ in seen],
                "digests": [row.sha256 for row, _ in seen],
                "dates": [head.retain_until for _, head in seen],
                "flags": [head.held for _, head in seen],
            }
            async with self._engine.begin() as db:
                await db.execute(_SEEN, told | {"recording": recording})
                await db.execute(_RENEW, {"recording": recording, "before": RENEW_BEFORE})

    async def _disposed(self, recording: UUID, gone: list[Any]) -> None:
        async with self._engine.begin() as db:
            for row in gone:
                this = (col(Segment.sequence) == row.sequence) & (col(Segment.sha256) == row.sha256)
                here = update(Segment).where(col(Segment.recording_id) == recording, this)
                await db.execute(here.values(state="disposed"))

    async def _fault(self, key: str, why: str) -> None:
        self.found.fault(key, why)
        await self._alarms.sound(DIFFERS, key[:512], why)
