"""Revoking a recorder's key: lost, stolen, or out of use.

1. The key is marked: from here on its signed requests are refused at once.
2. The vault is told, idempotently by the key: its log tells of it, and it opens, asks and closes nothing by that key.
3. The log's index is recorded. What the key left open is then closed by the server (`recordings.manifests`).

What was left between 1 and 3 by a crash or an absent vault is told again by a worker (`tell_untold`). The recorder
may be enrolled again by a fresh code and a new key.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlmodel import col

from services.api.database import Sessions
from services.api.errors import NoSuchRecorder, NoSuchRecorderKey
from services.api.recorders.models import Recorder, RecorderKey
from services.api.recorders.schemas import KeyView, Revocation
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable

_log = logging.getLogger("quancheng.recorders")
TELL_SECONDS, _AT_ONCE = 10.0, 100


async def revoke(sessions: Sessions, vault: VaultClient, unit: UUID, recorder: UUID, message: Revocation) -> KeyView:
    """The same again changes nothing: the first code and reason stand. Raises NoSuchRecorder, NoSuchRecorderKey, and
    VaultUnreachable where the key is refused here already and the vault is told later."""
    async with sessions.begin() as db:
        if await db.scalar(select(col(Recorder.unit_id)).where(col(Recorder.id) == recorder)) != unit:
            raise NoSuchRecorder
        # 1. The mark.
        this = (col(RecorderKey.key_id) == message.key_id) & (col(RecorderKey.recorder_id) == recorder)
        mark = update(RecorderKey).where(this, col(RecorderKey.revoked_at).is_(None))
        values = {"revoked_at": datetime.now(UTC), "revoked_code": message.code, "revoked_reason": message.reason}
        await db.execute(mark.values(values))
        if await db.scalar(select(col(RecorderKey.key_id)).where(this)) is None:
            raise NoSuchRecorderKey
    await _tell(sessions, vault, message.key_id)
    async with sessions() as db:
        return KeyView.model_validate(await db.get_one(RecorderKey, message.key_id), from_attributes=True)


async def tell_untold(sessions: Sessions, vault: VaultClient) -> None:
    """Tell what was left untold, oldest first."""
    untold = select(col(RecorderKey.key_id)).where(col(RecorderKey.revoked_at).is_not(None))
    untold = untold.where(col(RecorderKey.revocation_index).is_(None))
    async with sessions() as db:
        keys = (await db.scalars(untold.order_by(col(RecorderKey.revoked_at)).limit(_AT_ONCE))).all()
    for key in keys:
        try:
            await _tell(sessions, vault, key)
        except VaultUnreachable as error:
            _log.warning("revocations wait: %s", error)
            return
        except VaultRefused as error:
            _log.error("the vault refuses a revocation: %s", error)


async def enrol_again(sessions: Sessions, vault: VaultClient, key: str) -> None:
    """Have the vault know a key whose enrolment it may not know, and record the log's index; nothing where it knows
    the key revoked already."""
    async with sessions() as db:
        row = await db.get_one(RecorderKey, key)
    if row.log_index is not None:
        return
    try:
        appended = await vault.enrol(wire.Enrol(recorder=row.recorder_id, public_key=row.public_text()))
    except VaultRefused as refused:
        if refused.problem.slug != "key-revoked":
            raise
        return
    async with sessions.begin() as db:
        this = update(RecorderKey).where(col(RecorderKey.key_id) == key)
        await db.execute(this.values(log_index=appended.index))


async def _tell(sessions: Sessions, vault: VaultClient, key: str) -> None:
    """Steps 2 and 3."""
    async with sessions() as db:
        row = await db.get_one(RecorderKey, key)
    if row.revocation_index is not None:
        return
    if row.log_index is None:
        # An enrolment that never got through: the vault must know the key before it can know it revoked.
        await enrol_again(sessions, vault, key)
    told = wire.RevokeEnrolment.model_validate(
        {"recorder": row.recorder_id, "code": row.revoked_code, "reason": row.revoked_reason}
    )
    appended = await vault.revoke_enrolment(key, told)
    async with sessions.begin() as db:
        this = update(RecorderKey).where(col(RecorderKey.key_id) == key)
        await db.execute(this.values(revocation_index=appended.index))
