"""Closing: the terminal signs the count and the Merkle root over its segments, and that settles the recording.

1. The closing's signature is checked against the key enrolled for the recording's source.
2. The store is asked what lies under the recording's prefix, so that nothing there is unknown: what was put and
   not committed is sealed; what nobody asked for is put on record as a stray.
3. Under the recording's row lock (commits wait): every sequence up to the count is sealed, or declared
   missing by the terminal; where several digests of one sequence lie beside each other the root decides.
   What was sealed and the closing does not speak of (another digest, a sequence called missing or beyond the
   count) is listed beside: a closing cannot make a sealed segment vanish.
4. In the same transaction: manifest signed and stored, the last minute's statement and the manifest's
   statement entered in the log, the recording closed.
5. The manifest is sealed beside the media. Repeated from the row after a crash (`seal_manifests`).

The same closing again answers the same manifest.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, ValidationError
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors
from services.vault.contract import wire
from services.vault.contract.verify import VerificationError, merkle_root, segment_leaf, verify_envelope
from services.vault.keys import Keys
from services.vault.log import statement
from services.vault.log.sequencer import Sequencer, enter
from services.vault.minutes import state_segments
from services.vault.models import Enrolment, Manifest, Recording, Segment
from services.vault.stores.port import Store
from services.vault.sweeping import Sweeper

_MAX_COMBINATIONS = 64
_MAX_HASHES = 1_000_000
_MAX_OUTSTANDING = 1000
_LISTED = (
    "sequence",
    "size",
    "sha256",
    "media",
    "started_at",
    "duration_ms",
    "monotonic_ms",
    "asked_at",
    "sealed_at",
    "key",
    "version",
)


class Closing(wire.Message):
    """The payload a terminal signs; `root` is over its segments in order, those `missing` left out."""

    recording: UUID
    count: Annotated[int, Field(ge=1, le=1_000_000)]
    root: wire.Sha256
    missing: Annotated[list[Annotated[int, Field(ge=0, le=wire.MAX_SEQUENCE)]], Field(max_length=100_000)]
    started_at: wire.Moment
    ended_at: wire.Moment
    interrupted: bool


class Closer:
    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keys,
        sequencer: Sequencer,
        sweeper: Sweeper,
        *,
        retention: timedelta,
    ):
        self._engine, self._store, self._keys, self._sequencer = engine, store, keys, sequencer
        self._sweeper, self._retention = sweeper, retention

    async def close(self, recording: UUID, request: wire.CloseRecording) -> wire.ClosedRecording:
        # 1. The signature.
        async with self._engine.connect() as db:
            columns = (Recording.key_id, Recording.source, Recording.state, Enrolment.public_key)
            query = select(*map(col, columns))
            query = query.join(Enrolment, col(Enrolment.key_id) == col(Recording.key_id)).where(
                col(Recording.id) == recording
            )
            source = (await db.execute(query)).one_or_none()
        if source is None:
            raise errors.NoSuchRecording
        closing = _checked(request.closing, recording, source.key_id, source.public_key)
        # 2. What lies in the store.
        if source.state == "open":
            await self._sweeper.account_for(recording)
        # 3 and 4. One transaction.
        async with self._engine.begin() as db:
            lock = select(col(Recording.state)).where(col(Recording.id) == recording).with_for_update()
            if await db.scalar(lock) == "open":
                sealed = await _sealed(db, recording)
                # In a thread: a day's recording is tens of thousands of hashes, and others are waiting.
                chosen, beside = await asyncio.to_thread(_settle, closing, sealed)
                await self._close(db, recording, source, closing, request.closing, chosen, beside)
        # 5. The manifest beside the media.
        self._sequencer.poke()
        await self.seal_manifests(recording)
        return await self.closed(recording, request.closing)

    async def closed(self, recording: UUID, closing: wire.Envelope | None = None) -> wire.ClosedRecording:
        """The answer for a closed recording; ClosingDiffers where `closing` is not what closed it."""
        async with self._engine.connect() as db:
            query = select(Manifest).where(col(Manifest.recording_id) == recording, col(Manifest.number) == 0)
            row = (await db.execute(query)).one_or_none()
        if row is None:
            raise errors.NoSuchRecording
        if closing is not None and row.closing["payload"] != closing.payload:
            raise errors.ClosingDiffers
        return wire.ClosedRecording(
            recording=recording,
            segments=row.segments,
            bytes=row.media_bytes,
            ended_at=row.ended_at,
            closed_at=row.closed_at,
            lock=self._store.lock,
            manifest=wire.Envelope.model_validate_json(row.envelope),
            manifest_sha256=row.sha256,
            log_act=row.act,
        )

    async def seal_manifests(self, recording: UUID | None = None) -> int:
        """Put every manifest that is not in the store yet; returns how many. Safe to repeat."""
        query = select(Manifest).where(col(Manifest.version).is_(None)).order_by(col(Manifest.closed_at)).limit(100)
        if recording is not None:
            query = query.where(col(Manifest.recording_id) == recording)
        async with self._engine.connect() as db:
            rows = (await db.execute(query)).all()
        for row in rows:
            retain_until = (datetime.now(UTC) + self._retention).replace(microsecond=0)
            stored = await self._store.put(row.key, row.envelope, retain_until)
            this = (col(Manifest.recording_id) == row.recording_id) & (col(Manifest.number) == row.number)
            async with self._engine.begin() as db:
                await db.execute(update(Manifest).where(this).values(version=stored.version))
        return len(rows)

    def _signed(self, payload: dict[str, Any]) -> tuple[bytes, str]:
        envelope = wire.canonical(self._keys.envelope(wire.MANIFEST_TYPE, payload).model_dump())
        return envelope, hashlib.sha256(envelope).hexdigest()

    async def _close(
        self,
        db: AsyncConnection,
        recording: UUID,
        source: Any,
        closing: Closing,
        envelope: wire.Envelope,
        rows: list[Any],
        beside: list[Any],
    ) -> None:
        now, act = datetime.now(UTC), uuid7()
        payload = {
            "recording": str(recording),
            "number": 0,
            "source": {"recorder": str(source.source), "key_id": source.key_id},
            "closed_by": "terminal",
            "closing": envelope.model_dump(),
            "count": closing.count,
            "root": closing.root,
            "missing": closing.missing,
            "started_at": wire.rfc3339(closing.started_at),
            "ended_at": wire.rfc3339(closing.ended_at),
            "segments": [_listed(row) for row in rows],
            "beside": [_listed_beside(row) for row in beside],
            "lock": self._store.lock,
        }
        signed, sha256 = await asyncio.to_thread(self._signed, payload)
        manifest = {
            "recording_id": recording,
            "number": 0,
            "envelope": signed,
            "sha256": sha256,
            "closing": envelope.model_dump(),
            "segments": len(rows),
            "media_bytes": sum(row.size for row in rows),
            "ended_at": closing.ended_at,
            "closed_at": now,
            "key": f"recordings/{recording}/manifest-0000",
            "act": act,
        }
        await db.execute(insert(Manifest).values(manifest))
        await state_segments(db, [row for row in (*rows, *beside) if row.statement_act is None])
        fields = {"recording": str(recording), "number": 0, "sha256": sha256}
        await enter(db, act, statement.build("manifest", act, now, fields))
        await db.execute(update(Recording).where(col(Recording.id) == recording).values(state="closed"))


def _listed_beside(row: Any) -> dict[str, Any]:
    listed = _listed(row)
    return {"of_sequence": listed.pop("sequence"), **listed}


def _checked(envelope: wire.Envelope, recording: UUID, key_id: str, public_key: bytes) -> Closing:
    keys = {key_id: Ed25519PublicKey.from_public_bytes(public_key)}
    try:
        payload = verify_envelope(envelope.model_dump(), keys, wire.CLOSING_TYPE)
        closing = Closing.model_validate_json(json.dumps(payload))
    except (VerificationError, ValidationError) as error:
        raise errors.BadClosing from error
    if closing.recording != recording or closing.missing != sorted(set(closing.missing)):
        raise errors.BadClosing
    return closing


async def _sealed(db: AsyncConnection, recording: UUID) -> list[Any]:
    columns = [getattr(Segment, name) for name in (*_LISTED, "recording_id", "statement_act")]
    query = select(*columns).where(col(Segment.recording_id) == recording, col(Segment.state) == "sealed")
    query = query.order_by(col(Segment.sequence), col(Segment.sealed_at)).with_for_update()
    return list(await db.execute(query))


def _settle(closing: Closing, sealed: list[Any]) -> tuple[list[Any], list[Any]]:
    """The sealed segments that the closing speaks of, in order, and those it does not."""
    choices: dict[int, list[Any]] = defaultdict(list)
    for row in sealed:
        choices[row.sequence].append(row)
    missing = set(closing.missing)
    expected = [n for n in range(closing.count + len(missing)) if n not in missing]
    if len(expected) != closing.count:
        raise errors.BadClosing
    outstanding = [{"sequence": n} for n in expected if n not in choices]
    if outstanding:
        raise errors.SegmentsOutstanding(outstanding=outstanding[:_MAX_OUTSTANDING])
    tries = max(1, min(_MAX_COMBINATIONS, _MAX_HASHES // len(expected)))
    for chosen in itertools.islice(itertools.product(*(choices[n] for n in expected)), tries):
        leaves = (segment_leaf(row.sequence, row.sha256, row.size) for row in chosen)
        if merkle_root(leaves).hex() == closing.root:
            named = {(row.sequence, row.sha256) for row in chosen}
            return list(chosen), [row for row in sealed if (row.sequence, row.sha256) not in named]
    raise errors.BadClosing


def _listed(row: Any) -> dict[str, Any]:
    listed = {name: getattr(row, name) for name in _LISTED}
    return listed | {name: wire.rfc3339(listed[name]) for name in ("started_at", "asked_at", "sealed_at")}
