"""The history of keys, as the log tells of it: current, superseded, retired, revoked."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.vault.contract import wire
from services.vault.models import Enrolment, KeyRecord


async def retell(db: AsyncConnection, said: dict[str, Any], act: UUID, at: datetime) -> None:
    """A statement of kind `key`, `retirement` or `revocation`. The same again changes nothing."""
    this = col(KeyRecord.key_id) == said["key_id"]
    match said["kind"], said["purpose"]:
        case "key", purpose:
            await _introduce(db, said, purpose, act, at)
        case "retirement", _:
            await db.execute(update(KeyRecord).where(this).values(retired_at=at, retired_act=act))
        case "revocation", "recorder":
            here = col(Enrolment.key_id) == said["key_id"]
            await db.execute(update(Enrolment).where(here).values(revoked_at=at, revoked_act=act))
        case "revocation", _:
            told: dict[str, Any] = {"superseded_at": func.coalesce(col(KeyRecord.superseded_at), at)}
            told |= {"retired_at": func.coalesce(col(KeyRecord.retired_at), at), "revoked_at": at, "revoked_act": act}
            told |= {"revoked_code": said["code"], "revoked_reason": said["reason"]}
            await db.execute(update(KeyRecord).where(this).values(told))


async def _introduce(db: AsyncConnection, said: dict[str, Any], purpose: str, act: UUID, at: datetime) -> None:
    row = {"key_id": said["key_id"], "purpose": purpose, "public_key": base64.b64decode(said["public_key"])}
    row |= {"act": act, "since": at}
    if replaces := said.get("replaces"):
        before = col(KeyRecord.key_id) == replaces
        succession = said.get("succession")
        ended: dict[str, Any] = {"superseded_at": func.coalesce(col(KeyRecord.superseded_at), at)}
        if purpose == "receipt":
            ended["retired_at"] = func.coalesce(col(KeyRecord.retired_at), at)
        await db.execute(update(KeyRecord).where(before).values(ended))
        reason = (
            wire.Envelope.model_validate(succession).decoded()["reason"]
            if succession
            else await db.scalar(select(col(KeyRecord.revoked_reason)).where(before))
        )
        row |= {"replaces": replaces, "succession": succession, "reason": reason or ""}
    await db.execute(insert(KeyRecord).values(row).on_conflict_do_nothing())
