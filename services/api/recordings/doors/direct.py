"""The direct door: who can hash puts to the store itself; only control messages pass here.

Answers to errors are problems; an exchange answers item by item.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request

from services.api.database import Maker
from services.api.errors import UploadTooLarge
from services.api.recorders.dependencies import SignedByTerminal
from services.api.recordings import manifests, service
from services.api.recordings.doors import limits
from services.api.recordings.schemas import NewRecording, RecordingView
from services.api.vault import Vault
from services.vault.contract import wire

router = APIRouter(prefix="/v1/recordings", tags=["direct door"])


@router.put("/{recording}")
async def open_recording(
    recording: UUID, message: NewRecording, terminal: SignedByTerminal, sessions: Maker, vault: Vault
) -> RecordingView:
    """Begin a recording under the id the terminal made; repeat until answered. With `taken_over` it is a finished
    file of at most 64 GiB."""
    if message.taken_over and message.taken_over.size > limits.UPLOAD_BYTES:
        raise UploadTooLarge
    state = await service.open_recording(sessions, vault, terminal, recording, message)
    return RecordingView(id=recording, state=state)


@router.post("/{recording}/exchange")
async def exchange(
    recording: UUID,
    message: wire.ExchangeRequest,
    terminal: SignedByTerminal,
    sessions: Maker,
    vault: Vault,
    request: Request,
) -> wire.ExchangeResult:
    """Up to 64 asks and 64 commits, each with its own outcome."""
    seconds = request.app.state.settings.segment_seconds
    return await service.exchange(sessions, vault, terminal, recording, message, segment_seconds=seconds)


@router.post("/{recording}/close")
async def close(
    recording: UUID, message: wire.CloseRecording, terminal: SignedByTerminal, sessions: Maker, vault: Vault
) -> wire.ClosedRecording:
    """The terminal's signed count and Merkle root; 409 `segments-outstanding` names what is not sealed yet,
    `conflicts-undecided` says that the server will close it in the terminal's stead, and `closed-by-server` that what
    is not in its manifests yet is to be closed as a supplement. The whole of a file that was taken over is read
    first: 503 `whole-unchecked` until that is done."""
    return await manifests.close_recording(sessions, vault, terminal, recording, message)


@router.get("/{recording}/manifests/{number}")
async def manifest(
    recording: UUID,
    number: Annotated[int, Path(ge=0, le=wire.MAX_SUPPLEMENTS)],
    terminal: SignedByTerminal,
    sessions: Maker,
    vault: Vault,
) -> wire.ClosedRecording:
    """What became of the recording: manifest 0, then the supplements; 404 `no-such-manifest` after the last."""
    return await manifests.manifest_of(sessions, vault, terminal, recording, number)
