"""Where tiles and entries lie, and how entries are packed (C2SP tlog-tiles). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

WIDTH = 256
MAX_ENTRY_BYTES = 0xFFFF
PATH = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/)*[0-9]{3}(\.p/([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?"
)
"""Every path a tile or an entry bundle can have; nothing else is looked for in the store."""


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """Path of a tile; one of fewer than 256 hashes is partial: `tile/0/x001/234.p/17`."""
    return f"tile/{level}/{_numbered(number, width)}"


def entries_path(number: int, width: int = WIDTH) -> str:
    """Path of the bundle with the entries beneath the level 0 tile of the same number and width."""
    return f"tile/entries/{_numbered(number, width)}"


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Pack 1 to 256 entries of at most 65,535 bytes, each after its length (two bytes, big-endian)."""
    if not 1 <= len(entries) <= WIDTH or max(map(len, entries)) > MAX_ENTRY_BYTES:
        raise ValueError("a bundle holds 1 to 256 entries of at most 65535 bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_entries(bundle: bytes) -> list[bytes]:
    """Unpack a bundle. Raises ValueError where it is cut short, empty or too long."""
    entries, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        entry = bundle[at + 2 : at + 2 + length]
        if len(bundle) < at + 2 + length:
            raise ValueError("the bundle is cut short")
        entries.append(entry)
        at += 2 + length
    if not 1 <= len(entries) <= WIDTH:
        raise ValueError(f"the bundle holds {len(entries)} entries")
    return entries


def _numbered(number: int, width: int) -> str:
    if number < 0 or not 1 <= width <= WIDTH:
        raise ValueError(f"no tile {number} of width {width}")
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    return "/".join(reversed(groups)) + (f".p/{width}" if width < WIDTH else "")
