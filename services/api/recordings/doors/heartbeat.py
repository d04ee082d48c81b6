"""What a terminal says of itself beside the direct door, so that its silence is told from an empty street."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.database import Maker
from services.api.recorders.dependencies import SignedByTerminal
from services.api.recordings import hearing
from services.api.recordings.schemas import NewHeartbeat

router = APIRouter(prefix="/v1/recorders/self", tags=["direct door"])


@router.put("/heartbeat", status_code=204)
async def heartbeat(message: NewHeartbeat, terminal: SignedByTerminal, sessions: Maker) -> None:
    """The newest replaces the one before; recordings that are not open here yet may be named."""
    await hearing.hear(sessions, terminal, message)
