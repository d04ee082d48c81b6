"""Acts that take effect only once they stand in the log (viewings, exports).

1. The act commits with its outbox row.
2. The vault is told, idempotently by the act's id, and answers with the index under a signed checkpoint.
3. The index is recorded: from then on, and not before, the act has effect.

What is left between 1 and 3 by a crash or an absent vault is told by a job that was entered with the row.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, col

from services.api import jobs
from services.api.database import Sessions, Table, Time
from services.jobs import Hopeless
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused

TELL = "tell-act"
_FIRST = timedelta(seconds=5)
"""Whoever enters an act tells it at once; its job looks whether that was done."""


class Outgoing(Table, table=True):
    __tablename__ = "outbox"
    act: UUID = Field(primary_key=True)
    kind: str
    fields: dict[str, Any] = Field(sa_type=JSONB)
    at: datetime = Field(sa_type=Time)
    log_index: int | None = Field(default=None, sa_type=BigInteger)


async def enter(
    db: AsyncSession, act: UUID, kind: Literal["viewing", "export"], fields: dict[str, Any], at: datetime
) -> None:
    db.add(Outgoing(act=act, kind=kind, fields=fields, at=at))
    await db.flush()
    await jobs.enter(db, TELL, str(act), after=_FIRST)


async def tell(sessions: Sessions, vault: VaultClient, act: UUID) -> int:
    """Steps 2 and 3; returns the index. Raises VaultUnreachable: the act has no effect yet."""
    async with sessions() as db:
        row = await db.get_one(Outgoing, act)
    if row.log_index is not None:
        return row.log_index
    append = wire.Append.model_validate({"act": act, "kind": row.kind, "fields": row.fields})
    appended = await vault.append(append)
    async with sessions.begin() as db:
        await db.execute(update(Outgoing).where(col(Outgoing.act) == act).values(log_index=appended.index))
    return appended.index


async def tell_later(sessions: Sessions, vault: VaultClient, subject: str) -> None:
    """The job. Raises Hopeless where the vault finds fault with the act itself."""
    try:
        await tell(sessions, vault, UUID(subject))
    except VaultRefused as error:
        if error.problem.status in (409, 422):
            raise Hopeless(error.problem.slug) from error
        raise
