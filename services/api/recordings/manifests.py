"""Closings and supplements: what a manifest of the vault says is brought into the api's own index.

A manifest is made where the terminal closes, where the server does so in its stead (`close_lost`), and where a
terminal that was away asks what became of its recording. Each way ends in `_record`, which may be repeated.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.database import Sessions
from services.api.recorders.dependencies import Terminal
from services.api.recorders.models import RecorderKey
from services.api.recordings import detecting, takeovers
from services.api.recordings.models import Recording, Segment
from services.api.recordings.service import index, require_own
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable

_log = logging.getLogger("quancheng.recordings")
_AT_ONCE, _LOST_AT_ONCE = 1000, 100
_TRY_AGAIN = timedelta(hours=1)


async def close_recording(
    sessions: Sessions, vault: VaultClient, terminal: Terminal, recording: UUID, request: wire.CloseRecording
) -> wire.ClosedRecording:
    """The terminal closes its recording, or a supplement to it."""
    await require_own(sessions, terminal, recording)
    await takeovers.require_whole(sessions, recording, request.closing)
    closed = await vault.close(recording, request)
    await _record(sessions, closed)
    return closed


async def manifest_of(
    sessions: Sessions, vault: VaultClient, terminal: Terminal, recording: UUID, number: int
) -> wire.ClosedRecording:
    """Raises NoSuchRecording, and VaultRefused (`no-such-manifest`) where it is not closed."""
    await require_own(sessions, terminal, recording)
    closed = await vault.manifest(recording, number)
    await _record(sessions, closed)
    return closed


async def close_lost(sessions: Sessions, vault: VaultClient, *, after: timedelta) -> None:
    """Recordings whose terminal has been silent for `after` are closed by the server, some of them at a time, and
    those whose key was revoked at once. The vault has the last word on how long that must be."""
    try:
        for recording in await _revoked(sessions, after):
            await _close_lost(sessions, vault, recording, "revoked")
        for recording in await lost(sessions, after):
            await _close_lost(sessions, vault, recording, "lost")
    except VaultUnreachable as error:
        _log.warning("lost recordings wait: %s", error)


async def lost(sessions: Sessions, after: timedelta) -> list[UUID]:
    """Those that were not tried within the hour, the longest untried first. Uploads expire by themselves, and
    what was taken over waits longer."""
    now = datetime.now(UTC)
    last = func.coalesce(col(Recording.last_segment_at), col(Recording.started_at))
    file = col(Recording.container) == "file"
    silent = case((file, last < now - max(after, takeovers.WAITS)), else_=last < now - after)
    untried = (col(Recording.tried_at).is_(None)) | (col(Recording.tried_at) < now - min(after, _TRY_AGAIN))
    query = select(col(Recording.id)).where(col(Recording.state) == "open", silent, untried)
    query = query.where(col(Recording.door) != "resumable")
    async with sessions() as db:
        return list(await db.scalars(query.order_by(col(Recording.tried_at).nulls_first()).limit(_LOST_AT_ONCE)))


async def _revoked(sessions: Sessions, after: timedelta) -> list[UUID]:
    """Open ones of keys that the vault knows are revoked, those not tried within the hour."""
    since = func.greatest(col(RecorderKey.revoked_at), datetime.now(UTC) - min(after, _TRY_AGAIN))
    untried = (col(Recording.tried_at).is_(None)) | (col(Recording.tried_at) < col(RecorderKey.revoked_at))
    untried |= col(Recording.tried_at) < since
    query = select(col(Recording.id)).join(RecorderKey, col(RecorderKey.key_id) == col(Recording.key_id))
    query = query.where(col(Recording.state) == "open", col(RecorderKey.revocation_index).is_not(None), untried)
    async with sessions() as db:
        return list(await db.scalars(query.limit(_LOST_AT_ONCE)))


async def close_by_server(
    sessions: Sessions,
    vault: VaultClient,
    recording: UUID,
    reason: wire.ServerReason,
    whole: wire.Whole | None = None,
) -> None:
    """Raises VaultRefused (`nothing-sealed`, `source-not-idle`, `whole-differs`), VaultUnreachable."""
    closing = wire.CloseByServer(reason=reason, whole=whole)
    await _record(sessions, await vault.close_by_server(recording, closing))


async def _close_lost(sessions: Sessions, vault: VaultClient, recording: UUID, reason: wire.ServerReason) -> None:
    try:
        await close_by_server(sessions, vault, recording, reason)
    except VaultRefused as error:
        _log.info("%s stays open: %s", recording, error)
        async with sessions.begin() as db:
            tried = update(Recording).where(col(Recording.id) == recording)
            await db.execute(tried.values(tried_at=datetime.now(UTC)))


async def _record(sessions: Sessions, closed: wire.ClosedRecording) -> None:
    manifest = closed.manifest.decoded()
    beside = [{**each, "sequence": each["of_sequence"]} for each in manifest["beside"]]
    key_id = closed.manifest.signatures[0].keyid
    async with sessions.begin() as db:
        kept = select(Recording).where(col(Recording.id) == closed.recording)
        recording = (await db.scalars(kept.with_for_update())).one()
        # The sweeper, or a terminal whose answers were lost, may have brought what the api has not seen.
        unseen = await _unseen(db, closed.recording, manifest["segments"] + beside)
        for start in range(0, len(unseen), _AT_ONCE):
            rows = [_row(each, closed, key_id) for each in unseen[start : start + _AT_ONCE]]
            await index(db, closed.recording, rows)
        for start in range(0, len(beside), _AT_ONCE):
            names = [(each["sequence"], each["sha256"]) for each in beside[start : start + _AT_ONCE]]
            some = tuple_(col(Segment.sequence), col(Segment.sha256)).in_(names)
            these = update(Segment).where(col(Segment.recording_id) == closed.recording, some)
            await db.execute(these.values(beside=True))
        values: dict[str, Any] = {"supplements": max(recording.supplements, closed.number)}
        if closed.number == 0 and recording.state == "open":
            values |= {
                "state": "closed",
                "closed_by": closed.closed_by,
                "close_reason": manifest.get("reason"),
                "ended_at": closed.ended_at,
                "lock": closed.lock,
                "manifest_sha256": closed.manifest_sha256,
                "manifest_act": closed.log_act,
            }
        if "state" in values or closed.number > recording.supplements:
            await detecting.enter(db, closed.recording, closed.number)
        await db.execute(update(Recording).where(col(Recording.id) == closed.recording).values(values))


async def _unseen(db: AsyncSession, recording: UUID, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    query = select(col(Segment.sequence), col(Segment.sha256)).where(col(Segment.recording_id) == recording)
    seen = {(row.sequence, row.sha256) for row in await db.execute(query)}
    return [each for each in listed if (each["sequence"], each["sha256"]) not in seen]


def _row(listed: dict[str, Any], closed: wire.ClosedRecording, key_id: str) -> dict[str, Any]:
    same = {name: listed[name] for name in ("sequence", "sha256", "size", "media", "duration_ms")}
    times = {"started_at": "started_at", "received_at": "asked_at", "sealed_at": "sealed_at"}
    same |= {name: datetime.fromisoformat(listed[of]) for name, of in times.items()}
    return same | {"lock": closed.lock, "key_id": key_id}
