"""Acts that take effect only once they stand in the log (viewings, exports).

1. The act commits with its outbox row.
2. The vault is told, idempotently by the act's id, and answers with the index under a signed checkpoint.
3. The index is recorded: from then on, and not before, the act has effect.

What was left between 1 and 3 by a crash or an absent vault is told again by `retell`.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, col

from services.api.database import Sessions, Table, Time
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused

_log = logging.getLogger("quancheng.outbox")
_RETELL_SECONDS = 10.0


class Outgoing(Table, table=True):
    __tablename__ = "outbox"
    act: UUID = Field(primary_key=True)
    kind: str
    fields: dict[str, Any] = Field(sa_type=JSONB)
    at: datetime = Field(sa_type=Time)
    log_index: int | None = Field(default=None, sa_type=BigInteger)


def enter(
    db: AsyncSession, act: UUID, kind: Literal["viewing", "export"], fields: dict[str, Any], at: datetime
) -> None:
    db.add(Outgoing(act=act, kind=kind, fields=fields, at=at))


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


async def retell(sessions: Sessions, vault: VaultClient) -> None:
    """For as long as the api runs: tell what was left untold, oldest first."""
    while True:
        await asyncio.sleep(_RETELL_SECONDS)
        try:
            async with sessions() as db:
                query = select(col(Outgoing.act)).where(col(Outgoing.log_index).is_(None))
                acts = (await db.scalars(query.order_by(col(Outgoing.at)).limit(100))).all()
        except Exception:
            _log.exception("the outbox cannot be read and will be again")
            continue
        for act in acts:
            try:
                await tell(sessions, vault, act)
            except VaultRefused as error:
                _log.error("the vault refuses act %s: %s", act, error)
            except Exception as error:
                _log.warning("untold acts wait: %s", error)
                break
