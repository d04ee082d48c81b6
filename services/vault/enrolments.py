"""The keys of recorders: known to the log before they sign, and revoked in it.

A key that was revoked opens nothing, and its asks and closings are refused. What it sealed stays valid; segments that
it had asked for before may still be put and are sealed, as what any absent holder left behind; and what it left open
the server closes at once. A closing that is under way comes before the revocation in the log or is refused.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.contract import wire
from services.vault.contract.verify import key_id
from services.vault.log import statement
from services.vault.log.sequencer import Sequencer, enter
from services.vault.models import Enrolment, KeyRecord

_ENROLMENTS = UUID("8f9d2b1c-5a3e-5c1f-9a70-5d6a3c0b7e11")
_REVOCATIONS = UUID("2b7e9a40-93c5-5d0e-8b1a-6f2f4f1f0c35")


class Enrolments:
    def __init__(self, engine: AsyncEngine, sequencer: Sequencer):
        self._engine, self._sequencer = engine, sequencer

    async def enrol(self, message: wire.Enrol) -> wire.Appended:
        """A recorder's key enters the log; only then may it sign. The same again answers the same index. Raises
        EnrolmentDiffers, KeyRevoked, and KeyOfVault for one of the vault's own."""
        public = base64.b64decode(message.public_key, validate=True)
        identity, now = key_id(public), datetime.now(UTC)
        act = uuid5(_ENROLMENTS, identity)
        values = {"key_id": identity, "recorder": message.recorder, "public_key": public, "act": act}
        async with self._engine.begin() as db:
            if await db.scalar(select(col(KeyRecord.key_id)).where(col(KeyRecord.key_id) == identity)):
                raise errors.KeyOfVault
            fresh = insert(Enrolment).values(**values, enrolled_at=now).on_conflict_do_nothing()
            if (await db.execute(fresh.returning(col(Enrolment.key_id)))).one_or_none():
                fields = {
                    "recorder": str(message.recorder),
                    "key_id": identity,
                    "public_key": message.public_key,
                }
                await enter(db, act, statement.build("enrolment", act, now, fields))
            else:
                row = await _row(db, identity)
                if message.recorder != row.recorder:
                    raise errors.EnrolmentDiffers
                if row.revoked_at is not None:
                    raise errors.KeyRevoked
        return await self._sequencer.settled(act)

    async def revoke(self, identity: str, message: wire.RevokeEnrolment) -> wire.Appended:
        """Raises NoSuchEnrolment where this recorder never had this key."""
        act, now = uuid5(_REVOCATIONS, identity), datetime.now(UTC)
        async with self._engine.begin() as db:
            row = await _row(db, identity)
            if row is None or row.recorder != message.recorder:
                raise errors.NoSuchEnrolment
            this = (col(Enrolment.key_id) == identity) & col(Enrolment.revoked_at).is_(None)
            ended = update(Enrolment).where(this).values(revoked_at=now, revoked_act=act)
            if (await db.execute(ended)).rowcount:
                fields = {"purpose": "recorder", "key_id": identity, "recorder": str(message.recorder)}
                fields |= {"code": message.code, "reason": message.reason}
                await enter(db, act, statement.build("revocation", act, now, fields))
        return await self._sequencer.settled(act)


async def require_unrevoked(db: AsyncConnection, identity: str | None) -> None:
    """To the end of this transaction the key is not revoked either. Raises KeyRevoked."""
    if identity is not None:
        query = select(col(Enrolment.revoked_at)).where(col(Enrolment.key_id) == identity)
        if await db.scalar(query.with_for_update(read=True)) is not None:
            raise errors.KeyRevoked


async def _row(db: AsyncConnection, identity: str) -> Any:
    return (await db.execute(select(Enrolment).where(col(Enrolment.key_id) == identity))).one_or_none()
