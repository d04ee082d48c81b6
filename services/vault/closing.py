"""Closing: the terminal signs the count and the Merkle root over its segments, and that settles the recording.

1. The closing's signature is checked against the key enrolled for the recording's source.
2. The store is asked what lies under the recording's prefix, so that nothing there is unknown: what was put and
   not committed is sealed; what nobody asked for is put on record as a stray.
3. Under the recording's row lock (commits wait): every sequence up to the count is sealed, or declared
   missing by the terminal; where several digests of one sequence lie beside each other the root decides.
   What was sealed and the closing does not speak of (another digest, a sequence called missing or beyond the
   count) is listed beside: a closing cannot make a sealed segment vanish. A finished file that was *taken over*
   is named by it with its digest, which the manifest then has as that of the whole.
4. In the same transaction: manifest signed and stored, the last minute's statement and the manifest's
   statement entered in the log, the recording closed.
5. The manifest is sealed beside the media. Repeated from the row after a crash (`seal_manifests`); and the same
   closing again answers the same manifest.

*Supplements.* What is sealed after that opens supplement 1, 2, … : manifest `number` of the recording, closed by the
same steps. Its closing names the sequences it speaks of, since they may fill holes as well as go on; it never alters
an earlier manifest.

*By the server.* A source that cannot sign (an encoder that pushes), or that has gone, is closed by the vault itself:
no signature, the reason in its place, the first sealed digest of each sequence, holes listed as missing. A source
that can sign is closed like that only once it has been idle for a stated time; what it brings later is a supplement,
and a supplement that is left idle is closed so too (`close_idle_supplements`).
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors, tallies
from services.vault.contract import wire
from services.vault.enrolments import require_unrevoked
from services.vault.keyring import Keyring
from services.vault.log import statement
from services.vault.log.sequencer import Sequencer, enter
from services.vault.minutes import state_segments
from services.vault.models import Enrolment, Manifest, Recording, Segment
from services.vault.retention import count_in
from services.vault.sealing import prefix_of
from services.vault.settling import Closing, checked, outstanding_of, settle, settle_alone, whole_of
from services.vault.stores.port import Store
from services.vault.sweeping import Sweeper

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


class Closer:
    """`idle`: how long a source that can sign must have been silent before the server closes in its stead."""

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keyring,
        sequencer: Sequencer,
        sweeper: Sweeper,
        *,
        retention: timedelta,
        idle: timedelta,
    ):
        self._engine, self._store, self._keys, self._sequencer = engine, store, keys, sequencer
        self._sweeper, self._retention, self._idle = sweeper, retention, idle

    async def close(self, recording: UUID, request: wire.CloseRecording) -> wire.ClosedRecording:
        """Raises BadClosing, SegmentsOutstanding, ConflictsUndecided, WholeDiffers, ClosingDiffers, ClosedByServer,
        KeyRevoked: nothing was changed."""
        # 1. The signature.
        source = await self._source(recording)
        closing = checked(request.closing, recording, source)
        if source.state == "open" and source.revoked_at is not None:
            raise errors.KeyRevoked
        expected = closing.expected()
        # 2. What lies in the store.
        if source.state == "open":
            await self._sweeper.account_for(recording)
        # 3 and 4. One transaction.
        await self._keys.signed(lambda: self._close_as(request.closing, closing, expected, source))
        # 5. The manifest beside the media.
        self._sequencer.poke()
        await self.seal_manifests(recording)
        return await self.closed(recording, closing.number, request.closing)

    async def _close_as(self, envelope: wire.Envelope, closing: Closing, expected: list[int], source: Any) -> None:
        recording = closing.recording
        async with self._engine.begin() as db:
            state, number = await _lock(db, recording, self._keys)
            if state == "open" and number == closing.number:
                await require_unrevoked(db, source.key_id)
                sealed = await _sealed(db, recording, number)
                # In a thread: a day's recording is tens of thousands of hashes, and others are waiting.
                chosen, beside = await asyncio.to_thread(settle, closing, expected, sealed)
                told = {
                    "closed_by": "terminal",
                    "closing": envelope.model_dump(),
                    "root": closing.root,
                    "missing": closing.missing,
                    "started_at": wire.rfc3339(closing.started_at),
                    "ended_at": wire.rfc3339(closing.ended_at),
                } | whole_of(closing, source.format, chosen)
                await self._close(db, recording, number, source, told, chosen, beside)
            elif state == "closed" and closing.number == number + 1:
                # Nothing was sealed since, so no supplement is open.
                raise errors.SegmentsOutstanding(outstanding=outstanding_of(expected))
            elif closing.number > number:
                raise errors.BadClosing

    async def close_by_server(self, recording: UUID, closing: wire.CloseByServer) -> wire.ClosedRecording:
        """Close what is open of a recording without its source's signature; where nothing is open, the newest
        manifest again. Raises NothingSealed, WholeDiffers, and SourceNotIdle where the source can sign and is not
        silent: one whose key was revoked cannot."""
        source = await self._source(recording)
        if source.state == "open":
            can_sign = source.public_key is not None and source.revoked_at is None
            if can_sign and (closing.reason == "revoked" or datetime.now(UTC) - source.active_at < self._idle):
                raise errors.SourceNotIdle
            await self._sweeper.account_for(recording)
        number = await self._keys.signed(lambda: self._close_alone(recording, closing, source))
        self._sequencer.poke()
        await self.seal_manifests(recording)
        return await self.closed(recording, number)

    async def _close_alone(self, recording: UUID, closing: wire.CloseByServer, source: Any) -> int:
        async with self._engine.begin() as db:
            state, number = await _lock(db, recording, self._keys)
            if state == "open":
                sealed = await _sealed(db, recording, number)
                if not sealed:
                    raise errors.NothingSealed
                told, chosen, beside = await asyncio.to_thread(settle_alone, closing, number, sealed)
                await self._close(db, recording, number, source, told, chosen, beside)
        return number

    async def close_idle_supplements(self) -> int:
        """Close the supplements that nobody has added to for the stated time; returns how many there were."""
        silent = select(col(Recording.id)).where(col(Recording.state) == "open", col(Recording.number) > 0)
        silent = silent.where(col(Recording.active_at) < datetime.now(UTC) - self._idle).limit(100)
        async with self._engine.connect() as db:
            recordings = (await db.scalars(silent)).all()
        for recording in recordings:
            await self.close_by_server(recording, wire.CloseByServer(reason="idle"))
        return len(recordings)

    async def closed(
        self, recording: UUID, number: int, closing: wire.Envelope | None = None
    ) -> wire.ClosedRecording:
        """Manifest `number` of a recording. Raises NoSuchManifest, and where `closing` is not what closed it
        ClosedByServer or ClosingDiffers."""
        async with self._engine.connect() as db:
            this = (col(Manifest.recording_id) == recording) & (col(Manifest.number) == number)
            row = (await db.execute(select(Manifest).where(this))).one_or_none()
        if row is None:
            raise errors.NoSuchManifest
        if closing is not None and row.closing is None:
            raise errors.ClosedByServer
        if closing is not None and row.closing["payload"] != closing.payload:
            raise errors.ClosingDiffers
        return wire.ClosedRecording(
            recording=recording,
            number=number,
            closed_by="server" if row.closing is None else "terminal",
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
                await tallies.alone(db, row.recording_id)
                # Locked as it was put first, where a crash came between.
                values = {"version": stored.version, "retain_until": stored.retain_until or retain_until}
                first = update(Manifest).where(this, col(Manifest.version).is_(None)).values(**values)
                if (await db.execute(first)).rowcount:
                    await count_in(db, row.recording_id, 1)
        return len(rows)

    async def _source(self, recording: UUID) -> Any:
        """Who may close it, and what is open. Raises NoSuchRecording, NeverClosed."""
        names = ("key_id", "source", "kind", "state", "active_at", "format", "remuxed_by")
        own = [getattr(Recording, name) for name in names]
        query = select(*map(col, (*own, Enrolment.public_key, Enrolment.revoked_at))).where(
            col(Recording.id) == recording
        )
        query = query.outerjoin(Enrolment, col(Enrolment.key_id) == col(Recording.key_id))
        async with self._engine.connect() as db:
            source = (await db.execute(query)).one_or_none()
        if source is None:
            raise errors.NoSuchRecording
        if source.kind == "series":
            raise errors.NeverClosed
        return source

    def _signed(self, payload: dict[str, Any]) -> tuple[bytes, str, str]:
        """The manifest's envelope, its digest, and the id of the key that signed it."""
        signed = self._keys.envelope(wire.MANIFEST_TYPE, payload)
        envelope = wire.canonical(signed.model_dump())
        return envelope, hashlib.sha256(envelope).hexdigest(), signed.signatures[0].keyid

    async def _close(
        self,
        db: AsyncConnection,
        recording: UUID,
        number: int,
        source: Any,
        told: dict[str, Any],
        rows: list[Any],
        beside: list[Any],
    ) -> None:
        now, act = datetime.now(UTC), wire.manifest_act(recording, number)
        payload = told | wire.media_told(source.format, source.remuxed_by)
        payload |= {
            "recording": str(recording),
            "number": number,
            "source": {"recorder": str(source.source), "key_id": source.key_id},
            "count": len(rows),
            "segments": [_listed(row) for row in rows],
            "beside": [_listed_beside(row) for row in beside],
            "lock": self._store.lock,
        }
        signed, sha256, signer = await asyncio.to_thread(self._signed, payload)
        await self._keys.hold(db, "receipt", [signer])
        manifest = {
            "recording_id": recording,
            "number": number,
            "envelope": signed,
            "sha256": sha256,
            "closing": told.get("closing"),
            "segments": len(rows),
            "media_bytes": sum(row.size for row in rows),
            "ended_at": datetime.fromisoformat(told["ended_at"]),
            "closed_at": now,
            "key": f"{prefix_of(recording)}manifest-{number:04d}",
            "act": act,
        }
        await db.execute(insert(Manifest).values(manifest))
        await state_segments(db, [row for row in (*rows, *beside) if row.statement_act is None])
        fields = {"recording": str(recording), "number": number, "sha256": sha256}
        await enter(db, act, statement.build("manifest", act, now, fields))
        await db.execute(update(Recording).where(col(Recording.id) == recording).values(state="closed"))


