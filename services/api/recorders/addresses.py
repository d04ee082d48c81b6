"""Push addresses: capability URLs for encoders and gateways that can neither sign nor hash.

An address belongs to one source, lapses, and can be revoked at any moment. It is shown once, when it is made; what is
kept is its digest, and no log and no metric ever has it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api.database import Sessions
from services.api.errors import AddressInvalid, NoSuchAddress, NoSuchRecorder, TooManyAddresses
from services.api.identity.principal import Principal
from services.api.recorders.models import PushAddress, Recorder
from services.api.recorders.newest import newest_of

MAX_VALID = 50
"""Addresses of one source that are valid at the same time."""
BRINGS_FILES = frozenset({"instrument", "phone", "dock"})
"""Kinds of sources that bring single files by their addresses."""


@dataclass(frozen=True)
class Pusher:
    """Who pushes, by the address it came to."""

    address_id: UUID
    recorder_id: UUID
    unit_id: UUID
    officer_id: UUID | None
    kind: str
    remuxed_by: str | None
    handover_id: UUID | None = None
    """Of what it brings this time, where that is an import."""


async def make(
    db: AsyncSession, who: Principal, recorder: UUID, *, days: int, remuxed_by: str | None
) -> tuple[str, PushAddress]:
    """The token, told this once, and what is kept. Raises NoSuchRecorder, TooManyAddresses."""
    await _require_own(db, who, recorder)
    now = datetime.now(UTC)
    valid = select(func.count()).select_from(PushAddress).where(col(PushAddress.recorder_id) == recorder)
    valid = valid.where(col(PushAddress.revoked_at).is_(None), col(PushAddress.expires_at) > now)
    if (await db.scalar(valid) or 0) >= MAX_VALID:
        raise TooManyAddresses
    token = secrets.token_urlsafe(32)
    address = PushAddress(
        id=uuid7(),
        recorder_id=recorder,
        token_sha256=_digest(token),
        remuxed_by=remuxed_by,
        made_by=who.person_id,
        made_at=now,
        expires_at=now + timedelta(days=days),
    )
    db.add(address)
    await db.flush()
    return token, address


def files_url(api: str, kind: str, token: str) -> str | None:
    """Where single files are brought, for a source that brings such."""
    return f"{api}/files-by/{token}" if kind in BRINGS_FILES else None


async def revoke(db: AsyncSession, who: Principal, recorder: UUID, address: UUID) -> PushAddress:
    """Nothing more comes in by it from the next segment on. The same again changes nothing. Raises NoSuchAddress."""
    await _require_own(db, who, recorder)
    these = (col(PushAddress.id) == address) & (col(PushAddress.recorder_id) == recorder)
    revoking = update(PushAddress).where(these, col(PushAddress.revoked_at).is_(None))
    await db.execute(revoking.values(revoked_by=who.person_id, revoked_at=datetime.now(UTC)))
    kept = await db.scalar(select(PushAddress).where(these))
    if kept is None:
        raise NoSuchAddress
    await db.refresh(kept)
    return kept


async def newest(db: AsyncSession, recorders: Sequence[UUID]) -> dict[UUID, list[PushAddress]]:
    """The newest addresses of each of these sources."""
    return await newest_of(db, PushAddress, col(PushAddress.made_at), recorders)


async def pusher(sessions: Sessions, token: str) -> Pusher:
    """Raises AddressInvalid, alike for what never was, what lapsed and what was revoked."""
    query = select(PushAddress, Recorder).join(Recorder, col(Recorder.id) == col(PushAddress.recorder_id))
    query = query.where(col(PushAddress.token_sha256) == _digest(token), _valid())
    async with sessions() as db:
        found = (await db.execute(query)).one_or_none()
    if found is None:
        raise AddressInvalid
    return _pusher(found.PushAddress, found.Recorder)


async def source_of(sessions: Sessions, address: UUID) -> Pusher:
    """Whose address it is, whether or not anything may still come in by it."""
    query = select(PushAddress, Recorder).join(Recorder, col(Recorder.id) == col(PushAddress.recorder_id))
    async with sessions() as db:
        found = (await db.execute(query.where(col(PushAddress.id) == address))).one()
    return _pusher(found.PushAddress, found.Recorder)


def _pusher(address: PushAddress, source: Recorder) -> Pusher:
    return Pusher(address.id, source.id, source.unit_id, source.officer_id, source.kind, address.remuxed_by)


def valid(address: UUID) -> ColumnElement[bool]:
    """Whether something may still come in by this address, for another room's statement."""
    return select(col(PushAddress.id)).where(col(PushAddress.id) == address, _valid()).exists()


def _valid() -> ColumnElement[bool]:
    return col(PushAddress.revoked_at).is_(None) & (col(PushAddress.expires_at) > datetime.now(UTC))


async def _require_own(db: AsyncSession, who: Principal, recorder: UUID) -> None:
    if await db.scalar(select(col(Recorder.unit_id)).where(col(Recorder.id) == recorder)) != who.unit_id:
        raise NoSuchRecorder


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
