"""What becomes of an upload that has ended: its tail is removed, its recording closed by the server.

One that is complete is read once more from the store, for the digest of the whole file, which enters the manifest. A
running digest is not kept with the row: no library of ours can store its state, and this one is of what the store
gives back. One that was given up, or expired, is closed as far as it was sealed. A `final` upload is sealed anew from
what its parts are, since a receipt is of one recording.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlmodel import col

from services.api.errors import AddressInvalid, NoSuchUpload, UploadGone, VaultUnavailable
from services.api.recorders import addresses
from services.api.recordings import manifests, uploading
from services.api.recordings.gathering import Gathering, Means, joined, sealed_already
from services.api.recordings.models import Segment, Upload
from services.jobs import Hopeless
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused
from services.vault.contract.verify import merkle_root, segment_leaf


async def close(means: Means, subject: str) -> None:
    async with means.sessions() as db:
        upload = await db.get(Upload, UUID(subject))
    if upload is None or upload.closed or upload.state == "open":
        return
    if upload.tail is not None:
        await means.tails.remove(upload.id, upload.tail)
    whole = None
    if upload.completed_at is not None:
        whole = await _whole(means, upload) if upload.segments else None
    else:
        await _count_pending(means, upload)
    if await _segments(means, upload.id):
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
            for row in await _segments(means, part):
                if at + row.size > done:
                    data = await means.reader.whole(part, _name(row))
                    await gathering.take(data[max(0, done - at) :])
                at += row.size
        await gathering.finish(complete=True)
    except AddressInvalid:
        await uploading.end(means.sessions, upload, "cancelled")
    except UploadGone:
        return


async def _whole(means: Means, upload: Upload) -> wire.Whole:
    digest, rows = hashlib.sha256(), await _segments(means, upload.id)
    for row in rows:
        data = await means.reader.whole(upload.id, _name(row))
        if not await asyncio.to_thread(joined, digest, data, row.sha256):
            raise VaultUnavailable(f"segment {row.sequence} of {upload.id} was read with other bytes")
    root = merkle_root(segment_leaf(row.sequence, row.sha256, row.size) for row in rows).hex()
    return wire.Whole(sha256=digest.hexdigest(), size=upload.sealed, root=root)


async def _count_pending(means: Means, upload: Upload) -> None:
    """A segment whose sealing nobody saw the end of."""
    if upload.pending_sha256 is not None and (sealed := await sealed_already(means.vault, upload)) is not None:
        pusher = await addresses.source_of(means.sessions, upload.address_id)
        async with means.sessions.begin() as db:
            await uploading.index(db, pusher, upload, sealed)


async def _segments(means: Means, recording: UUID) -> list[Row[Any]]:
    query = select(col(Segment.sequence), col(Segment.sha256), col(Segment.size))
    query = query.where(col(Segment.recording_id) == recording, col(Segment.beside).is_(False))
    async with means.sessions() as db:
        return list(await db.execute(query.order_by(col(Segment.sequence))))


def _name(row: Row[Any]) -> wire.SegmentName:
    return wire.SegmentName(sequence=row.sequence, sha256=row.sha256)
