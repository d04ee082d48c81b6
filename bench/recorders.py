"""Recorders of 4 Mbit/s that put a segment of two seconds each two seconds, in a process of its own.

    python -m bench.recorders SECONDS FOLDER RUN URL…   # a JSON object: how many segments, how many late or refused

Each begins at a time of its own within the two seconds, so that they spread as real ones do. A segment is late where
it is not answered before the next is due.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

PERIOD = 2.0
SEGMENT_BYTES = 1_000_000
"""4 Mbit/s."""


TIMESCALE = 10_240


@dataclass
class Told:
    put: int = 0
    late: int = 0
    refused: int = 0
    slowest: float = 0.0
    answers: set[int] = field(default_factory=set)


async def recorder(url: str, place: float, until: float, kept: tuple[bytes, bytes], number: int, told: Told) -> None:
    """One of them, over one connection; its segments are numbered from there on."""
    init, segment = kept
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    due = place
    names = [("init.mp4", init)]
    while due < until:
        await asyncio.sleep(max(0.0, due - loop.time()))
        number += 1
        for name, data in (*names, (f"{number:06d}.m4s", stamped(segment, number))):
            head = f"PUT {parts.path}{name} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode())
            writer.write(data)
            await writer.drain()
            status = await answer(reader)
            told.answers.add(status)
            told.refused += status >= 300
        names = []
        took = loop.time() - due
        told.put += 1
        told.late += took > PERIOD
        told.slowest = max(told.slowest, took)
        due += PERIOD
    writer.close()


async def answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


def stamped(segment: bytes, number: int) -> bytes:
    """The segment at its place on the media's time line (`tfdt`, 64 bits), so that no two are alike."""
    at = segment.index(b"tfdt", 0, 4096) + 8
    ticks = int(number * PERIOD * TIMESCALE)
    return segment[:at] + ticks.to_bytes(8, "big") + segment[at + 8 :]


async def main(seconds: float, folder: Path, run: int, urls: list[str]) -> Told:
    kept = (folder / "init.mp4").read_bytes(), (folder / "segment.m4s").read_bytes()
    told = Told()
    began = asyncio.get_running_loop().time() + 0.5
    places = [began + PERIOD * number / len(urls) for number in range(len(urls))]
    each = [
        recorder(url, place, began + seconds, kept, run * 2000, told) for url, place in zip(urls, places, strict=True)
    ]
    for done in await asyncio.gather(*each, return_exceptions=True):
        if isinstance(done, Exception):
            told.refused += 1
    return told


if __name__ == "__main__":
    found = asyncio.run(main(float(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
    print(json.dumps({"put": found.put, "late": found.late, "refused": found.refused, "slowest": found.slowest}))
