"""What stretches of a closed recording show or tell nothing, found by a job in what is sealed of it (`media.detect`).

Each closing is looked at once, and each supplement: the newest look counts. What could not be looked at is kept as
such, so that nobody takes silence for a finding.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api import jobs
from services.api.database import Sessions
from services.api.errors import NoSuchSegment, VaultUnavailable
from services.api.recordings.models import Detection, Recording, Segment, Stretch
from services.api.recordings.queries import as_played
from services.api.recordings.reading import Reader
from services.media import detect, ffmpeg
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused

DETECT = "detect"
_AFTER = timedelta(seconds=10)
MAX_STRETCHES = 1000
"""Of one recording, the longest of them."""


async def enter(db: AsyncSession, recording: UUID, number: int) -> None:
    """Look at it, a while after this closing or supplement is committed: sealing comes first."""
    await jobs.enter(db, DETECT, f"{recording}/{number}", after=_AFTER)


async def find(sessions: Sessions, reader: Reader, subject: str) -> None:
    """May be repeated. Raises what reading raises where it is worth trying again."""
    name, _, told = subject.partition("/")
    recording_id, number = UUID(name), int(told)
    async with sessions() as db:
        recording = await db.get(Recording, recording_id)
        known = await db.get(Detection, (recording_id, number))
        columns = (Segment.sequence, Segment.sha256, Segment.media, Segment.started_at, Segment.duration_ms)
        rows = (await db.execute(as_played(recording_id, *columns, Segment.begins_anew))).all()
    if recording is None or known is not None:
        return
    found: list[_Found] = []
    why: str | None = None
    try:
        found, why = await _look(reader, recording, rows)
    except NoSuchSegment:
        why = "gone"
    except ffmpeg.NoFfmpeg:
        why = "no-ffmpeg"
    except VaultRefused as error:
        if error.problem.slug not in ("recording-disposed", "not-in-store"):
            raise
        why = "gone"
    await _keep(sessions, recording_id, number, found, why)


@dataclass(frozen=True)
class _Clock:
    """The recorder's: `at` are the seconds into a run at which its segments begin, `moments` when that was."""

    at: list[float]
    moments: list[datetime]

    @classmethod
    def of(cls, run: Sequence[Row[Any]]) -> _Clock:
        ends = accumulate(row.duration_ms / 1000 for row in run[:-1])
        return cls([0.0, *ends], [row.started_at for row in run])

    def __call__(self, second: float) -> datetime:
        place = bisect_right(self.at, second) - 1
        return self.moments[place] + timedelta(seconds=second - self.at[place])


@dataclass(frozen=True)
class _Found:
    """`at`: how far into all that is played. A file has no clock of its own."""

    stretch: detect.Stretch
    at: float
    clock: _Clock | None

    def row(self) -> dict[str, Any]:
        start, end = self.stretch.start, self.stretch.end
        clock = self.clock or (lambda _: None)
        row = {"id": uuid7(), "kind": self.stretch.kind, "from_at": clock(start), "to_at": clock(end)}
        return row | {"from_ms": round((self.at + start) * 1000), "to_ms": round((self.at + end) * 1000)}


async def _look(reader: Reader, recording: Recording, rows: Sequence[Row[Any]]) -> tuple[list[_Found], str | None]:
    if recording.format not in ffmpeg.DEMUXERS:
        return [], "not-media"
    init = [row for row in rows if row.media == "init"][:1]
    media = [row for row in rows if row.media == "media"]
    runs = [media] if recording.container == "file" else _runs(media)
    found: list[_Found] = []
    pictures = sound = False
    at, unreadable = 0.0, 0
    for run in runs:
        clock = _Clock.of(run) if recording.container != "file" else None
        seconds = sum(row.duration_ms for row in run) / 1000 if clock else None
        try:
            opened = partial(_bytes, reader, recording.id, [*init, *run])
            looked = await detect.look(recording.format, opened, seconds)
        except detect.Unreadable:
            unreadable += 1
        else:
            pictures, sound = pictures or looked.pictures, sound or looked.sound
            found += [_Found(one, at, clock) for one in detect.settled(looked.stretches)]
            seconds = looked.seconds
        at += seconds or 0.0
    if unreadable == len(runs):
        return [], "unreadable"
    clock = _Clock.of(media) if recording.container != "file" else None
    for there, kind in ((pictures, "no-picture"), (sound, "no-sound")):
        if not there:
            found.append(_Found(detect.Stretch(cast(detect.Kind, kind), 0.0, at), 0.0, clock))
    return found, "partly-unreadable" if unreadable else None


def _runs(media: Sequence[Row[Any]]) -> list[list[Row[Any]]]:
    """Segments that follow one another on one clock of their media's."""
    runs: list[list[Row[Any]]] = []
    for row in media:
        if runs and row.sequence == runs[-1][-1].sequence + 1 and not row.begins_anew:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


async def _bytes(reader: Reader, recording: UUID, rows: Sequence[Row[Any]]) -> AsyncIterator[bytes]:
    for row in rows:
        data = await reader.whole(recording, wire.SegmentName(sequence=row.sequence, sha256=row.sha256))
        if await asyncio.to_thread(_digest, data) != row.sha256:
            raise VaultUnavailable(f"segment {row.sequence} of {recording} was read with other bytes")
        yield data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def _keep(sessions: Sessions, recording: UUID, number: int, found: list[_Found], why: str | None) -> None:
    longest = sorted(found, key=lambda one: -one.stretch.seconds)[:MAX_STRETCHES]
    done = {"recording_id": recording, "number": number, "done_at": datetime.now(UTC), "not_looked": why}
    done |= {"detector": await asyncio.to_thread(ffmpeg.version), "found": len(found)}
    async with sessions.begin() as db:
        fresh = insert(Detection).values(done).on_conflict_do_nothing().returning(col(Detection.number))
        if await db.scalar(fresh) is None or not longest:
            return
        of = {"recording_id": recording, "number": number}
        await db.execute(insert(Stretch).values([one.row() | of for one in longest]))
