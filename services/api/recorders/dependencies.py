"""The recorder that signed a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Depends, Request
from sqlalchemy import select
from sqlmodel import col
from starlette.requests import ClientDisconnect

from services.api.database import Maker
from services.api.errors import KeyRevoked, NotATerminal
from services.api.recorders.models import Recorder, RecorderKey
from services.vault.contract.channel import CHANNEL_TERMINAL, ChannelError, claimed_key, verify


@dataclass(frozen=True)
class Terminal:
    recorder_id: UUID
    unit_id: UUID
    officer_id: UUID | None
    key_id: str


async def terminal(request: Request, sessions: Maker) -> Terminal:
    """Raises NotATerminal: unsigned, unknown key, key the log does not know yet, wrong or old signature; and
    KeyRevoked, which only who signed rightly is told."""
    claimed = claimed_key(request.headers)
    if claimed is None:
        raise NotATerminal
    query = select(Recorder, col(RecorderKey.public_key), col(RecorderKey.revoked_at)).join(
        RecorderKey, col(RecorderKey.recorder_id) == col(Recorder.id)
    )
    query = query.where(col(RecorderKey.key_id) == claimed, col(RecorderKey.log_index).is_not(None))
    async with sessions() as db:
        row = (await db.execute(query)).one_or_none()
    if row is None:
        raise NotATerminal
    key = Ed25519PublicKey.from_public_bytes(row.public_key)
    try:
        verify(
            request.method,
            str(request.url),
            request.headers,
            await request.body(),
            lambda known: key if known == claimed else None,
            CHANNEL_TERMINAL,
        )
    except (ChannelError, ClientDisconnect) as error:
        raise NotATerminal from error
    if row.revoked_at is not None:
        raise KeyRevoked
    recorder = row.Recorder
    return Terminal(recorder.id, recorder.unit_id, recorder.officer_id, claimed)


SignedByTerminal = Annotated[Terminal, Depends(terminal)]
