"""What the vault is told again once its database was made anew from its store (`docs/recovery.md`).

What its log had signed and not published is lost then, from an index on that it tells. The api has what it appended
from there on, so those acts take effect again when they have another index; until then they have none.
"""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import BigInteger, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, col

from services.api import jobs, outbox
from services.api.database import Sessions, Table, Time
from services.api.outbox import Outgoing
from services.api.recorders.models import RecorderKey
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultUnreachable

_log = logging.getLogger("quancheng.rebuilds")
LOOK_SECONDS = 15.0
ENROL = "enrol-again"
"""A terminal is not known until the log knows its key again."""


class VaultRebuild(Table, table=True):
    """A rebuild of the vault's database that was answered to."""

    __tablename__ = "vault_rebuilds"
    at: datetime = Field(primary_key=True, sa_type=Time)
    size: int = Field(sa_type=BigInteger)


async def look(sessions: Sessions, vault: VaultClient) -> None:
    """Enter what is to be told again, once for each rebuild: acts, enrolments, revocations."""
    try:
        state = await vault.log_state()
    except VaultUnreachable:
        return
    for told in reversed(state.rebuilds):
        await _answer(sessions, told)


async def _answer(sessions: Sessions, told: wire.RebuildTold) -> None:
    async with sessions.begin() as db:
        fresh = insert(VaultRebuild).values(at=told.at, size=told.size).on_conflict_do_nothing()
        if await db.scalar(fresh.returning(col(VaultRebuild.at))) is None:
            return
        lost = update(Outgoing).where(col(Outgoing.log_index) >= told.size).values(log_index=None)
        acts = (await db.scalars(lost.returning(col(Outgoing.act)))).all()
        for act in acts:
            await jobs.enter(db, outbox.TELL, str(act))
        enrolled = update(RecorderKey).where(col(RecorderKey.log_index) >= told.size).values(log_index=None)
        keys = (await db.scalars(enrolled.returning(col(RecorderKey.key_id)))).all()
        for key in keys:
            await jobs.enter(db, ENROL, key)
        # Told again by whoever tells revocations that nobody was told of.
        revoked = update(RecorderKey).where(col(RecorderKey.revocation_index) >= told.size)
        await db.execute(revoked.values(revocation_index=None))
    _log.warning("the vault was rebuilt: %s acts and %s enrolments are told again", len(acts), len(keys))
