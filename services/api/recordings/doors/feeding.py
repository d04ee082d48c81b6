"""A push on its way into a recording: cuts of a stream one after the other, or segments that come whole by name."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.api.database import Sessions
from services.api.errors import MediaBroken, NameTaken, NoInit, NoSuchSegment, PushSuperseded, VaultUnavailable
from services.api.recorders.addresses import Pusher
from services.api.recordings import pushing
from services.api.recordings.doors import limits
from services.api.recordings.holding import Holder, Piece, digest
from services.api.recordings.models import Recording
from services.api.recordings.reading import Reader
from services.media.clock import Clock
from services.media.cut import Cut, CutError
from services.media.fmp4 import Cutter
from services.media.ts import TsCutter
from services.vault.contract import wire
from services.vault.contract.client import VaultClient

_KEPT_INITS = 256
_NEVER = 1e9


class Inits:
    """The newest init segments, so that fragments which come alone can be read."""

    def __init__(self) -> None:
        self._kept: OrderedDict[UUID, bytes] = OrderedDict()

    def keep(self, recording: UUID, data: bytes) -> None:
        self._kept[recording] = data
        while len(self._kept) > _KEPT_INITS:
            self._kept.popitem(last=False)

    def get(self, recording: UUID) -> bytes | None:
        return self._kept.get(recording)


@dataclass(frozen=True)
class Means:
    """What every push needs. `idle`: how long a recording waits for its source to come back."""

    sessions: Sessions
    vault: VaultClient
    holder: Holder
    reader: Reader
    inits: Inits
    idle: timedelta

    def until(self) -> datetime:
        return datetime.now(UTC) + self.idle

    async def done_soon(self, pusher: Pusher) -> None:
        """The source said that it is done."""
        soon = datetime.now(UTC) + min(self.idle, timedelta(seconds=limits.SOON_SECONDS))
        await pushing.done_soon(self.sessions, pusher, soon)


class Feed:
    """What one source pushes of one rendition, for as long as one body lasts.

    One segment is sealed while the next comes in: whoever pushes faster than that waits. Raises AddressInvalid,
    PushSuperseded, VaultUnavailable from whichever call meets them; what was sealed stays so.
    """

    def __init__(self, means: Means, pusher: Pusher, rendition: str):
        self._means, self._pusher, self._rendition = means, pusher, rendition
        self._recording: Recording | None = None
        self._init: bytes | None = None
        self._epoch = 0
        self._anew = self._begun = False
        self._clock = Clock()
        self._sealing: asyncio.Task[None] | None = None
        self.watched = False

    @property
    def recording(self) -> UUID | None:
        return self._recording.id if self._recording else None

    async def take(self, cut: Cut) -> None:
        """A cut of the stream, as it arrives. Raises MediaBroken where its clock is none."""
        if cut.duration_ms > limits.PLAYS_MILLISECONDS or cut.media_ms > limits.CLOCK_MILLISECONDS:
            raise MediaBroken("the media's clock jumps")
        started_at, monotonic_ms = self._clock.times(cut)
        if cut.media == "init":
            await self._settled()
            self._init = cut.data
            await self._join(started_at)
            return
        if self._recording is None or ends_by_the_hour(self._pusher, self._recording):
            await self._settled()
            await self._join(started_at)
        sequence = await self._sequence(started_at)
        recording = self.recording
        assert recording is not None
        anew, self._anew = self._anew, False
        if anew:
            anew = await pushing.note_pause(self._means.sessions, recording, sequence, started_at)
        piece = Piece(cut.data, "media", started_at, cut.duration_ms, monotonic_ms, begins_anew=anew)
        await self._settled()
        self._sealing = asyncio.create_task(self._seal(recording, sequence, piece))
        self._begun = True

    async def finish(self, *, done: bool) -> None:
        """All that was taken is sealed. `done`: the source ended by itself, and did not just break off."""
        await self._settled()
        # An init segment that comes as a body of its own ends nothing.
        if done and self._begun:
            await self._means.done_soon(self._pusher)

    async def give_up(self) -> None:
        """Let go of what is under way, whatever becomes of it."""
        if self._sealing is not None:
            self._sealing.cancel()
            await asyncio.gather(self._sealing, return_exceptions=True)

    async def _sequence(self, started_at: datetime) -> int:
        """In a recording that is open: where the one at hand was closed meanwhile, in the next."""
        for _ in range(3):
            assert self._recording is not None
            until = self._means.until()
            found = await pushing.next_sequence(
                self._means.sessions, self._pusher, self._recording.id, until, epoch=self._epoch
            )
            if found is not None:
                self.watched = found.watched
                return found.sequence
            await self._join(started_at)
        raise PushSuperseded

    async def _join(self, started_at: datetime) -> None:
        self._recording = await place(self._means, self._pusher, self._rendition, self._init, started_at)
        self._epoch = await pushing.begin_epoch(self._means.sessions, self._recording.id, self._means.until())
        self._anew = True

    async def _seal(self, recording: UUID, sequence: int, piece: Piece) -> None:
        try:
            await self._means.holder.seal(recording, sequence, piece)
        except VaultUnavailable:
            end = piece.started_at + timedelta(milliseconds=piece.duration_ms)
            await pushing.note_lost(self._means.sessions, recording, sequence, piece.started_at, end)
            raise

    async def _settled(self) -> None:
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            await sealing


def ends_by_the_hour(pusher: Pusher, recording: Recording) -> bool:
    if pusher.kind != "hall-camera":
        return False
    return datetime.now(UTC) - recording.started_at > timedelta(seconds=limits.ENDLESS_SECONDS)


async def place(means: Means, pusher: Pusher, rendition: str, init: bytes | None, started_at: datetime) -> Recording:
    """The source's open recording, if what comes fits it, else a new one; its init is sealed. Raises PushSuperseded
    where another connection has begun one that does not fit."""
    sha256 = None if init is None else await digest(init)
    async with means.sessions() as db:
        found = await pushing.open_of(db, pusher, rendition)
    if found is not None and ends_by_the_hour(pusher, found):
        await pushing.close(means.sessions, means.vault, found.id, "endless")
        found = None
    elif found is not None and found.init_sha256 != sha256:
        await pushing.close(means.sessions, means.vault, found.id, "idle")
        found = None
    if found is None:
        until = means.until()
        found = await pushing.begin(
            means.sessions, pusher, rendition, init_sha256=sha256, started_at=started_at, until=until
        )
    if found.init_sha256 != sha256:
        raise PushSuperseded
    await pushing.introduce(means.vault, found)
    if init is not None:
        # Always the same ask, so that it may be repeated by whoever joins.
        await means.holder.seal(found.id, 0, Piece(init, "init", found.started_at, 0, 0), sha256)
        means.inits.keep(found.id, init)
    return found


async def take_whole(means: Means, pusher: Pusher, rendition: str, name: str, data: bytes, *, ts: bool) -> UUID:
    """A segment that comes whole under its own name, sealed as it came. Raises NoInit, MediaBroken, NameTaken,
    AddressInvalid, VaultUnavailable."""
    sha256 = await digest(data)
    for _ in range(3):
        recording = await _place_whole(means, pusher, rendition, ts=ts)
        init = None if ts else await _init_of(means, recording)
        duration_ms = await asyncio.to_thread(_milliseconds, data, init)
        started_at = datetime.now(UTC) - timedelta(milliseconds=duration_ms)
        named = await pushing.named(means.sessions, pusher, recording.id, means.until(), name, sha256, started_at)
        if named is None:
            continue
        piece = Piece(data, "media", named.started_at, duration_ms, 0, begins_anew=named.begins_anew)
        await means.holder.seal(recording.id, named.sequence, piece, sha256)
        if named.taken:
            raise NameTaken
        return recording.id
    raise PushSuperseded


async def _place_whole(means: Means, pusher: Pusher, rendition: str, *, ts: bool) -> Recording:
    """The recording that a segment belongs to. One that needs an init begins with that of the source's last
    recording, since encoders send it once."""
    async with means.sessions() as db:
        found = await pushing.open_of(db, pusher, rendition)
        if found is not None and (found.init_sha256 is None) == ts and not ends_by_the_hour(pusher, found):
            return found
        last = None if ts else await pushing.last_of(db, pusher, rendition)
    if last is None and not ts:
        raise NoInit
    init = None if last is None else await _init_of(means, last)
    return await place(means, pusher, rendition, init, datetime.now(UTC))


async def _init_of(means: Means, recording: Recording) -> bytes:
    """Raises NoInit where it was never sealed."""
    kept = means.inits.get(recording.id)
    if kept is None:
        name = wire.SegmentName(sequence=0, sha256=recording.init_sha256 or "")
        try:
            kept = await means.reader.whole(recording.id, name)
        except NoSuchSegment as error:
            raise NoInit from error
        means.inits.keep(recording.id, kept)
    return kept


def _milliseconds(data: bytes, init: bytes | None) -> int:
    """How long a segment plays. Raises MediaBroken."""
    try:
        if init is None:
            ts = TsCutter(target_seconds=_NEVER, longest_seconds=_NEVER)
            cuts = [*ts.feed(data), *ts.finish()]
        else:
            mp4 = Cutter(
                target_seconds=_NEVER,
                longest_seconds=_NEVER,
                patient=True,
            )
            list(mp4.feed(init))
            cuts = [*mp4.feed(data), *mp4.finish()]
    except CutError as error:
        raise MediaBroken(str(error)) from error
    if not cuts:
        raise MediaBroken("no whole fragment")
    length = sum(cut.duration_ms for cut in cuts)
    if length > limits.PLAYS_MILLISECONDS:
        raise MediaBroken("the media's clock jumps")
    return length
