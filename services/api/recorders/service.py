"""Enrolment: a one-time code, and a key that is made on the terminal and never leaves it.

1. An administrator registers the recorder and hands over a code (24 hours, once).
2. The terminal makes its key, and sends the code with the public key, signed by that key.
3. The code is bound to that key; a repeat with the same key is the same enrolment.
4. The vault enters the key in its log. Only then may the key sign, and the terminal is told whom to trust.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api.database import Sessions
from services.api.errors import CodeInvalid, KeyRevoked, NoSuchRecorder, ProofInvalid
from services.api.identity.models import Person
from services.api.identity.principal import Principal
from services.api.recorders.models import EnrolmentCode, Heartbeat, Recorder, RecorderKey
from services.api.recorders.newest import newest_of
from services.api.recorders.schemas import Enrolled, Enrolment, HeartbeatView, KeyView
from services.vault.contract import wire
from services.vault.contract.client import VaultClient
from services.vault.contract.verify import key_id

MAX_LIMIT = 200
CODE_LIFETIME = timedelta(hours=24)
PROOF_PREFIX = b"quancheng-enrolment-v1\n"


async def register(db: AsyncSession, unit: UUID, name: str, officer: UUID | None, kind: str = "recorder") -> Recorder:
    """Raises NoSuchRecorder where the officer is not of the unit."""
    if officer is not None and await db.scalar(select(col(Person.unit_id)).where(col(Person.id) == officer)) != unit:
        raise NoSuchRecorder("the officer is not of this unit")
    recorder = Recorder(
        id=uuid7(), unit_id=unit, officer_id=officer, name=name, kind=kind, created_at=datetime.now(UTC)
    )
    db.add(recorder)
    await db.flush()
    return recorder


async def recorders(
    db: AsyncSession, who: Principal, *, before: UUID | None = None, limit: int = 50
) -> list[Recorder]:
    """The unit's sources, the newest first; those older than `before`. At most 200."""
    query = select(Recorder).where(col(Recorder.unit_id) == who.unit_id)
    if before is not None:
        query = query.where(col(Recorder.id) < before)
    return list(await db.scalars(query.order_by(col(Recorder.id).desc()).limit(min(limit, MAX_LIMIT))))


async def recorder(db: AsyncSession, who: Principal, recorder: UUID) -> Recorder:
    """Raises NoSuchRecorder."""
    found = await db.scalar(
        select(Recorder).where(col(Recorder.unit_id) == who.unit_id, col(Recorder.id) == recorder)
    )
    if found is None:
        raise NoSuchRecorder
    return found


async def officers(db: AsyncSession, who: Principal) -> list[Person]:
    """Those of the unit to whom a source may be given."""
    query = select(Person).where(col(Person.unit_id) == who.unit_id, col(Person.role) == "officer")
    return list(await db.scalars(query.order_by(col(Person.name)).limit(MAX_LIMIT)))


async def keys_of(db: AsyncSession, recorders: Sequence[UUID]) -> dict[UUID, list[KeyView]]:
    """The newest keys of each of these recorders."""
    found = await newest_of(db, RecorderKey, col(RecorderKey.enrolled_at), recorders)
    return {of: [KeyView.model_validate(row, from_attributes=True) for row in rows] for of, rows in found.items()}


async def heartbeats_of(db: AsyncSession, recorders: Sequence[UUID]) -> dict[UUID, HeartbeatView]:
    """The newest of each of these recorders, by whichever of its terminals."""
    query = select(Heartbeat).distinct(col(Heartbeat.recorder_id)).where(col(Heartbeat.recorder_id).in_(recorders))
    found = await db.scalars(query.order_by(col(Heartbeat.recorder_id), col(Heartbeat.received_at).desc()))
    return {row.recorder_id: HeartbeatView.model_validate(row, from_attributes=True) for row in found}


async def issue_code(db: AsyncSession, unit: UUID, recorder: UUID) -> tuple[str, datetime]:
    """A fresh one-time code of 100 bits. Raises NoSuchRecorder."""
    if await db.scalar(select(col(Recorder.unit_id)).where(col(Recorder.id) == recorder)) != unit:
        raise NoSuchRecorder
    code = base64.b32encode(secrets.token_bytes(15)).decode()[:20]
    expires_at = datetime.now(UTC) + CODE_LIFETIME
    db.add(EnrolmentCode(code_sha256=_digest(code), recorder_id=recorder, expires_at=expires_at))
    await db.flush()
    return code, expires_at


async def enrol(sessions: Sessions, vault: VaultClient, message: Enrolment) -> Enrolled:
    """Steps 2 to 4. Raises ProofInvalid, CodeInvalid, VaultUnreachable; each may be tried again. Raises KeyRevoked,
    which uses up no code: a new key is needed."""
    public = base64.b64decode(message.public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            base64.b64decode(message.proof), PROOF_PREFIX + message.code.encode()
        )
    except InvalidSignature as error:
        raise ProofInvalid from error
    identity, now = key_id(public), datetime.now(UTC)
    async with sessions.begin() as db:
        bind = update(EnrolmentCode).where(col(EnrolmentCode.code_sha256) == _digest(message.code))
        bind = bind.where(col(EnrolmentCode.expires_at) > now)
        bind = bind.where(col(EnrolmentCode.used_by).is_(None) | (col(EnrolmentCode.used_by) == identity))
        recorder_id = await db.scalar(bind.values(used_by=identity).returning(col(EnrolmentCode.recorder_id)))
        if recorder_id is None:
            raise CodeInvalid
        values = {
            "key_id": identity,
            "recorder_id": recorder_id,
            "public_key": public,
            "model": message.model,
            "enrolled_at": now,
        }
        await db.execute(insert(RecorderKey).values(values).on_conflict_do_nothing())
        bound = await db.get_one(RecorderKey, identity)
        if bound.recorder_id != recorder_id:
            raise CodeInvalid
        if bound.revoked_at is not None:
            raise KeyRevoked
        recorder = await db.get_one(Recorder, recorder_id)
    appended = await vault.enrol(wire.Enrol(recorder=recorder_id, public_key=message.public_key))
    trusted = await vault.identity()
    async with sessions.begin() as db:
        told = update(RecorderKey).where(col(RecorderKey.key_id) == identity).values(log_index=appended.index)
        await db.execute(told)
    return Enrolled(recorder=recorder_id, name=recorder.name, key_id=identity, vault=trusted)


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()
