"""Step 3 of a rebuild: the rows that each statement tells of, in the order of the log.

Everything is an upsert, so that the same statement may be told again and an old dump is brought up to it. States
that follow from what lies in the bucket are left to step 4.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract import custody, wire
from services.vault.contract.verify import VerificationError, verify_envelope
from services.vault.errors import HistoryLost
from services.vault.models import (
    Custodian,
    Enrolment,
    HeldRecording,
    Hold,
    Order,
    Recording,
    Segment,
    Term,
    Tombstone,
)
from services.vault.rebuild import key_history
from services.vault.rebuild.ledger import Trusted

_CONFLICT = text("""
    UPDATE vault.segments SET conflict_act = :act
    WHERE recording_id = :recording AND sequence = :sequence AND sha256 = ANY(CAST(:digests AS char(64)[]))
""")


async def enrolled(db: AsyncConnection, key_id: str | None) -> str | None:
    """The key where the log tells of its enrolment. What another began is closed by the server."""
    query = select(col(Enrolment.key_id)).where(col(Enrolment.key_id) == key_id)
    return await db.scalar(query) if key_id is not None else None


class Acts:
    def __init__(self, engine: AsyncEngine, trusted: Trusted):
        self._engine, self._trusted = engine, trusted
        self._conflicts: list[dict[str, Any]] = []

    async def retell(self, lines: Sequence[dict[str, Any]]) -> None:
        """One file of statements. Raises HistoryLost for a receipt that no key of the vault signed."""
        async with self._engine.begin() as db:
            for line in lines:
                said, carries = json.loads(line["statement"]), line.get("carries", {})
                for opening in carries.get("openings", ()):
                    await _open(db, opening)
                await self._act(db, said, carries)

    async def end(self) -> None:
        """What could not be said before every segment was there."""
        if self._conflicts:
            async with self._engine.begin() as db:
                await db.execute(_CONFLICT, self._conflicts)

    async def _act(self, db: AsyncConnection, said: dict[str, Any], carries: dict[str, Any]) -> None:
        act, at = UUID(said["act"]), datetime.fromisoformat(said["at"])
        match said["kind"]:
            case "segments":
                await self._segments(db, carries.get("receipts", ()), act)
            case "series":
                await self._segments(db, carries.get("receipts", ()), None)
            case "conflict":
                self._conflicts.append(
                    {
                        "act": act,
                        "recording": UUID(said["recording"]),
                        "sequence": said["sequence"],
                        "digests": said["new"],
                    }
                )
            case "key" | "retirement":
                await key_history.retell(db, said, act, at)
            case "revocation":
                await key_history.retell(db, said, act, at)
                if said["purpose"] != "recorder":
                    self._trusted.pop(said["key_id"], None)
            case "enrolment":
                key = {"public_key": base64.b64decode(said["public_key"]), "act": act, "enrolled_at": at}
                await _if_new(db, Enrolment, {"key_id": said["key_id"], "recorder": UUID(said["recorder"])} | key)
            case "custodian":
                await _custodian(db, said, carries, act, at)
            case "term":
                await _term(db, said, act, at)
            case "hold":
                await _hold(db, said, carries, act, at)
            case "release":
                order = await _order(db, said, carries["order"])
                values = {"state": "released", "released_at": at, "order_id": order}
                await db.execute(update(Hold).where(col(Hold.id) == UUID(said["hold"])).values(**values))
            case "disposal":
                recording = UUID(said["recording"])
                begun = {"order_id": await _order(db, said, carries["order"]), "act": act, "began_at": at}
                await _if_new(db, Tombstone, {"recording_id": recording} | begun)
                here = (col(Recording.id) == recording) & (col(Recording.state) != "disposed")
                await db.execute(update(Recording).where(here).values(state="disposing", renew_at=None))

    async def _segments(self, db: AsyncConnection, receipts: Sequence[dict[str, Any]], act: UUID | None) -> None:
        rows = []
        for receipt in receipts:
            try:
                told = verify_envelope(receipt, self._trusted, wire.RECEIPT_TYPE)
            except VerificationError as error:
                raise HistoryLost(f"一条片段凭证不是本证据库签署的，或已被改动：{error}") from error
            rows.append(segment_row(told, receipt) | {"statement_act": act})
        if rows:
            await put_segments(db, rows)


def segment_row(told: dict[str, Any], receipt: dict[str, Any]) -> dict[str, Any]:
    """The row of a sealed segment, from its receipt."""
    store = told["store"]
    sealed_at = datetime.fromisoformat(told["sealed_at"])
    return {
        "recording_id": UUID(told["recording"]),
        **{name: told[name] for name in ("sequence", "sha256", "size", "media", "duration_ms", "monotonic_ms")},
        "metadata_sha256": told.get("metadata_sha256"),
        "started_at": datetime.fromisoformat(told["started_at"]),
        "asked_at": datetime.fromisoformat(told["asked_at"]),
        "sealed_at": sealed_at,
        "key": store["key"],
        "version": store["version"],
        "retain_until": datetime.fromisoformat(store["retain_until"]) if store["retain_until"] else sealed_at,
        "receipt": receipt,
        "state": "sealed",
        "sweep_at": None,
    }


async def put_segments(db: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    fresh = insert(Segment)
    names = ["recording_id", "sequence", "sha256"]
    # A date that the store was asked for since, and a disposal, are what the rows know better.
    kept = {"retain_until", "state", *names}
    changed = {name: fresh.excluded[name] for name in rows[0] if name not in kept}
    disposed = text("CASE WHEN segments.state = 'disposed' THEN 'disposed' ELSE 'sealed' END")
    await db.execute(fresh.on_conflict_do_update(index_elements=names, set_=changed | {"state": disposed}), rows)


async def _open(db: AsyncConnection, opening: dict[str, Any]) -> None:
    row = {"id": UUID(opening["id"]), "kind": opening["kind"], "source": UUID(opening["source"])}
    row |= {"key_id": opening["key_id"], "state": "open"} | wire.media_of(opening)
    row |= {name: datetime.fromisoformat(opening[name]) for name in ("started_at", "opened_at")}
    await _if_new(db, Recording, row | {"active_at": row["opened_at"]})


async def _custodian(
    db: AsyncConnection, said: dict[str, Any], carries: dict[str, Any], act: UUID, at: datetime
) -> None:
    if said["order"]:
        await _order(db, said, carries["order"])
    if not said["enrolled"]:
        here = col(Custodian.key_id) == said["key_id"]
        await db.execute(update(Custodian).where(here).values(removed_at=at, removed_act=act))
        return
    row = {"key_id": said["key_id"], "name": carries["name"], "public_key": base64.b64decode(said["public_key"])}
    await _if_new(db, Custodian, row | {"act": act, "enrolled_at": at})


async def _term(db: AsyncConnection, said: dict[str, Any], act: UUID, at: datetime) -> None:
    recording, until = UUID(said["recording"]), said["keep_until"]
    keep_until = datetime.fromisoformat(until) if until else None
    row = {"recording_id": recording, "keep_until": keep_until, "basis": said["basis"]}
    await _if_new(db, Term, row | {"schedule": said["schedule"], "at": at, "act": act}, by=["act"])
    values = {"keep_until": keep_until, "permanent": keep_until is None}
    await db.execute(update(Recording).where(col(Recording.id) == recording).values(**values))


async def _hold(db: AsyncConnection, said: dict[str, Any], carries: dict[str, Any], act: UUID, at: datetime) -> None:
    hold = UUID(said["hold"])
    row = {"id": hold, "case_id": UUID(said["case"]), "reason": carries["reason"], "state": "active"}
    await _if_new(db, Hold, row | {"placed_at": at})
    held = [{"recording_id": UUID(each), "hold_id": hold, "act": act} for each in said["recordings"]]
    await db.execute(insert(HeldRecording).on_conflict_do_nothing(), held)


async def _order(db: AsyncConnection, said: dict[str, Any], told: dict[str, Any]) -> UUID:
    """The order that a statement names. Raises HistoryLost where what is carried is not what custodians signed."""
    envelope = wire.Envelope.model_validate(told["envelope"])
    order = envelope.decoded()
    # Statements from before orders were named by digest have none.
    digest = said.get("order_sha256", custody.order_sha256(envelope))
    if (order["id"], custody.order_sha256(envelope)) != (said["order"], digest):
        raise HistoryLost(f"随日志密封的指令 {said['order']} 不是日志所记载的那一份。")
    row = {"id": UUID(order["id"]), "act": order["act"], "envelope": envelope.model_dump()}
    row |= {"custodians": told["custodians"], "at": datetime.fromisoformat(told["at"])}
    await _if_new(db, Order, row)
    return UUID(order["id"])


async def _if_new(db: AsyncConnection, table: Any, row: dict[str, Any], *, by: list[str] | None = None) -> None:
    await db.execute(insert(table).values(row).on_conflict_do_nothing(index_elements=by))
