"""What a single file is, told by its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.recordings.files.facts import facts_of
from services.api.recordings.files.kinds import KINDS, TYPES, exif_time
from services.api.recordings.worth import TABLE, worth_of
from services.media.single import type_of
from tests.flows.files import RESULT, made, packed, pdf, photo, sound, with_exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pictures_that_ffmpeg_writes(tmp_path: Path, suffix: str) -> None:
    assert type_of(photo(tmp_path, suffix=suffix)) == suffix


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("wav", ()), ("mp3", ()), ("m4a", ()), ("ogg", ("-c:a", "libopus")), ("mp3", ("-id3v2_version", "0"))],
)
def test_sound_that_ffmpeg_writes(tmp_path: Path, suffix: str, options: tuple[str, ...]) -> None:
    assert type_of(sound(tmp_path, suffix, *options)) == suffix


def test_a_film_is_no_sound_and_no_photo(tmp_path: Path) -> None:
    film = made(tmp_path, "film.mp4", "testsrc=size=64x64:duration=1", "-f", "lavfi", "-i", "sine=duration=1")
    assert type_of(film) is None


def _heif(major: bytes, *more: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(more)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x08meta"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (_heif(b"heic", b"mif1"), "heic"),
        (_heif(b"mif1", b"heic"), "heic"),
        (_heif(b"avif", b"mif1"), None),
        (b"\0\0\0\x10ftypM4A \0\0\0\0", None),
        (b"#!AMR\n\x3c", "amr"),
        (b"#!AMR-WB\n\x3c", "amr"),
        (pdf(), "pdf"),
        (packed("OFD.xml", "Doc_0/Document.xml"), "ofd"),
        (packed("[Content_Types].xml", "word/document.xml"), "docx"),
        (packed("word/document.xml"), None),
        (packed("evil.exe"), None),
        (b"PK\x03\x04" + b"x" * 40, None),
        ("检测合格\r\n".encode(), "txt"),
        ("检测合格".encode("gb18030"), "txt"),
        ("检测合格".encode("utf-16"), "txt"),
        (b"<svg onload='alert(1)'></svg>", "txt"),
        (b'{"reading": 1.87}', "json"),
        (b'{"reading": ', "txt"),
        (b"[" * 100_000, "txt"),
        (b"time,reading\n09:30,1.87\n09:31,1.90\n", "csv"),
        (b"one line, of text", "txt"),
        (b"a,b\n1\n", "txt"),
        (b"MZ\x90\x00", None),
        (b"\x7fELF\x02", None),
        (b"text\x00with a zero", None),
        (b"\xff\xfb\x90\x00" + b"\xaa" * 5000, None),
        (b"", "txt"),
    ],
)
def test_everything_else(data: bytes, found: str | None) -> None:
    assert type_of(data) == found


def test_a_list_that_would_fill_memory_is_not_unpacked() -> None:
    names = [f"{n:0200}" for n in range(5000)]
    assert type_of(packed("OFD.xml", *names[:3000])) == "ofd"
    assert type_of(packed("OFD.xml", *names)) is None
    forged = bytearray(packed("OFD.xml"))
    end = forged.rfind(b"PK\x05\x06")
    assert type_of(bytes(forged[:end]) + b"PK\x06\x07" + bytes(16) + bytes(forged[end:])) is None


@given(st.binary(max_size=400), st.sampled_from([b"", b"RIFF", b"PK\x03\x04", b"ID3", b"\0\0\0\x18ftypM4A "]))
def test_nothing_breaks_it(data: bytes, beginning: bytes) -> None:
    found = type_of(beginning + data)
    assert found is None or found in TYPES


@given(st.binary(max_size=400))
def test_nothing_breaks_the_reader_of_exif(data: bytes) -> None:
    exif_time(b"\xff\xd8\xff\xe1\x01\x90Exif\0\0MM\0*" + data)


def test_when_a_photo_says_that_it_was_taken(tmp_path: Path) -> None:
    jpeg = photo(tmp_path)
    assert exif_time(jpeg) is None
    assert exif_time(with_exif(jpeg)) == "2026-11-24 10:20:30+08:00"
    assert exif_time(with_exif(jpeg, zone="")) == "2026-11-24 10:20:30"
    assert exif_time(with_exif(jpeg, taken="0000:00:00 00:00:00")) is None
    assert exif_time(with_exif(jpeg, zone="<script>")) is None


def test_every_format_of_every_kind_has_its_type() -> None:
    assert {one for kind in KINDS.values() for one in kind.formats} == set(TYPES)


@pytest.mark.parametrize(
    ("measured", "facts"),
    [
        ("2026-12-31T15:59:59Z", []),
        ("2026-12-31T16:00:00Z", ["certificate-expired"]),
        ("2026-12-31T23:59:59+08:00", []),
        ("2027-01-01T00:00:00+08:00", ["certificate-expired"]),
    ],
)
def test_a_certificate_holds_until_the_end_of_its_last_day_here(measured: str, facts: list[str]) -> None:
    assert facts_of(json.loads(json.dumps(RESULT)) | {"measured_at": measured}) == facts


def test_what_each_way_in_is_worth() -> None:
    ways = {
        "device-signed": worth_of("direct", "recorder", signed=True),
        "dock-signed": worth_of("direct", "recorder", signed=True, taken_over=True),
        "imported": worth_of("resumable", "hall-camera", handed_over=True),
        "remuxed": worth_of("push", "gateway", remuxed=True),
        "address-push": worth_of("push", "encoder"),
        "address-upload": worth_of("resumable", "phone"),
        "address-file": worth_of("simple", "phone"),
        "instrument-file": worth_of("simple", "instrument"),
        "person-file": worth_of("simple", None),
    }
    assert {slug: worth.slug for slug, worth in ways.items()} == {slug: slug for slug in TABLE}
    assert worth_of("push", "hall-camera", remuxed=True, handed_over=True).slug == "imported"
