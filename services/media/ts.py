"""Cuts one MPEG transport stream (ITU-T H.222.0) into segments; the cuts in order are the stream itself.

    cutter = TsCutter(target_seconds=4)
    for cut in cutter.feed(chunk): ...
    for cut in cutter.finish(): ...

A segment begins with the program tables that stand right before a key frame, or with the key frame where none do.
Where no key frame comes in time one is cut before any picture, so that nothing grows without end.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.media.cut import MAX_BYTES, Cut, CutError

PACKET = 188
_SYNC = 0x47
_PAT = 0
_UNTOLD_BYTES = 2 * 1024 * 1024
"""Within so many bytes a stream has told what it carries."""
_HZ = 90_000
_WRAP = 1 << 33
_VIDEO = {0x01, 0x02, 0x10, 0x1B, 0x20, 0x24, 0x33, 0x42, 0xD1, 0xDB, 0xEA}
_MAX_SECTION = 1024


class TsCutter:
    """`target_seconds` may change between feeds and holds from the next cut on. The shape is broken where a packet
    does not begin as one, or no program is told."""

    def __init__(self, *, target_seconds: float, max_bytes: int = MAX_BYTES, longest_seconds: float = 10.0):
        self.target_seconds = target_seconds
        self._max_bytes, self._longest = max_bytes - max_bytes % PACKET, longest_seconds
        self._rest = bytearray()
        self._segment = bytearray()
        self._tables: int | None = None
        """Where in the segment the tables begin that no picture has followed yet."""
        self._sections: dict[int, bytearray] = {}
        self._pmt: int | None = None
        self._pid: int | None = None
        self._has_video = False
        self._before = 0
        self._time = self._start = self._step = 0
        self._last: int | None = None
        self._begun = False

    def feed(self, data: bytes) -> Iterator[Cut]:
        """The segments that these bytes complete. Raises CutError."""
        self._rest += data
        whole = len(self._rest) - len(self._rest) % PACKET
        packets = bytes(self._rest[:whole])
        del self._rest[:whole]
        for at in range(0, whole, PACKET):
            yield from self._take(packets[at : at + PACKET])

    def finish(self) -> Iterator[Cut]:
        """What is whole but not yet cut. Raises CutError where that is no stream."""
        if self._pid is None and self._segment:
            self._segment.clear()
            raise CutError("the stream tells of no program")
        yield from self._emit(len(self._segment), self._time + self._step)

    def _take(self, packet: bytes) -> Iterator[Cut]:
        if packet[0] != _SYNC:
            raise CutError("a packet does not begin with its sync byte")
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid == _PAT:
            self._tables = len(self._segment)
            self._read_pat(packet)
        elif pid == self._pmt:
            self._read_pmt(packet)
        elif pid == self._pid and packet[1] & 0x40:
            yield from self._picture(packet)
        if len(self._segment) >= self._max_bytes:
            yield from self._emit(len(self._segment), self._time)
        self._segment += packet
        self._before += PACKET
        if self._pid is None and self._before > _UNTOLD_BYTES:
            raise CutError("the stream tells of no program")

    def _picture(self, packet: bytes) -> Iterator[Cut]:
        """A frame begins here: does a segment too?"""
        key = not self._has_video or _random_access(packet)
        now = self._moved(_timestamp(packet))
        length = (now - self._start) / _HZ
        tables, self._tables = self._tables, None
        if not self._begun:
            self._begun, self._start = True, now
        elif key and length + 1e-3 >= self.target_seconds:
            yield from self._emit(len(self._segment) if tables is None else tables, now)
        elif length >= self._longest:
            yield from self._emit(len(self._segment), now)

    def _moved(self, stamp: int | None) -> int:
        """The time line of the whole stream in ticks, whatever the 33 bits of its stamps do."""
        if stamp is None:
            return self._time
        if self._last is not None:
            step = (stamp - self._last + _WRAP // 2) % _WRAP - _WRAP // 2
            if 0 < step <= 10 * _HZ:
                self._step, self._time = step, self._time + step
            elif step:
                # The encoder began again: its clock tells nothing of the time between.
                self._time += self._step
        self._last = stamp
        return self._time

    def _emit(self, end: int, now: int) -> Iterator[Cut]:
        if not end:
            return
        data = bytes(self._segment[:end])
        del self._segment[:end]
        start, self._start = self._start, now
        yield Cut("media", data, max(0, round((now - start) * 1000 / _HZ)), round(start * 1000 / _HZ))

    def _read_pat(self, packet: bytes) -> None:
        section = self._section(_PAT, packet)
        for at in range(8, len(section) - 4, 4):
            if section[at] << 8 | section[at + 1]:
                self._pmt = (section[at + 2] & 0x1F) << 8 | section[at + 3]
                return

    def _read_pmt(self, packet: bytes) -> None:
        section = self._section(self._pmt or 0, packet)
        if len(section) < 16:
            return
        at = 12 + ((section[10] & 0x0F) << 8 | section[11])
        streams: list[tuple[int, int]] = []
        while at + 5 <= len(section) - 4:
            streams.append((section[at], (section[at + 1] & 0x1F) << 8 | section[at + 2]))
            at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
        video = [pid for kind, pid in streams if kind in _VIDEO]
        self._has_video = bool(video)
        if streams:
            self._pid = video[0] if video else streams[0][1]

    def _section(self, pid: int, packet: bytes) -> bytes:
        """The table section that ends in this packet, or nothing."""
        payload = _payload(packet)
        if packet[1] & 0x40:
            self._sections[pid] = bytearray(payload[1 + payload[0] :] if payload else b"")
        elif pid in self._sections:
            self._sections[pid] += payload
        section = self._sections.get(pid, bytearray())
        if len(section) < 3:
            return b""
        length = 3 + ((section[1] & 0x0F) << 8 | section[2])
        if len(section) < min(length, _MAX_SECTION):
            return b""
        del self._sections[pid]
        return bytes(section[:length])


def _payload(packet: bytes) -> bytes:
    if not packet[3] & 0x10:
        return b""
    return packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]


def _random_access(packet: bytes) -> bool:
    return bool(packet[3] & 0x20 and packet[4] and packet[5] & 0x40)


def _timestamp(packet: bytes) -> int | None:
    """The decoding time of the frame that begins in this packet, else its presentation time, in ticks of 90 kHz."""
    pes = _payload(packet)
    if len(pes) < 14 or pes[:3] != b"\x00\x00\x01":
        return None
    told = pes[7] >> 6
    if told == 2:
        at = 9
    elif told == 3 and len(pes) >= 19:
        at = 14
    else:
        return None
    a, b, c, d, e = pes[at : at + 5]
    return (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
