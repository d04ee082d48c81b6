"""Resumable uploads of the IETF: interop versions 6 (iOS 18) and 8, and the newest draft, which names none."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import Message
from typing import Any

from fastapi.responses import JSONResponse, Response

from services.api import problems
from services.api.errors import (
    ApiError,
    UploadComplete,
    UploadElsewhere,
    UploadLengthDiffers,
    UploadProtocol,
    UploadTooLarge,
    UploadTypeUnknown,
    UploadUnsaid,
)
from services.api.recordings.doors import limits
from services.api.recordings.doors.speech import Added, Headers, New, has_body, id_of, length_of, number, shown
from services.api.recordings.models import Upload

VERSIONS = ("6", "8")
INTEROP = "upload-draft-interop-version"
PIECE = "application/partial-upload"
_TYPES = "https://iana.org/assignments/http-problem-types#"
_PROBLEMS: dict[type[ApiError], str] = {
    UploadElsewhere: "mismatching-upload-offset",
    UploadLengthDiffers: "inconsistent-upload-length",
    UploadComplete: "completed-upload",
}


class Draft:
    by_length = False

    def __init__(self, version: str | None):
        """Raises UploadProtocol."""
        if version is not None and version not in VERSIONS:
            raise UploadProtocol(f"{INTEROP}: {version}")
        self._version = version

    def new(self, headers: Headers, query: Headers, token: str) -> New:
        told, length = self.with_new(headers), length_of(headers)
        disposition = Message()
        disposition["content-disposition"] = headers.get("content-disposition", "")
        return New(
            length=length if told.length is None else told.length,
            body=has_body(headers) or told.complete,
            file_name=shown(_utf8(disposition.get_filename() or "")),
            content_type=shown(headers.get("content-type", "")),
            file=id_of(query.get("file"), "file"),
            handover=id_of(query.get("handover"), "handover"),
        )

    def with_new(self, headers: Headers) -> Added:
        complete = _complete(headers)
        return Added(0, _length(headers, 0, complete=complete), complete)

    def added(self, headers: Headers) -> Added:
        if headers.get("content-type") != PIECE:
            raise UploadTypeUnknown
        offset, complete = number(headers, "upload-offset"), _complete(headers)
        if offset is None:
            raise UploadUnsaid("upload-offset")
        return Added(offset, _length(headers, offset, complete=complete), complete)

    def created(self, upload: Upload, where: str) -> Response:
        headers = {"location": where, **self._state(upload)}
        return JSONResponse({"recording": str(upload.id) if upload.segments else None}, 201, headers)

    def appended(self, upload: Upload) -> Response:
        if upload.state != "complete":
            return Response(status_code=204, headers=self._state(upload))
        return JSONResponse(
            {"recording": str(upload.id) if upload.segments else None}, 200, headers=self._state(upload)
        )

    def state(self, upload: Upload, token: str) -> Response:
        headers = {"cache-control": "no-store", **self._state(upload)}
        if upload.length is not None:
            headers["upload-length"] = str(upload.length)
        return Response(status_code=204, headers=headers)

    def refused(self, error: ApiError) -> Response:
        if kind := _PROBLEMS.get(type(error)):
            error.extra["type"] = _TYPES + kind
        if isinstance(error, UploadElsewhere):
            error.extra |= {"expected-offset": error.extra["offset"], "provided-offset": error.extra["given"]}
        response = problems.of(error)
        if isinstance(error, UploadElsewhere):
            response.headers["upload-offset"] = str(error.extra["offset"])
            response.headers["upload-complete"] = "?0"
        if isinstance(error, UploadTooLarge):
            response.headers["upload-limit"] = f"max-size={limits.UPLOAD_BYTES}"
        return response

    def every(self) -> dict[str, str]:
        return {INTEROP: self._version} if self._version else {}

    def interim(self, headers: dict[str, str]) -> dict[str, str] | None:
        return {**self.every(), **headers}

    def limit(self, upload: Upload) -> str:
        left = int((upload.expires_at - datetime.now(UTC)).total_seconds())
        age = "expires" if self._version == "6" else "max-age"
        return f"max-size={limits.UPLOAD_BYTES}, {age}={max(left, 0)}"

    def _state(self, upload: Upload) -> dict[str, str]:
        complete = upload.state == "complete"
        limit = {} if complete else {"upload-limit": self.limit(upload)}
        return {"upload-offset": str(upload.received), "upload-complete": "?1" if complete else "?0", **limit}


def _complete(headers: Headers) -> bool:
    said = headers.get("upload-complete", "").strip()
    if said not in ("?0", "?1"):
        raise UploadUnsaid("upload-complete")
    return said == "?1"


def _length(headers: Headers, offset: int, *, complete: bool) -> int | None:
    """Said, or what follows from the length of a request that brings the rest. Raises UploadLengthDiffers."""
    said, rest = length_of(headers), number(headers, "content-length")
    if not complete or (rest is None and has_body(headers)):
        return said
    follows = offset + (rest or 0)
    if said not in (None, follows):
        raise UploadLengthDiffers
    if follows > limits.UPLOAD_BYTES:
        raise UploadTooLarge
    return follows


def _utf8(name: Any) -> str:
    """What came in a header as UTF-8 was read as Latin-1."""
    try:
        return str(name).encode("latin-1").decode()
    except UnicodeError:
        return str(name)
