"""Renditions as they are watched: a playlist at once, and each piece once somebody asks for it.

Every request is made under a viewing that stands in the log. All who watch a recording share its pieces, and one
process at a time makes them; what nobody waits for any more is not made to its end.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from services.api.database import Sessions
from services.api.errors import NoSuchSegment, NotRenderable, RenditionsBusy
from services.api.identity.principal import Principal
from services.api.recordings import playback, service
from services.api.recordings.models import Recording, Segment
from services.api.recordings.queries import as_played
from services.api.recordings.reading import Reader
from services.api.recordings.renditions import limits, making
from services.api.recordings.renditions.lending import File, Lender
from services.api.recordings.renditions.making import Input, Title
from services.api.recordings.sharing import Shared
from services.media import ffmpeg
from services.vault.contract import wire

_Key = tuple[UUID, str]
_Look = Callable[[], Coroutine[Any, Any, tuple[Title, File]]]


class Renditions:
    """`at_once` processes at most, in all."""

    def __init__(self, sessions: Sessions, reader: Reader, at_once: int):
        self._sessions, self._reader = sessions, reader
        self._lender = Lender(reader)
        self._pieces = Shared[_Key](limits.KEPT_BYTES, limits.KEPT_PIECES)
        self._titles: OrderedDict[UUID, asyncio.Task[tuple[Title, File]]] = OrderedDict()
        self._slots = asyncio.Semaphore(at_once)
        self._turns: dict[UUID, asyncio.Lock] = {}
        self._waiting = 0
        self._idle: dict[UUID, asyncio.TimerHandle] = {}

    def close(self) -> None:
        self._lender.close()

    async def playlist(self, who: Principal, viewing: UUID, *, wait_for: int | None, target: int) -> str:
        """Raises NoSuchViewing, ViewingLapsed, NotRenderable, RenditionsUnavailable, RenditionsBusy."""
        async with self._sessions() as db:
            _, recording = await service.viewing_of(db, who, viewing)
        if recording.container != "file":
            return await playback.playlist(
                self._sessions, who, viewing, wait_for=wait_for, target=target, rendition=True
            )
        self._used(recording.id)
        title, _ = await self._title(recording, lambda: self._look(recording))
        return _playlist(title)

    async def init(self, who: Principal, viewing_id: UUID) -> bytes:
        async with self._sessions() as db:
            viewing, recording = await service.viewing_of(db, who, viewing_id)
            first = "0" if recording.container == "file" else await _first(db, recording.id, viewing.first_sequence)
        return making.parted(await self._piece(recording, first))[0]

    async def piece(self, who: Principal, viewing_id: UUID, name: str) -> bytes:
        """By its number, or the name of the sealed segment that it is of. Raises NoSuchSegment too."""
        async with self._sessions() as db:
            _, recording = await service.viewing_of(db, who, viewing_id)
            if recording.container != "file":
                await playback.find(db, recording.id, name)
        return making.parted(await self._piece(recording, name))[1]

    async def _piece(self, recording: Recording, name: str) -> bytes:
        self._used(recording.id)
        making_it = self._of_file if recording.container == "file" else self._of_segment
        return await self._pieces.get((recording.id, name), lambda: making_it(recording, name))

    async def _of_file(self, recording: Recording, name: str) -> bytes:
        title, file = await self._title(recording, lambda: self._look(recording))
        if "-" in name or int(name) >= _count(title):
            raise NoSuchSegment
        async with self._turn(recording.id), self._lender.lend(file) as url:
            return await making.of_file(Input(recording.format, url=url), title, int(name))

    async def _of_segment(self, recording: Recording, name: str) -> bytes:
        given = Input("ts" if recording.container == "ts" else "mp4", data=await self._data(recording, name))
        title, _ = await self._title(recording, lambda: self._look_at(recording, given))
        async with self._turn(recording.id):
            return await making.of_segment(given, title)

    async def _data(self, recording: Recording, name: str) -> bytes:
        """A sealed segment behind its init segment."""
        sequence, _, sha256 = name.partition("-")
        data = await self._reader.checked(recording.id, wire.SegmentName(sequence=int(sequence), sha256=sha256))
        if recording.container == "ts":
            return data
        query = as_played(recording.id, Segment.sequence, Segment.sha256).where(col(Segment.media) == "init").limit(1)
        async with self._sessions() as db:
            init = (await db.execute(query)).first()
        if init is None:
            raise NotRenderable("没有初始化段")
        named = wire.SegmentName(sequence=init.sequence, sha256=init.sha256)
        return await self._reader.checked(recording.id, named) + data

    async def _title(self, recording: Recording, look: _Look) -> tuple[Title, File]:
        """Looked at once for all of its pieces."""
        looking = self._titles.get(recording.id)
        if looking is None:
            looking = self._titles[recording.id] = asyncio.create_task(look())
            while len(self._titles) > limits.TITLES:
                self._titles.popitem(last=False)
        self._titles.move_to_end(recording.id)
        try:
            return await asyncio.shield(looking)
        except NotRenderable:
            raise  # it stays so
        except Exception:
            if self._titles.get(recording.id) is looking:
                del self._titles[recording.id]
            raise

    async def _look(self, recording: Recording) -> tuple[Title, File]:
        if recording.format not in ffmpeg.PICTURED:
            raise NotRenderable(f"文件类型 {recording.format}", codec=recording.format)
        query = as_played(recording.id, Segment.sequence, Segment.sha256, Segment.size)
        async with self._sessions() as db:
            rows = (await db.execute(query)).all()
        names, ends, end = [], [], 0
        for row in rows:
            names.append(wire.SegmentName(sequence=row.sequence, sha256=row.sha256))
            ends.append(end := end + row.size)
        file = File(recording.id, names, ends)
        async with self._turn(recording.id), self._lender.lend(file) as url:
            title = await making.look(Input(recording.format, url=url))
        if not title.seconds:
            raise NotRenderable("读不出时长", codec=title.video or title.audio)
        return title, file

    async def _look_at(self, recording: Recording, given: Input) -> tuple[Title, File]:
        async with self._turn(recording.id):
            return await making.look(given), File(recording.id, [], [])

    @asynccontextmanager
    async def _turn(self, recording: UUID) -> AsyncIterator[None]:
        """One process for each recording, and not too many in all. Raises RenditionsBusy."""
        if self._waiting >= limits.WAITING:
            raise RenditionsBusy
        turn = self._turns.setdefault(recording, asyncio.Lock())
        self._waiting += 1
        try:
            async with turn, self._slots:
                yield
        finally:
            self._waiting -= 1

    def _used(self, recording: UUID) -> None:
        """Its pieces are kept for as long as somebody watches."""
        if (before := self._idle.pop(recording, None)) is not None:
            before.cancel()
        loop = asyncio.get_running_loop()
        self._idle[recording] = loop.call_later(limits.IDLE_SECONDS, self._forget, recording)

    def _forget(self, recording: UUID) -> None:
        del self._idle[recording]
        self._turns.pop(recording, None)
        self._titles.pop(recording, None)
        self._pieces.drop(lambda key: key[0] == recording)


async def _first(db: AsyncSession, recording: UUID, sequence: int) -> str:
    query = as_played(recording, Segment.sequence, Segment.sha256).where(col(Segment.media) == "media")
    query = query.where(col(Segment.sequence) >= sequence)
    found = (await db.execute(query.limit(1))).first()
    if found is None:
        raise NoSuchSegment
    return f"{found.sequence}-{found.sha256}"


def _count(title: Title) -> int:
    return max(1, math.ceil(title.seconds / limits.PIECE_SECONDS - 0.02))


def _playlist(title: Title) -> str:
    count = _count(title)
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-PLAYLIST-TYPE:VOD", "#EXT-X-INDEPENDENT-SEGMENTS"]
    lines += [f"#EXT-X-TARGETDURATION:{math.ceil(limits.PIECE_SECONDS)}", '#EXT-X-MAP:URI="init.mp4"']
    for number in range(count):
        last = number == count - 1
        length = title.seconds - number * limits.PIECE_SECONDS if last else limits.PIECE_SECONDS
        lines += [f"#EXTINF:{max(length, 0.04):.3f},", f"{number}.m4s"]
    return "\n".join([*lines, "#EXT-X-ENDLIST"]) + "\n"
