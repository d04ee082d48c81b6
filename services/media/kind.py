"""What a file is, by its first bytes."""

from __future__ import annotations

_TS_PACKET = 188
_BEGINNINGS = (
    (b"\x1aE\xdf\xa3", "mkv"),
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"%PDF-", "pdf"),
    (b"ID3", "mp3"),
    (b"\xff\xfb", "mp3"),
    (b"\xff\xf3", "mp3"),
)
_PICTURES = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"mif1",
    b"msf1",
    b"avif",
    b"avis",
    b"crx ",
    b"jp2 ",
}
"""Brands of what is laid out as a movie and is none."""
_PACKETS = 5
_RIFFS = {b"AVI ": "avi", b"WAVE": "wav"}


def kind_of(head: bytes) -> str:
    """The extension of such a file; `bin` for whatever is not known."""
    if head[4:8] == b"ftyp":
        if head[8:12] in _PICTURES:
            return "bin"
        return "mov" if head[8:12] == b"qt  " else "mp4"
    if len(head) > _TS_PACKET and set(head[: _PACKETS * _TS_PACKET : _TS_PACKET]) == {ord("G")}:
        return "ts"
    if head[:4] == b"RIFF":
        return _RIFFS.get(head[8:12], "bin")
    return next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), "bin")
