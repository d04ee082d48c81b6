"""Looking at a single file: logged with its purpose first, and then handed out as what its content is.

Whatever lies in it, it runs nothing: a browser is told its type, to guess no other, and to give it no origin.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api import outbox
from services.api.database import Sessions
from services.api.errors import NoSuchViewing, RangeUnsatisfiable, ViewingLapsed
from services.api.identity.principal import Principal
from services.api.outbox import Outgoing
from services.api.recordings.files import queries
from services.api.recordings.files.kinds import SHOWN, TYPES
from services.api.recordings.files.models import File, FileVersion
from services.api.recordings.files.schemas import FileViewing, NewFileViewing
from services.api.recordings.models import Viewing
from services.api.recordings.originals import Original, checked
from services.api.recordings.reading import Reader
from services.api.recordings.service import TAKES_ORIGINAL, VIEWING_LIFETIME
from services.vault.contract import ranges, wire
from services.vault.contract.client import VaultClient

_SANDBOX = {"content-security-policy": "default-src 'none'; sandbox"}


async def register(
    sessions: Sessions, vault: VaultClient, who: Principal, file: UUID, use: NewFileViewing
) -> FileViewing:
    """Logged before it can be used; that a browser does not show it, and it is taken along, the log says too. Raises
    NoSuchFile, NotPermitted, VaultUnreachable."""
    now = datetime.now(UTC)
    async with sessions.begin() as db:
        version = await queries.version(db, who, file, use.version)
        who.require("view")
        viewing = Viewing(
            id=uuid7(),
            file_id=file,
            file_version=version.version,
            person_id=who.person_id,
            purpose=use.purpose,
            note=use.note,
            at=now,
            until=now + VIEWING_LIFETIME,
            first_sequence=version.version,
        )
        shown = SHOWN.get(version.format)
        fields = {
            "recording": str(file),
            "version": version.version,
            "person": str(who.person_id),
            "purpose": use.purpose,
            "until": wire.rfc3339(viewing.until),
        } | use.note_digest()
        if shown is None:
            fields["takes"] = TAKES_ORIGINAL
        await outbox.enter(db, viewing.id, "viewing", fields, now)
        db.add(viewing)
    await outbox.tell(sessions, vault, viewing.id)
    content = f"/v1/viewings/{viewing.id}/content"
    return FileViewing(id=viewing.id, content=content, until=viewing.until, shown=shown)


async def content(
    sessions: Sessions, reader: Reader, who: Principal, viewing: UUID, range_: str | None, if_range: str | None
) -> Original:
    """The version's bytes, or a part of them, compared with what was sealed before the last of them passes. Raises
    NoSuchViewing, ViewingLapsed, RangeUnsatisfiable, VaultUnavailable, VaultRefused for what was disposed of."""
    async with sessions() as db:
        version = await _viewed(db, who, viewing)
    etag = f'"{version.sha256}"'
    try:
        part = ranges.asked(range_, if_range, etag, version.size)
    except ranges.Unsatisfiable as error:
        raise RangeUnsatisfiable(size=version.size) from error
    first, end = part or (0, version.size)
    shown = SHOWN.get(version.format)
    name = f"quancheng-{version.file_id}-{version.version}.{version.format}"
    headers = {
        "content-type": TYPES[version.format],
        "content-length": str(end - first),
        "accept-ranges": "bytes",
        "etag": etag,
        "content-disposition": f'{"inline" if shown else "attachment"}; filename="{name}"',
        # A browser's own reader of PDF, which runs apart from every page, refuses to start in a sandbox.
        **({} if shown == "pdf" else _SANDBOX),
    }
    if part:
        headers["content-range"] = f"bytes {first}-{end - 1}/{version.size}"
    (ticket,) = await reader.tickets(
        version.file_id, [wire.SegmentName(sequence=version.version, sha256=version.sha256)]
    )
    stored = await reader.opened(ticket)
    return Original(206 if part else 200, headers, checked(stored, ticket, first, end - first))


async def _viewed(db: AsyncSession, who: Principal, viewing: UUID) -> FileVersion:
    """What a viewing that may be used now is of: this person's, in the log, not lapsed, its file still visible."""
    query = select(Viewing, FileVersion).join(File, col(File.id) == col(Viewing.file_id))
    query = query.join(
        FileVersion,
        (col(FileVersion.file_id) == col(File.id)) & (col(FileVersion.version) == col(Viewing.file_version)),
    )
    query = query.join(Outgoing, col(Outgoing.act) == col(Viewing.id))
    query = query.where(col(Viewing.id) == viewing, col(Viewing.person_id) == who.person_id)
    query = query.where(col(Outgoing.log_index).is_not(None), queries.visible_to(who))
    found = (await db.execute(query)).one_or_none()
    if found is None or not who.may("view"):
        raise NoSuchViewing
    if found.Viewing.until <= datetime.now(UTC):
        raise ViewingLapsed
    version: FileVersion = found.FileVersion
    return version
