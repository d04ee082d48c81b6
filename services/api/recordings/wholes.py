"""What becomes of an upload that has ended: its tail is removed, its recording closed by the server.

One that is complete is read once more from the store, for the digest of the whole file, which enters the manifest. A
running digest is not kept with the row: no library of ours can store its state, and this one is of what the store
gives back. One that was given up, or expired, is closed as far as it was sealed. A `final` upload is sealed anew from
what its parts are, since a receipt is of one recording.
"""

from __future__ import annotations

from uuid import UUID

from services.api.errors import AddressInvalid, NoSuchUpload, UploadGone
from services.api.recorders import addresses
from services.api.recordings import manifests, uploading
from services.api.recordings.contents import name_of, segments_of, whole_of
from services.api.recordings.gathering import Gathering, Means, sealed_already
from services.api.recordings.models import Upload
from services.jobs import Hopeless
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused


async def close(means: Means, subject: str) -> None:
    async with means.sessions() as db:
        upload = await db.get(Upload, UUID(subject))
    if upload is None or upload.closed or upload.state == "open":
        return
    if upload.tail is not None:
        await means.tails.remove(upload.id, upload.tail)
    whole = None
    if upload.completed_at is not None:
        whole = await whole_of(means.sessions, means.reader, upload.id) if upload.segments else None
    else:
        await _count_pending(means, upload)
    if await segments_of(means.sessions, upload.id):
        reason: wire.ServerReason = "cancelled" if upload.state == "cancelled" else "lost"
        try:
            await manifests.close_by_server(
                means.sessions, means.vault, upload.id, "complete" if whole else reason, whole
            )
        except VaultRefused as error:
            if error.problem.slug == "whole-differs":
                raise Hopeless("WholeDiffers") from error
            raise
    await uploading.closed(means.sessions, upload.id, whole.sha256 if whole else None)


async def join(means: Means, subject: str) -> None:
    """Goes on from where it was sealed to; whoever takes it over claims it."""
    try:
        upload = await uploading.claim(means.sessions, UUID(subject))
    except (NoSuchUpload, UploadGone):
        return
    if upload.state != "open":
        return
    pusher = await addresses.source_of(means.sessions, upload.address_id)
    gathering, at = Gathering(means, pusher, upload), 0
    try:
        await gathering.settle()
        await gathering.load()
        done = upload.received
        for part in upload.parts or []:
            for row in await segments_of(means.sessions, part):
                if at + row.size > done:
                    data = await means.reader.whole(part, name_of(row))
                    await gathering.take(data[max(0, done - at) :])
                at += row.size
        await gathering.finish(complete=True)
    except AddressInvalid:
        await uploading.end(means.sessions, upload, "cancelled")
    except UploadGone:
        return


async def _count_pending(means: Means, upload: Upload) -> None:
    """A segment whose sealing nobody saw the end of."""
    if upload.pending_sha256 is not None and (sealed := await sealed_already(means.vault, upload)) is not None:
        pusher = await addresses.source_of(means.sessions, upload.address_id)
        async with means.sessions.begin() as db:
            await uploading.index(db, pusher, upload, sealed)
