"""Step 4 a of a rebuild: what the vault signed and laid beside the media, its manifests and tombstones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract import wire
from services.vault.contract.verify import VerificationError, verify_envelope
from services.vault.disposal import TOMBSTONE_TYPE
from services.vault.keys import Keys
from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import LogEntry, LogPending, Manifest, Recording, Segment, Tombstone
from services.vault.rebuild.acts import enrolled, put_segments, segment_row
from services.vault.rebuild.files import kept
from services.vault.rebuild.ledger import Ledger
from services.vault.receipts import receipt_payload
from services.vault.retention import keep_manifests
from services.vault.sealing import prefix_of
from services.vault.stores.port import Store, StoredObject

NUMBERED = text("""
    UPDATE vault.segments AS s SET number = :number
    FROM unnest(CAST(:sequences AS integer[]), CAST(:digests AS char(64)[])) AS told(sequence, sha256)
    WHERE s.recording_id = :recording AND s.sequence = told.sequence AND s.sha256 = told.sha256
""")


class Manifests:
    """`fault` hears of what is not as the log tells."""

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keys,
        ledger: Ledger,
        fault: Callable[[str, str], Awaitable[None]],
    ):
        self._engine, self._store, self._keys, self._fault = engine, store, keys, fault
        self._trusted, self._ever = ledger.trusted, ledger.ever

    async def manifest(
        self, recording: UUID, key: str, head: StoredObject, stored: dict[tuple[str, str], StoredObject]
    ) -> None:
        envelope, told = await self._signed(head, wire.MANIFEST_TYPE, recording)
        number = told.get("number", -1)
        if key != f"{manifests_of(recording)}{number:04d}":
            await self._fault(key, "不是本证据库为这一记录签署的清单")
            return
        listed = _listed(told)
        act, sha256 = wire.manifest_act(recording, number), hashlib.sha256(envelope).hexdigest()
        signer = wire.Envelope.model_validate_json(envelope).signatures[0].keyid
        async with self._engine.connect() as db:
            said = await _said(db, act)
        if (said["sha256"] != sha256) if said else (signer not in self._trusted):
            await self._fault(key, "与日志记载的清单不符" if said else "由已吊销的密钥签署，而日志没有记载")
            return
        at = datetime.fromisoformat(said["at"]) if said else datetime.now(UTC)
        async with self._engine.begin() as db:
            if not said:
                fields = {"recording": str(recording), "number": number, "sha256": sha256}
                await enter(db, act, statement.build("manifest", act, at, fields))
            row = {
                "recording_id": recording,
                "number": number,
                "envelope": envelope,
                "sha256": sha256,
                "closing": told.get("closing"),
                "segments": len(told["segments"]),
                "media_bytes": sum(each["size"] for each in told["segments"]),
                "ended_at": datetime.fromisoformat(told["ended_at"]),
                "closed_at": at,
                "key": key,
                "version": head.version,
                "act": act,
                "retain_until": head.retain_until,
                "held": head.held,
            }
            opened = _opened(recording, told)
            opened["key_id"] = await enrolled(db, opened["key_id"])
            await db.execute(insert(Recording).values(opened).on_conflict_do_nothing())
            fresh = insert(Manifest).values(row)
            await db.execute(fresh.on_conflict_do_update(index_elements=["recording_id", "number"], set_=row))
            await self._receipt_again(db, recording, told, stored)
            names = {
                "sequences": [each["sequence"] for each in listed],
                "digests": [each["sha256"] for each in listed],
            }
            await db.execute(NUMBERED, {"recording": recording, "number": number} | names)

    async def _receipt_again(
        self,
        db: AsyncConnection,
        recording: UUID,
        told: dict[str, Any],
        stored: dict[tuple[str, str], StoredObject],
    ) -> None:
        """For what the manifest lists and the log did not come to tell of: the same fields under the same key."""
        query = select(col(Segment.sequence), col(Segment.sha256)).where(col(Segment.recording_id) == recording)
        sealed = query.where(col(Segment.state).in_(("sealed", "disposed")))
        known = {(row.sequence, row.sha256) for row in await db.execute(sealed)}
        rows = []
        media = wire.media_told(**wire.media_of(told))
        for each in _listed(told):
            head = stored.get((each["key"], each["version"]))
            if head is None or (each["sequence"], each["sha256"]) in known:
                continue
            names = ("sequence", "sha256", "size", "media", "duration_ms", "monotonic_ms", "key")
            times = {name: datetime.fromisoformat(each[name]) for name in ("started_at", "asked_at", "sealed_at")}
            asked = {name: each[name] for name in names} | times
            row = Segment(recording_id=recording, state="asked", retain_until=times["sealed_at"], **asked)
            payload = receipt_payload(row, media, head, times["sealed_at"])
            receipt = self._keys.envelope(wire.RECEIPT_TYPE, payload).model_dump()
            rows.append(segment_row(payload, receipt) | {"statement_act": None})
        if rows:
            await put_segments(db, rows)

    async def tombstone(self, recording: UUID, stored: dict[tuple[str, str], StoredObject]) -> set[tuple[str, str]]:
        key = f"{prefix_of(recording)}tombstone"
        here = {name: head for name, head in stored.items() if name[0] == key}
        for head in here.values():
            envelope, told = await self._signed(head, TOMBSTONE_TYPE, recording)
            if not told:
                await self._fault(key, "不是本证据库为这一记录签署的销毁凭证")
                continue
            async with self._engine.begin() as db:
                values = {"envelope": envelope, "key": key, "version": head.version}
                this = col(Tombstone.recording_id) == recording
                done = await db.execute(update(Tombstone).where(this).values(**values))
                if done.rowcount:
                    ended = {"state": "disposed", "renew_at": None}
                    await db.execute(update(Recording).where(col(Recording.id) == recording).values(**ended))
                    await keep_manifests(db, recording)
            if not done.rowcount:
                await self._fault(key, "日志中没有对应的销毁记录")
            else:
                await kept(self._engine, head)
        return set(here)

    async def _signed(self, head: StoredObject, kind: str, recording: UUID) -> tuple[bytes, dict[str, Any]]:
        """The envelope that lies there and what it tells; nothing, where the vault did not sign it for this."""
        envelope = b"".join([chunk async for chunk in self._store.read(head.key, head.version)])
        try:
            whole = wire.Envelope.model_validate_json(envelope).model_dump()
            told = verify_envelope(whole, self._ever, kind)
        except (VerificationError, ValueError):
            return envelope, {}
        return envelope, told if told.get("recording") == str(recording) else {}


def manifests_of(recording: UUID) -> str:
    return f"{prefix_of(recording)}manifest-"


def _listed(told: dict[str, Any]) -> list[dict[str, Any]]:
    """All segments that a manifest lists, those beside it too."""
    segments: list[dict[str, Any]] = told["segments"]
    return segments + [each | {"sequence": each["of_sequence"]} for each in told["beside"]]


def _opened(recording: UUID, told: dict[str, Any]) -> dict[str, Any]:
    """The recording's row as far as a manifest of it tells."""
    began, source = datetime.fromisoformat(told["started_at"]), told["source"]
    row = {"id": recording, "source": UUID(source["recorder"]), "key_id": source["key_id"], "state": "open"}
    row |= wire.media_of(told)
    return row | {"kind": "recording", "started_at": began, "opened_at": began, "active_at": began}


async def _said(db: AsyncConnection, act: UUID) -> dict[str, Any]:
    """What the log tells, or is about to tell, of an act; nothing where it does not."""
    for table in (LogEntry, LogPending):
        said = await db.scalar(select(col(table.statement)).where(col(table.act) == act))
        if said is not None:
            return dict(json.loads(said))
    return {}
