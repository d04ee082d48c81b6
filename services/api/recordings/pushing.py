"""Recordings that are pushed: which one goes on, who gives out its sequences, when the server closes it.

A source has one open recording (of each rendition). What comes anew within `idle` of the last goes on in it; whoever
began last is the one whose segments are taken.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api.database import Sessions
from services.api.errors import AddressInvalid, ImportMixed, PushSuperseded
from services.api.recorders import addresses
from services.api.recorders.addresses import Pusher
from services.api.recordings import manifests
from services.api.recordings.models import Gap, PushedName, Recording, Segment
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable

_log = logging.getLogger("quancheng.push")
CLOSE_SECONDS = 2.0
_CLOSED_AT_ONCE = 100
_RECONNECTED, _GOING_ON = timedelta(seconds=1), timedelta(seconds=5)
"""The shortest pause that is a gap: where a source began anew, and where segments just came late."""


@dataclass(frozen=True)
class Taken:
    """A sequence, and whether somebody watches."""

    sequence: int
    watched: bool


@dataclass(frozen=True)
class Named:
    """What a name stands for in a recording's present epoch. `taken`: other bytes came under it before."""

    sequence: int
    started_at: datetime
    begins_anew: bool
    taken: bool = False


async def open_of(db: AsyncSession, pusher: Pusher, rendition: str) -> Recording | None:
    """Raises ImportMixed where what is open is of another import, or of none."""
    query = select(Recording).where(col(Recording.address_id) == pusher.address_id)
    query = query.where(col(Recording.rendition) == rendition, col(Recording.state) == "open")
    found = await db.scalar(query)
    if found is not None and found.handover_id != pusher.handover_id:
        raise ImportMixed
    return found


async def last_of(db: AsyncSession, pusher: Pusher, rendition: str) -> Recording | None:
    query = select(Recording).where(col(Recording.address_id) == pusher.address_id)
    query = query.where(col(Recording.rendition) == rendition, col(Recording.init_sha256).is_not(None))
    return await db.scalar(query.order_by(col(Recording.id).desc()).limit(1))


async def begin(
    sessions: Sessions,
    pusher: Pusher,
    rendition: str,
    *,
    init_sha256: str | None,
    started_at: datetime,
    until: datetime,
) -> Recording:
    """A new recording, or the one that another connection has just begun."""
    values = {
        "id": uuid7(),
        "recorder_id": pusher.recorder_id,
        "unit_id": pusher.unit_id,
        "officer_id": pusher.officer_id,
        "state": "open",
        "door": "push",
        "container": "fmp4" if init_sha256 else "ts",
        "format": "mp4" if init_sha256 else "ts",
        "started_at": started_at,
        "remuxed_by": pusher.remuxed_by,
        "handover_id": pusher.handover_id,
        "address_id": pusher.address_id,
        "rendition": rendition,
        "init_sha256": init_sha256,
        "next_sequence": 1 if init_sha256 else 0,
        "push_until": until,
    }
    async with sessions.begin() as db:
        await db.execute(insert(Recording).values(values).on_conflict_do_nothing())
        kept = await open_of(db, pusher, rendition)
    if kept is None:
        raise PushSuperseded
    return kept


async def introduce(vault: VaultClient, recording: Recording) -> None:
    """Tell the vault of it, which may be repeated: whoever began it may have died before."""
    opening = wire.OpenRecording(
        source=recording.recorder_id,
        key_id=None,
        started_at=recording.started_at,
        format=cast(wire.Format, recording.format),
        remuxed_by=recording.remuxed_by,
    )
    await vault.open(recording.id, opening)


async def begin_epoch(sessions: Sessions, recording: UUID, until: datetime) -> int:
    """From now on only who holds the answer may give segments to it. Raises PushSuperseded where it is closed."""
    going_on = update(Recording).where(col(Recording.id) == recording, col(Recording.state) == "open")
    going_on = going_on.values(push_epoch=col(Recording.push_epoch) + 1, push_until=until)
    async with sessions.begin() as db:
        epoch: int | None = await db.scalar(going_on.returning(col(Recording.push_epoch)))
    if epoch is None:
        raise PushSuperseded
    return epoch


async def next_sequence(
    sessions: Sessions, pusher: Pusher, recording: UUID, until: datetime, *, epoch: int | None = None
) -> Taken | None:
    """None where the recording is closed. Raises PushSuperseded for an epoch that is over, AddressInvalid."""
    async with sessions.begin() as db:
        return await _next_sequence(db, pusher, recording, until, epoch)


async def _next_sequence(
    db: AsyncSession, pusher: Pusher, recording: UUID, until: datetime, epoch: int | None
) -> Taken | None:
    this = (col(Recording.id) == recording) & (col(Recording.state) == "open")
    taking = update(Recording).where(this, addresses.valid(pusher.address_id))
    if epoch is not None:
        taking = taking.where(col(Recording.push_epoch) == epoch)
    taking = taking.values(next_sequence=col(Recording.next_sequence) + 1, push_until=until)
    told = taking.returning(col(Recording.next_sequence), col(Recording.watched_until))
    taken = (await db.execute(told)).one_or_none()
    if taken is not None:
        watched = taken.watched_until is not None and taken.watched_until > datetime.now(UTC)
        return Taken(taken.next_sequence - 1, watched)
    if await db.scalar(select(addresses.valid(pusher.address_id))) is not True:
        raise AddressInvalid
    if await db.scalar(select(col(Recording.id)).where(this)) is None:
        return None
    raise PushSuperseded


