"""tus 1.0.0 with creation, creation-with-upload, creation-defer-length, checksum, expiration, termination and
concatenation."""

from __future__ import annotations

import base64
import binascii
import hashlib
from email.utils import format_datetime
from urllib.parse import urlsplit
from uuid import UUID

from fastapi.responses import Response

from services.api import problems
from services.api.errors import (
    ApiError,
    ChecksumDiffers,
    PartsUnfit,
    UploadProtocol,
    UploadTypeUnknown,
    UploadUnsaid,
)
from services.api.recordings.doors import limits
from services.api.recordings.doors.speech import (
    Added,
    Checksum,
    Headers,
    New,
    has_body,
    id_of,
    length_of,
    number,
    shown,
)
from services.api.recordings.models import Upload

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation"
ALGORITHMS = {"sha1": 20, "sha256": 32}
_PIECE = "application/offset+octet-stream"
ABILITIES = {
    "tus-resumable": VERSION,
    "tus-version": VERSION,
    "tus-extension": EXTENSIONS,
    "tus-max-size": str(limits.UPLOAD_BYTES),
    "tus-checksum-algorithm": ",".join(ALGORITHMS),
}


class Tus:
    by_length = True

    def new(self, headers: Headers, query: Headers, token: str) -> New:
        metadata = headers.get("upload-metadata", "")
        told = _metadata(metadata)
        kind, parts = _concat(headers.get("upload-concat"), token)
        length, deferred = length_of(headers), headers.get("upload-defer-length")
        if deferred not in (None, "1") or (kind != "final" and (length is None) != (deferred == "1")):
            raise UploadUnsaid("upload-length")
        if kind == "final" and (length is not None or deferred):
            raise UploadUnsaid("upload-length")
        body = has_body(headers)
        if body and headers.get("content-type") != _PIECE:
            raise UploadTypeUnknown
        if body and kind == "final":
            raise UploadUnsaid("upload-concat")
        return New(
            length=length,
            body=body,
            kind=kind,
            parts=parts,
            file_name=shown(told.get("filename") or told.get("name") or ""),
            content_type=shown(told.get("filetype") or told.get("type") or ""),
            metadata=metadata or None,
            file=id_of(told.get("file"), "upload-metadata"),
            handover=id_of(told.get("handover"), "upload-metadata"),
        )

    def with_new(self, headers: Headers) -> Added:
        return Added(0, checksum=_checksum(headers))

    def added(self, headers: Headers) -> Added:
        if headers.get("content-type") != _PIECE:
            raise UploadTypeUnknown
        offset = number(headers, "upload-offset")
        if offset is None:
            raise UploadUnsaid("upload-offset")
        return Added(offset, length_of(headers), checksum=_checksum(headers))

    def created(self, upload: Upload, where: str) -> Response:
        headers = {"location": where, "upload-offset": str(upload.received), **_expiry(upload)}
        if upload.kind == "final":
            del headers["upload-offset"]
        return Response(status_code=201, headers=headers)

    def appended(self, upload: Upload) -> Response:
        return Response(status_code=204, headers={"upload-offset": str(upload.received), **_expiry(upload)})

    def state(self, upload: Upload, token: str) -> Response:
        headers = {"cache-control": "no-store", **_expiry(upload)}
        if upload.kind != "final" or upload.state == "complete":
            headers["upload-offset"] = str(upload.received)
        if upload.length is None:
            headers["upload-defer-length"] = "1"
        else:
            headers["upload-length"] = str(upload.length)
        if upload.kind == "partial":
            headers["upload-concat"] = "partial"
        elif upload.kind == "final":
            headers["upload-concat"] = "final;" + " ".join(f"/v1/uploads/{token}/{one}" for one in upload.parts or [])
        if upload.metadata_:
            headers["upload-metadata"] = upload.metadata_
        return Response(status_code=200, headers=headers)

    def refused(self, error: ApiError) -> Response:
        response = problems.of(error)
        if isinstance(error, UploadProtocol):
            response.headers["tus-version"] = VERSION
        if "offset" in error.extra:
            response.headers["upload-offset"] = str(error.extra["offset"])
        return response

    def every(self) -> dict[str, str]:
        return {"tus-resumable": VERSION}

    def interim(self, headers: dict[str, str]) -> dict[str, str] | None:
        return None


def require_checksum(checksum: Checksum, data: bytes) -> None:
    """Raises ChecksumDiffers."""
    if hashlib.new(checksum.algorithm, data, usedforsecurity=False).digest() != checksum.digest:
        raise ChecksumDiffers


def _checksum(headers: Headers) -> Checksum | None:
    told = headers.get("upload-checksum")
    if told is None:
        return None
    algorithm, _, encoded = told.partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != ALGORITHMS.get(algorithm, -1):
        raise UploadUnsaid("upload-checksum")
    return Checksum(algorithm, digest)


def _metadata(text: str) -> dict[str, str]:
    if len(text) > limits.METADATA_CHARACTERS:
        raise UploadUnsaid("upload-metadata")
    told: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, _, encoded = pair.strip().partition(" ")
        if not key or not key.isascii() or key in told:
            raise UploadUnsaid("upload-metadata")
        try:
            told[key] = base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "replace")
        except binascii.Error as error:
            raise UploadUnsaid("upload-metadata") from error
    return told


def _concat(told: str | None, token: str) -> tuple[str, list[UUID] | None]:
    if told in (None, "partial"):
        return ("partial" if told else "single"), None
    assert told is not None
    kind, _, listed = told.partition(";")
    places = listed.split()
    if kind != "final" or not 1 <= len(places) <= limits.PARTS:
        raise UploadUnsaid("upload-concat")
    parts = []
    for place in places:
        folder, _, name = urlsplit(place).path.rpartition("/")
        try:
            parts.append(UUID(name))
        except ValueError:
            raise PartsUnfit from None
        if folder != f"/v1/uploads/{token}":
            raise PartsUnfit
    return "final", parts


def _expiry(upload: Upload) -> dict[str, str]:
    return {"upload-expires": format_datetime(upload.expires_at, usegmt=True)} if upload.state == "open" else {}
