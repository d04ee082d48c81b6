"""Cuts one fragmented MP4 stream (ISO/IEC 14496-12) into the init segment and media segments.

    cutter = Cutter(target_seconds=1)
    for cut in cutter.feed(chunk): ...
    for cut in cutter.finish(): ...

The cuts in order are the stream itself, less what carries no media (`styp`, `sidx`, `mfra`, free space).
A media segment is one or more whole `moof`+`mdat` pairs and begins with a key frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.media.cut import MAX_BYTES, Cut, CutError

MAX_METADATA_BYTES = 4 * 1024 * 1024
"""The largest box other than `mdat` that is taken."""

_DROPPED = {b"styp", b"sidx", b"ssix", b"mfra", b"free", b"skip"}
_TAKEN = {b"ftyp", b"moov", b"moof", b"mdat"} | _DROPPED
_NON_SYNC = 0x10000


@dataclass
class _Track:
    id: int
    handler: bytes = b""
    timescale: int = 1
    default_duration: int = 0
    default_flags: int = 0


@dataclass
class _Fragment:
    sync: bool
    start: float
    duration: float


@dataclass
class _Segment:
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    start: float = 0.0
    duration: float = 0.0


class Cutter:
    """`target_seconds` may change between feeds and holds from the next cut on.

    With `whole_gops` the stream promises that every fragment begins with a key frame, so a cut is known as
    soon as a fragment ends; otherwise it is known when the next fragment's head arrives. A segment never
    grows past `max_bytes`.

    With `patient` a stream need not be well made: a segment is cut without a key frame where none comes for
    `longest_seconds` or before fragments have been joined to `joined_bytes`, and a stream that begins again with
    another `moov` yields another init.
    """

    def __init__(
        self,
        *,
        target_seconds: float,
        max_bytes: int = MAX_BYTES,
        whole_gops: bool = False,
        patient: bool = False,
        joined_bytes: int = MAX_BYTES,
        longest_seconds: float = 10.0,
    ):
        self.target_seconds = target_seconds
        self._max_bytes = max_bytes
        self._whole_gops = whole_gops
        self._patient, self._longest, self._joined = patient, longest_seconds, min(joined_bytes, max_bytes)
        self._buffer = bytearray()
        self._mdat: list[bytes] = []
        self._lacking = 0
        """Bytes of an mdat that are still to come."""
        self._ftyp: bytes | None = None
        self._tracks: dict[int, _Track] = {}
        self._moof: bytes | None = None
        self._segment: _Segment | None = None
        self._clock = 0.0

    def feed(self, data: bytes) -> Iterator[Cut]:
        """The segments that these bytes complete. Raises CutError."""
        try:
            yield from self._boxes(data)
        except struct.error as error:
            raise CutError("a box ends too early") from error

    def _boxes(self, data: bytes) -> Iterator[Cut]:
        rest = memoryview(data)
        if self._lacking:
            piece = rest[: self._lacking]
            self._mdat.append(bytes(piece))
            self._lacking -= len(piece)
            rest = rest[len(piece) :]
            if self._lacking:
                return
            yield from self._end_fragment()
        self._buffer += rest
        while (box := self._next_box()) is not None:
            yield from self._take(*box)

    def finish(self) -> Iterator[Cut]:
        """What is whole but not yet cut."""
        yield from self._emit()

    def _next_box(self) -> tuple[bytes, bytes] | None:
        if len(self._buffer) < 8:
            return None
        size, kind = struct.unpack_from(">I4s", self._buffer)
        if kind not in _TAKEN:
            raise CutError(f"unexpected top-level box {kind!r}")
        least = 8
        if size == 1:
            if len(self._buffer) < 16:
                return None
            (size,) = struct.unpack_from(">Q", self._buffer, 8)
            least = 16
        if size < least:
            raise CutError(f"a {kind.decode()} box of size {size} has no end that can be known")
        if size > (self._max_bytes if kind == b"mdat" else MAX_METADATA_BYTES):
            raise CutError(f"a {kind.decode()} box of {size} bytes is over the limit")
        if kind == b"mdat" and self._moof is None:
            raise CutError("an mdat without its moof")
        if len(self._buffer) < size:
            if kind == b"mdat":
                # Its bytes are not gathered here, since each would be moved again for every piece that follows.
                self._mdat, self._lacking = [bytes(self._buffer)], size - len(self._buffer)
                self._buffer.clear()
            return None
        box = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return kind, box

    def _take(self, kind: bytes, box: bytes) -> Iterator[Cut]:
        if kind in _DROPPED:
            return
        if self._moof is not None and kind != b"mdat":
            raise CutError("a moof is not followed by its mdat")
        if kind == b"ftyp":
            if self._ftyp is not None and not self._patient:
                raise CutError("a second ftyp")
            self._ftyp = box
        elif kind == b"moov":
            if self._tracks and not self._patient:
                raise CutError("a new moov: the stream began again")
            yield from self._emit()
            if self._ftyp is None:
                raise CutError("a moov without an ftyp before it")
            self._tracks = _tracks(box)
            yield Cut("init", self._ftyp + box, 0, 0)
        elif kind == b"moof":
            if not self._tracks:
                raise CutError("a moof before the moov")
            self._moof = box
        else:
            self._mdat = [box]
            yield from self._end_fragment()

    def _end_fragment(self) -> Iterator[Cut]:
        moof, self._moof, mdat, self._mdat = self._moof or b"", None, self._mdat, []
        yield from self._add(_fragment(moof, self._tracks, self._clock), [moof, *mdat])

    def _add(self, fragment: _Fragment, parts: list[bytes]) -> Iterator[Cut]:
        size = sum(map(len, parts))
        if self._segment is not None:
            full = self._segment.size + size > (self._joined if self._patient else self._max_bytes)
            due = fragment.sync and self._segment.duration + 1e-3 >= self.target_seconds
            overdue = self._patient and (full or self._segment.duration >= self._longest)
            if due or overdue or (fragment.sync and full):
                yield from self._emit()
        if self._segment is None:
            if not fragment.sync and not self._patient:
                raise CutError("a fragment where a segment has to begin does not begin with a key frame")
            self._segment = _Segment(start=fragment.start)
        self._segment.parts += parts
        self._segment.size += size
        self._segment.duration += fragment.duration
        self._clock = fragment.start + fragment.duration
        if self._segment.size > self._max_bytes:
            raise CutError(f"no key frame within {self._max_bytes} bytes")
        if self._whole_gops and self._segment.duration + 1e-3 >= self.target_seconds:
            yield from self._emit()

    def _emit(self) -> Iterator[Cut]:
        if self._segment is None:
            return
        done, self._segment = self._segment, None
        yield Cut("media", b"".join(done.parts), round(done.duration * 1000), round(done.start * 1000))


def _children(box: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the content, end) of each box between two offsets."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", box, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", box, start + 8)
            head = 16
        if size < head or start + size > end:
            raise CutError(f"a {kind!r} box does not fit the box around it")
        yield kind, start + head, start + size
        start += size


def _content(box: bytes) -> tuple[int, int]:
    return (16 if box[:4] == b"\x00\x00\x00\x01" else 8), len(box)


def _full(box: bytes, at: int) -> tuple[int, int]:
    """Version and flags of a FullBox."""
    (word,) = struct.unpack_from(">I", box, at)
    return word >> 24, word & 0xFFFFFF


def _tracks(moov: bytes) -> dict[int, _Track]:
    tracks: dict[int, _Track] = {}
    defaults: dict[int, tuple[int, int]] = {}
    for kind, start, end in _children(moov, *_content(moov)):
        if kind == b"trak":
            track = _track(moov, start, end)
            tracks[track.id] = track
        elif kind == b"mvex":
            for inner, at, _ in _children(moov, start, end):
                if inner == b"trex":
                    track_id, _, duration, _, flags = struct.unpack_from(">5I", moov, at + 4)
                    defaults[track_id] = (duration, flags)
    for track_id, (duration, flags) in defaults.items():
        if track_id in tracks:
            tracks[track_id].default_duration, tracks[track_id].default_flags = duration, flags
    if not tracks or not defaults:
        raise CutError("the moov announces no fragments")
    return tracks


def _track(moov: bytes, start: int, end: int) -> _Track:
    track = _Track(0)
    for kind, at, stop in _children(moov, start, end):
        if kind == b"tkhd":
            version, _ = _full(moov, at)
            (track.id,) = struct.unpack_from(">I", moov, at + (20 if version else 12))
        elif kind == b"mdia":
            for inner, there, _ in _children(moov, at, stop):
                if inner == b"mdhd":
                    version, _ = _full(moov, there)
                    (track.timescale,) = struct.unpack_from(">I", moov, there + (20 if version else 12))
                elif inner == b"hdlr":
                    track.handler = moov[there + 8 : there + 12]
    if not track.id or not track.timescale:
        raise CutError("a track without id or time scale")
    return track


def _fragment(moof: bytes, tracks: dict[int, _Track], clock: float) -> _Fragment:
    """The fragment as its video track tells it, or its first track where there is no video."""
    runs = [
        _run(moof, start, end, tracks, clock)
        for kind, start, end in _children(moof, *_content(moof))
        if kind == b"traf"
    ]
    if not runs:
        raise CutError("a moof without a traf")
    has_video = any(track.handler == b"vide" for track in tracks.values())
    chosen = [run for track, run in runs if track.handler == b"vide"]
    if has_video and not chosen:
        # Sound alone: it may follow a key frame's fragment, but no segment may begin here.
        return _Fragment(False, clock, 0.0)
    return chosen[0] if chosen else runs[0][1]


def _run(moof: bytes, start: int, end: int, tracks: dict[int, _Track], clock: float) -> tuple[_Track, _Fragment]:
    track: _Track | None = None
    duration = flags = 0
    begin, ticks = clock, 0
    sync: bool | None = None
    for kind, at, _ in _children(moof, start, end):
        version, bits = _full(moof, at)
        if kind == b"tfhd":
            track, duration, flags = _header(moof, at, bits, tracks)
        elif track is None:
            raise CutError("a traf does not begin with its tfhd")
        elif kind == b"tfdt":
            (when,) = struct.unpack_from(">Q" if version else ">I", moof, at + 4)
            begin = when / track.timescale
        elif kind == b"trun":
            first, length = _samples(moof, at, bits, duration, flags)
            ticks += length
            if sync is None and first is not None:
                sync = not first & _NON_SYNC
    if track is None:
        raise CutError("a traf without a tfhd")
    return track, _Fragment(bool(sync), begin, ticks / track.timescale)


def _header(moof: bytes, at: int, bits: int, tracks: dict[int, _Track]) -> tuple[_Track, int, int]:
    if bits & 0x1 or not bits & 0x20000:
        raise CutError("a fragment's offsets are not relative to its moof (default-base-is-moof)")
    (track_id,) = struct.unpack_from(">I", moof, at + 4)
    track = tracks.get(track_id)
    if track is None:
        raise CutError(f"a fragment of a track {track_id} that the moov does not know")
    at += 8 + (4 if bits & 0x2 else 0)
    duration, flags = track.default_duration, track.default_flags
    if bits & 0x8:
        (duration,) = struct.unpack_from(">I", moof, at)
        at += 4
    if bits & 0x10:
        at += 4
    if bits & 0x20:
        (flags,) = struct.unpack_from(">I", moof, at)
    return track, duration, flags


def _samples(moof: bytes, at: int, bits: int, duration: int, flags: int) -> tuple[int | None, int]:
    """(the first sample's flags, all samples' duration in ticks) of a trun."""
    (count,) = struct.unpack_from(">I", moof, at + 4)
    if not count:
        return None, 0
    at += 8 + (4 if bits & 0x1 else 0)
    if bits & 0x4:
        (flags,) = struct.unpack_from(">I", moof, at)
        at += 4
    width = 4 * sum(bool(bits & bit) for bit in (0x100, 0x200, 0x400, 0x800))
    if width and at + width * count > len(moof):
        raise CutError("a trun lists more samples than it holds")
    if bits & 0x400 and not bits & 0x4:
        before = 4 * sum(bool(bits & bit) for bit in (0x100, 0x200))
        (flags,) = struct.unpack_from(">I", moof, at + before)
    if not bits & 0x100:
        return flags, duration * count
    return flags, sum(struct.unpack_from(">I", moof, at + i * width)[0] for i in range(count))
