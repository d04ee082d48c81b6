"""What a single file is, told by its content and by nothing else. Pure.

type_of(data)  ->  "jpg", "pdf", "txt", …, or None for what is none of those that are taken
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator

_BEGINNINGS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"%PDF-", "pdf"),
    (b"OggS", "ogg"),
    (b"#!AMR\n", "amr"),
    (b"#!AMR-WB\n", "amr"),
)
_RIFFS = {b"WAVE": "wav", b"WEBP": "webp"}
_HEIF = {b"heic", b"heix", b"heim", b"heis"}
_UNWRITTEN = frozenset(range(32)) - {0x09, 0x0A, 0x0C, 0x0D}
_ENTRIES_BYTES = 1024 * 1024
"""Of a ZIP's list of what is in it."""
_JSON_BYTES = 16 * 1024 * 1024
_TABLE_LINES, _TABLE_CHARACTERS = 50, 65536


def type_of(data: bytes) -> str | None:
    """The extension of such a file."""
    if data[4:8] == b"ftyp":
        return _of_boxes(data)
    if data[:4] in (b"RIFF", b"RF64"):
        return _RIFFS.get(data[8:12])
    if data[:4] == b"PK\x03\x04":
        return _of_zip(data)
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    return "mp3" if _is_mp3(data) else _of_text(data)


def _of_boxes(data: bytes) -> str | None:
    """A HEIF picture, or an MPEG-4 file with sound and no picture."""
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4], "big"), 256), 4)}
    if data[8:12] in _HEIF or (data[8:12] == b"mif1" and brands & _HEIF):
        return "heic"
    for kind, start, end in _boxes(data):
        if kind == b"moov":
            handlers = {data[at + 12 : at + 16] for at in _places(data, b"hdlr", start, end)}
            return "m4a" if b"soun" in handlers and b"vide" not in handlers else None
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        end = len(data) if size == 0 else at + size
        if not at + 8 <= end <= len(data):
            return
        yield data[at + 4 : at + 8], at, end
        at = end


def _places(data: bytes, word: bytes, start: int, end: int) -> Iterator[int]:
    while (start := data.find(word, start, end)) >= 0:
        yield start
        start += len(word)


def _of_zip(data: bytes) -> str | None:
    end = data.rfind(b"PK\x05\x06")
    listed = int.from_bytes(data[end + 12 : end + 16], "little")
    # A list of any length would be unpacked into memory; the 64-bit form of it no document needs.
    if end < 0 or listed > _ENTRIES_BYTES or data[max(0, end - 20) : end].startswith(b"PK\x06\x07"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            names = set(opened.namelist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError):
        return None
    if "OFD.xml" in names:
        return "ofd"
    return "docx" if {"[Content_Types].xml", "word/document.xml"} <= names else None


def _is_mp3(data: bytes) -> bool:
    """A frame of MPEG audio layer III, behind a tag or not, and another one where it ends."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        while at < len(data) and data[at] == 0:
            at += 1
    size = _mp3_frame(data[at : at + 4])
    return size is not None and (at + size >= len(data) or _mp3_frame(data[at + size : at + size + 4]) is not None)


_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mp3_frame(head: bytes) -> int | None:
    """Its length in bytes; None where no frame begins."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, bits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return None
    samples = 144_000 if version == 3 else 72_000
    return samples * _KBITS[version == 3][bits - 1] // _RATES[version][rate] + (head[2] >> 1 & 1)


def _of_text(data: bytes) -> str | None:
    if _UNWRITTEN & set(data) and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "gb18030"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if "\x00" in text else "json" if _is_json(text) else "csv" if _is_table(text) else "txt"
    return None


def _is_json(text: str) -> bool:
    if len(text) > _JSON_BYTES or not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_table(text: str) -> bool:
    """Lines of as many fields each, two of both at the least."""
    lines = [line for line in text[:_TABLE_CHARACTERS].splitlines() if line.strip()]
    # The last may be cut off.
    lines = lines[: _TABLE_LINES if len(text) <= _TABLE_CHARACTERS else min(_TABLE_LINES, len(lines) - 1)]
    for delimiter in ",;\t":
        try:
            widths = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        except csv.Error:
            continue
        if len(lines) > 1 and len(widths) == 1 and widths.pop() > 1:
            return True
    return False