async def named(
    sessions: Sessions, pusher: Pusher, recording: UUID, until: datetime, name: str, sha256: str, started_at: datetime
) -> Named | None:
    """The place of what came under a name, the same again for the same; None where the recording is closed. An
    encoder that begins anew begins its names anew: a name that is not its last one, with other bytes, opens an
    epoch. Raises AddressInvalid."""
    key = hashlib.sha256(name.encode()).digest()
    async with sessions.begin() as db:
        query = select(Recording).where(col(Recording.id) == recording, col(Recording.state) == "open")
        kept = await db.scalar(query.with_for_update())
        if kept is None:
            return None
        epoch = kept.push_epoch
        known = await db.get(PushedName, (recording, epoch, key))
        if known is not None and known.sha256 == sha256:
            return Named(known.sequence, known.started_at, known.begins_anew)
        if known is not None and known.sequence == kept.next_sequence - 1:
            return Named(known.sequence, known.started_at, known.begins_anew, taken=True)
        if known is not None:
            epoch += 1
            await db.execute(update(Recording).where(col(Recording.id) == recording).values(push_epoch=epoch))
        of_epoch = (col(PushedName.recording_id) == recording) & (col(PushedName.epoch) == epoch)
        first = await db.scalar(select(col(PushedName.sequence)).where(of_epoch).limit(1)) is None
        taken = await _next_sequence(db, pusher, recording, until, None)
        if taken is None:
            return None
        follows = await _note_pause(db, recording, taken.sequence, started_at, _RECONNECTED if first else _GOING_ON)
        this: dict[str, Any] = {"recording_id": recording, "epoch": epoch, "name_sha256": key}
        row = PushedName(
            **this, sequence=taken.sequence, sha256=sha256, started_at=started_at, begins_anew=first and follows
        )
        db.add(row)
        return Named(row.sequence, row.started_at, row.begins_anew)


async def note_pause(sessions: Sessions, recording: UUID, before: int, at: datetime) -> bool:
    """Whether segment `before`, with which the source began anew, follows upon others; the gap between is put on
    record."""
    async with sessions.begin() as db:
        return await _note_pause(db, recording, before, at, _RECONNECTED)


async def _note_pause(db: AsyncSession, recording: UUID, before: int, at: datetime, longer_than: timedelta) -> bool:
    query = select(Segment).where(col(Segment.recording_id) == recording, col(Segment.media) == "media")
    query = query.where(col(Segment.sequence) < before).order_by(col(Segment.sequence).desc()).limit(1)
    last = await db.scalar(query)
    if last is None:
        return False
    end = last.started_at + timedelta(milliseconds=last.duration_ms)
    if at - end > longer_than:
        db.add(_gap(recording, "disconnected", before, end, at))
    return True


async def note_lost(sessions: Sessions, recording: UUID, sequence: int, from_at: datetime, to_at: datetime) -> None:
    """What came and could not be sealed."""
    async with sessions.begin() as db:
        db.add(_gap(recording, "not-sealed", sequence, from_at, to_at))


def _gap(recording: UUID, kind: str, before: int, from_at: datetime, to_at: datetime) -> Gap:
    times: dict[str, Any] = {"from_at": from_at, "to_at": to_at, "noted_at": datetime.now(UTC)}
    return Gap(id=uuid7(), recording_id=recording, kind=kind, before_sequence=before, **times)


async def done_soon(sessions: Sessions, pusher: Pusher, until: datetime) -> None:
    """The source said that it is done: close what is open of it at `until`, unless something comes."""
    ending = update(Recording).where(col(Recording.address_id) == pusher.address_id, col(Recording.state) == "open")
    async with sessions.begin() as db:
        await db.execute(ending.values(push_until=until))


async def close_idle(sessions: Sessions, vault: VaultClient) -> None:
    """Recordings to which nothing came any more are closed by the server, which says so."""
    due = select(col(Recording.id)).where(
        col(Recording.state) == "open", col(Recording.push_until) < datetime.now(UTC)
    )
    async with sessions() as db:
        idle = list(await db.scalars(due.order_by(col(Recording.push_until)).limit(_CLOSED_AT_ONCE)))
    for recording in idle:
        try:
            await close(sessions, vault, recording, "idle")
        except VaultUnreachable as error:
            _log.warning("idle recordings wait: %s", error)
            return


async def close(sessions: Sessions, vault: VaultClient, recording: UUID, reason: wire.ServerReason) -> None:
    """Nothing is left open where nothing was ever sealed. Raises VaultUnreachable."""
    try:
        await manifests.close_by_server(sessions, vault, recording, reason)
    except VaultRefused as error:
        _log.info("%s stays open: %s", recording, error)
        later = update(Recording).where(col(Recording.id) == recording, col(Recording.state) == "open")
        async with sessions.begin() as db:
            await db.execute(later.values(push_until=datetime.now(UTC) + timedelta(hours=1)))
