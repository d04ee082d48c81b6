"""A single file whose bytes come by the resumable door: told of first, and sealed as its version once they are whole.

The upload is sealed in pieces as any other and stays a recording of its own; what it makes up is read from there.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import update
from sqlmodel import col

from services.api import problems
from services.api.database import Sessions
from services.api.errors import (
    ApiError,
    FileDiffers,
    FileTooLarge,
    FileTypeUnfit,
    FileUntold,
    NoSuchFile,
    TooManyVersions,
)
from services.api.recorders import addresses
from services.api.recorders.addresses import Pusher
from services.api.recordings.files import service
from services.api.recordings.files.kinds import KINDS
from services.api.recordings.files.models import File
from services.api.recordings.files.service import Bringer, Came, Means
from services.api.recordings.models import Segment, Upload
from services.api.recordings.queries import as_played
from services.api.recordings.reading import Reader
from services.vault.contract import wire

_FINAL = (FileDiffers, FileTooLarge, FileTypeUnfit, TooManyVersions)
"""What trying again does not mend: the file says so."""


async def require_awaiting(sessions: Sessions, pusher: Pusher, file: UUID, length: int | None) -> None:
    """Raises FileUntold, FileDiffers where its bytes have come already, FileTooLarge."""
    try:
        kept = await service.told(sessions, Bringer.of_address(pusher), file)
    except NoSuchFile as error:
        raise FileUntold from error
    if kept.version:
        raise FileDiffers
    _require_size(kept, length or 0)


async def arrive(means: Means, reader: Reader, subject: str) -> None:
    """The job. Trying again is the same version."""
    async with means.sessions() as db:
        upload = await db.get_one(Upload, UUID(subject))
        file = await db.get_one(File, upload.file_id)
        rows = (await db.execute(as_played(upload.id, Segment.sequence, Segment.sha256))).all()
    bringer = Bringer.of_address(await addresses.source_of(means.sessions, upload.address_id))
    try:
        _require_size(file, upload.sealed)
        names = [wire.SegmentName(sequence=row.sequence, sha256=row.sha256) for row in rows]
        data = b"".join([await reader.whole(upload.id, name) for name in names])
        came = Came(data, upload.file_name, sha256=upload.whole_sha256, door="resumable")
        await service.take(means, bringer, file, came)
    except _FINAL as error:
        await _note(means.sessions, file.id, error)


async def _note(sessions: Sessions, file: UUID, error: ApiError) -> None:
    _, slug, _ = problems.PROBLEMS[type(error)]
    async with sessions.begin() as db:
        await db.execute(update(File).where(col(File.id) == file).values(trouble=slug))


def _require_size(file: File, size: int) -> None:
    most = KINDS[file.kind].bytes
    if size > most:
        raise FileTooLarge(limit=most)