def _listed_beside(row: Any) -> dict[str, Any]:
    listed = _listed(row)
    return {"of_sequence": listed.pop("sequence"), **listed}


async def _lock(db: AsyncConnection, recording: UUID, keys: Keyring) -> tuple[str, int]:
    """Alone with the recording: its state, and the number of the manifest that is being collected or was last."""
    await keys.share(db)
    query = select(col(Recording.state), col(Recording.number)).where(col(Recording.id) == recording)
    row = (await db.execute(query.with_for_update())).one()
    if row.state in ("disposing", "disposed"):
        raise errors.RecordingDisposed
    return row.state, row.number


async def _sealed(db: AsyncConnection, recording: UUID, number: int) -> list[Any]:
    columns = [getattr(Segment, name) for name in (*_LISTED, "recording_id", "statement_act")]
    query = select(*columns).where(col(Segment.recording_id) == recording, col(Segment.state) == "sealed")
    query = query.where(col(Segment.number) == number)
    query = query.order_by(col(Segment.sequence), col(Segment.sealed_at)).with_for_update()
    return list(await db.execute(query))


def _listed(row: Any) -> dict[str, Any]:
    listed = {name: getattr(row, name) for name in _LISTED}
    return listed | {name: wire.rfc3339(listed[name]) for name in ("started_at", "asked_at", "sealed_at")}
