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
_RIFFS = {b"AVI ": "avi", b"WAVE": "wav"}


def kind_of(head: bytes) -> str:
    """The extension of such a file; `bin` for whatever is not known."""
    if head[4:8] == b"ftyp":
        return "mov" if head[8:12] == b"qt  " else "mp4"
    if head[:1] == b"G" and head[_TS_PACKET : _TS_PACKET + 1] == b"G":
        return "ts"
    if head[:4] == b"RIFF":
        return _RIFFS.get(head[8:12], "bin")
    return next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), "bin")
