"""What each kind of single file may be, and how large: one table; and how each type leaves this system. Pure."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import exifread

from services.api.recordings.doors import limits

_PICTURES = frozenset({"jpg", "png", "heic", "webp"})
_TEXTS = frozenset({"txt", "csv", "json"})


@dataclass(frozen=True)
class Kind:
    bytes: int
    formats: frozenset[str]
    named: str
    """What it may be, as a person is told."""


KINDS: Final = {
    "photo": Kind(limits.PHOTO_BYTES, _PICTURES, "照片须为 JPEG、PNG、HEIC 或 WebP"),
    "sound": Kind(
        limits.SOUND_BYTES,
        frozenset({"wav", "mp3", "m4a", "ogg", "amr"}),
        "录音须为 WAV、MP3、M4A、OGG/Opus 或 AMR",
    ),
    "document": Kind(
        limits.DOCUMENT_BYTES,
        _PICTURES | _TEXTS | {"pdf", "ofd", "docx"},
        "文档须为 PDF、OFD、DOCX、纯文本或图片",
    ),
    "result": Kind(limits.RESULT_BYTES, _PICTURES | _TEXTS | {"pdf"}, "检测结果须为 PDF、图片、JSON、CSV 或纯文本"),
}
TYPES: Final = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "heic": "image/heic",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "ogg": "audio/ogg",
    "amr": "audio/amr",
    "pdf": "application/pdf",
    "ofd": "application/ofd",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "txt": "text/plain",
    "csv": "text/csv",
    "json": "application/json",
}
Shown = Literal["photo", "sound", "pdf"]
SHOWN: Final[dict[str, Shown]] = {
    "jpg": "photo",
    "png": "photo",
    "webp": "photo",
    "wav": "sound",
    "mp3": "sound",
    "m4a": "sound",
    "ogg": "sound",
    "pdf": "pdf",
}
"""What a browser shows by itself; everything else is only ever handed out to be kept."""


def exif_time(data: bytes) -> str | None:
    """`2026-11-24 10:20:30+08:00`, or without a zone where the camera told none; None where there is no such time."""
    # What a stranger's photo has inside may break its reader in any way; then it has told nothing.
    with suppress(Exception):
        tags = exifread.process_file(io.BytesIO(data), details=False)
        day, _, clock = str(tags["EXIF DateTimeOriginal"]).strip().partition(" ")
        told = f"{day.replace(':', '-')} {clock}"
        zone = str(tags.get("EXIF OffsetTimeOriginal", "")).strip()
        return told + zone if _is_time(told, zone) else None
    return None


def _is_time(told: str, zone: str) -> bool:
    return len(told) == 19 and datetime.fromisoformat(told + zone) is not None
