"""Single files as devices make them, and clients that bring them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from uuid_utils.compat import uuid7

from services.terminal.capture import find_ffmpeg

PHOTO = {"kind": "photo", "title": "超限车辆侧面"}
RESULT = {
    "kind": "result",
    "title": "尾气检测",
    "instrument": "不透光烟度计",
    "instrument_number": "YD-2031",
    "certificate": "JZ-2026-0117",
    "certificate_expires_on": "2026-12-31",
    "reading": "1.87",
    "reading_unit": "m⁻¹",
    "measured_at": "2026-11-20T09:30:00+08:00",
}
TAKEN = "2026:11:24 10:20:30"


def made(folder: Path, name: str, *options: str) -> bytes:
    """What ffmpeg writes under this name."""
    path = folder / name
    argv = [find_ffmpeg(None), "-v", "error", "-y", "-f", "lavfi", "-i"]
    subprocess.run([*argv, *options, str(path)], check=True, timeout=60)
    return path.read_bytes()


def photo(folder: Path, seed: int = 0, suffix: str = "jpg") -> bytes:
    picture = f"testsrc=size=320x180,noise=alls=20:all_seed={seed}"
    return made(folder, f"photo-{seed}.{suffix}", picture, "-frames:v", "1")


def sound(folder: Path, suffix: str, *options: str) -> bytes:
    return made(folder, f"sound.{suffix}", "sine=sample_rate=8000:duration=1", *options)


def with_exif(jpeg: bytes, taken: str = TAKEN, zone: str = "+08:00") -> bytes:
    """The photo as a camera with a clock writes it."""

    def text(value: str) -> bytes:
        return value.encode() + b"\0"

    entries, values = [], b""
    at = 26 + 2 + 2 * 12 + 4
    for tag, value in ((0x9003, text(taken)), (0x9011, text(zone))):
        entries.append(struct.pack(">HHII", tag, 2, len(value), at + len(values)))
        values += value
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHII", 0x8769, 4, 1, 26) + bytes(4)
    tiff += struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4) + values
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def packed(*names: str) -> bytes:
    """A ZIP with these in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        for name in names:
            opened.writestr(name, "<x/>")
    return out.getvalue()


def pdf(words: str = "seal") -> bytes:
    """A page that a reader opens."""
    stream = f"BT /F1 24 Tf 40 100 Td ({words}) Tj ET".encode()
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + table
    return out + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % start


def new_id() -> str:
    return str(uuid7())


def query(about: dict[str, Any]) -> str:
    return "?" + urlencode(about)


def put(
    client: httpx.Client, base: str, file: str, about: dict[str, Any] | None, data: Any, **headers: str
) -> httpx.Response:
    """The bytes as a body, with what they are in the query."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(f"{base}/{file}{query(about) if about else ''}", content=data, headers=said)


def form(about: Any, data: bytes, name: str = "现场.jpg", boundary: str = "xxBOUNDARYxx") -> tuple[bytes, str]:
    """A form as curl sends it, and its content type."""
    told = about if isinstance(about, bytes) else json.dumps(about).encode()
    parts = [
        b'Content-Disposition: form-data; name="metadata"\r\nContent-Type: application/json\r\n\r\n' + told,
        f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data,
    ]
    return joined(parts, boundary), f"multipart/form-data; boundary={boundary}"


def joined(parts: list[bytes], boundary: str = "xxBOUNDARYxx") -> bytes:
    mark = b"--" + boundary.encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_header(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"
