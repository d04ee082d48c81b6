"""What the two protocols of resumable uploads say, in words that both share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from fastapi.responses import Response

from services.api.errors import ApiError, UploadTooLarge, UploadUnsaid
from services.api.recordings.doors import limits
from services.api.recordings.models import Upload

Headers = Mapping[str, str]
MOST = {"max-size": limits.UPLOAD_BYTES}
_NUMBER = re.compile(r"[0-9]{1,15}")
_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class New:
    """What is to come. `body`: some of it comes with the request."""

    length: int | None
    body: bool
    kind: str = "single"
    parts: list[UUID] | None = None
    file_name: str | None = None
    content_type: str | None = None
    metadata: str | None = None
    file: UUID | None = None
    """The single file that these are the bytes of."""
    handover: UUID | None = None
    """Of an import: who handed it over."""


@dataclass(frozen=True)
class Checksum:
    algorithm: str
    digest: bytes


@dataclass(frozen=True)
class Added:
    """A piece that comes. `complete`: its client says that it is the last."""

    offset: int
    length: int | None = None
    complete: bool = False
    checksum: Checksum | None = None


class Speech(Protocol):
    """Raises UploadUnsaid and others for what a request does not say rightly."""

    by_length: bool

    def new(self, headers: Headers, query: Headers, token: str) -> New: ...

    def with_new(self, headers: Headers) -> Added:
        """The piece that comes with a new upload."""

    def added(self, headers: Headers) -> Added: ...

    def created(self, upload: Upload, where: str) -> Response: ...

    def appended(self, upload: Upload) -> Response: ...

    def state(self, upload: Upload, token: str) -> Response: ...

    def refused(self, error: ApiError) -> Response: ...

    def every(self) -> dict[str, str]:
        """The headers of every answer."""

    def interim(self, headers: dict[str, str]) -> dict[str, str] | None:
        """The headers of a 104; None where the client knows none."""


def number(headers: Headers, name: str) -> int | None:
    """Raises UploadUnsaid."""
    value = headers.get(name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value.strip()):
        raise UploadUnsaid(name)
    return int(value)


def length_of(headers: Headers) -> int | None:
    """Raises UploadUnsaid, UploadTooLarge."""
    length = number(headers, "upload-length")
    if length is not None and length > limits.UPLOAD_BYTES:
        raise UploadTooLarge
    return length


def id_of(told: str | None, name: str) -> UUID | None:
    """Raises UploadUnsaid."""
    try:
        return UUID(told) if told else None
    except ValueError as error:
        raise UploadUnsaid(name) from error


def shown(text: str, most: int = 255) -> str | None:
    """A name as it may be shown: no control characters, nothing that turns the direction of text."""
    return _SHOWN.sub("", text)[:most] or None


def has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
