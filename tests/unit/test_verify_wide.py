"""Exports of more than closed recordings: what is open, series, what was disposed of, copies. Honest ones verify and
say what they are; each altered, removed or swapped part is refused and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.vault.contract import verify
from tests.unit.bundles import ID, Change, Json, edited, flip_last, one, refused
from tests.unit.test_verify_lies import altering, setting
from tests.unit.wide_bundles import (
    GONE,
    GONE_SERIES,
    OPEN,
    ORDER,
    RECEIPTS_OF_OPEN,
    RECEIPTS_OF_SERIES,
    SERIES,
    TOMBSTONE,
    TOMBSTONE_OF_SERIES,
    Wide,
)

MANIFEST_OF_GONE = f"recordings/{GONE}/manifest.dsse.json"


@pytest.fixture(scope="module")
def wide() -> Wide:
    return Wide(beside=(700,))


@pytest.fixture(scope="module")
def whole(wide: Wide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide.make(tmp_path_factory.mktemp("wide") / "whole")


@pytest.fixture
def bag(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bag"))


def test_an_honest_one_verifies_and_says_what_is_open_disposed_and_a_copy(whole: Path, wide: Wide) -> None:
    report = verify.verify_bundle(whole, wide.trusted, twice=True)
    assert (report.code, report.subject) == (0, ""), report
    assert report.recordings == [ID, GONE]
    assert (report.open, report.series) == ([OPEN], [SERIES, GONE_SERIES])
    assert set(report.disposed) == {GONE, GONE_SERIES}
    assert report.copies == [f"data/copies/{ID}.mp4"]
    english = [each for _, _, each in report.steps]
    assert any(f"4 segments of {OPEN} are not closed yet" in each for each in english)
    assert any(f"{GONE} was disposed of by order {ORDER} of two custodians on 2026-11-23" in each for each in english)
    assert any("a copy, not the record" in each for each in english)
    assert "incomplete by nature" in report.english
    assert "就其本性不完整" in report.chinese


def test_a_copy_that_could_not_be_made_is_noted_and_the_rest_verifies(tmp_path: Path) -> None:
    lacking = Wide(alter=altering("copy", setting("made", False)))
    bag = lacking.make(tmp_path / "lacking")
    (bag / f"data/copies/{ID}.mp4").unlink()
    lacking.list_and_sign(bag)
    report = verify.verify_bundle(bag, lacking.trusted)
    assert (report.code, report.copies) == (0, []), report


FILES = (
    f"data/{OPEN}.open.mp4",
    f"data/{OPEN}.open.beside/*",
    RECEIPTS_OF_OPEN,
    f"recordings/{OPEN}.open/offsets.tsv",
    f"data/series/{SERIES}/1",
    f"data/series/{SERIES}/2-*",
    RECEIPTS_OF_SERIES,
    TOMBSTONE,
    f"recordings/{GONE}/tombstone.pae",
    f"recordings/{GONE}/tombstone.sig",
    MANIFEST_OF_GONE,
    TOMBSTONE_OF_SERIES,
    f"series/{GONE_SERIES}/receipts.jsonl",
    f"data/copies/{ID}.mp4",
    f"copies/{ID}.json",
)


@pytest.mark.parametrize("pattern", FILES)
def test_a_changed_byte_is_noticed_and_the_file_named(bag: Path, wide: Wide, pattern: str) -> None:
    path = one(bag, pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(verify.verify_bundle(bag, wide.trusted), 1, path.relative_to(bag).as_posix())


@pytest.mark.parametrize("pattern", FILES)
def test_a_removed_file_is_missed_by_name(bag: Path, wide: Wide, pattern: str) -> None:
    path = one(bag, pattern)
    path.unlink()
    refused(verify.verify_bundle(bag, wide.trusted), 2, path.relative_to(bag).as_posix())


def remove(*patterns: str) -> Change:
    def change(bag: Path) -> None:
        for pattern in patterns:
            for path in bag.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def swap(first: str, second: str) -> Change:
    def change(bag: Path) -> None:
        one_, other = one(bag, first), one(bag, second)
        data = one_.read_bytes()
        one_.write_bytes(other.read_bytes())
        other.write_bytes(data)

    return change


def without_line(number: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        del lines[number]
        return b"".join(lines)

    return edit


def reversed_lines(data: bytes) -> bytes:
    return b"".join(reversed(data.splitlines(keepends=True)))


# The vault itself, or whoever has its key, lists and signs anew: what it says must still agree.
RELISTED: list[tuple[Change, int, str]] = [
    (edited(f"data/{OPEN}.open.mp4", flip_last), 1, f"data/{OPEN}.open.mp4"),
    (edited(f"data/{OPEN}.open.mp4", lambda data: data[:-5]), 2, f"data/{OPEN}.open.mp4"),
    (edited(f"data/{OPEN}.open.mp4", lambda data: data + b"x"), 1, f"data/{OPEN}.open.mp4"),
    (edited(RECEIPTS_OF_OPEN, without_line(1)), 1, f"recordings/{OPEN}.open/offsets.tsv"),
    (edited(RECEIPTS_OF_OPEN, without_line(-1)), 1, f"data/{OPEN}.open.beside/"),
    (edited(RECEIPTS_OF_OPEN, lambda data: b""), 2, RECEIPTS_OF_OPEN),
    (edited(f"recordings/{OPEN}.open/offsets.tsv", without_line(-1)), 1, RECEIPTS_OF_OPEN),
    (remove(f"data/{OPEN}.open.mp4"), 2, f"data/{OPEN}.open.mp4"),
    (remove(f"data/{OPEN}.open.beside"), 2, "data/"),
    (remove(f"data/{OPEN}.open*", f"recordings/{OPEN}.open"), 2, "proofs"),
    (edited(f"data/series/{SERIES}/3", flip_last), 1, f"data/series/{SERIES}/3"),
    (swap(f"data/series/{SERIES}/1", f"data/series/{SERIES}/3"), 1, f"data/series/{SERIES}/1"),
    (edited(RECEIPTS_OF_SERIES, reversed_lines), 1, RECEIPTS_OF_SERIES),
    (edited(RECEIPTS_OF_SERIES, without_line(0)), 1, f"data/series/{SERIES}/1"),
    (remove(f"data/series/{SERIES}/2-*"), 2, "data/series/"),
    (remove(f"data/series/{SERIES}", f"series/{SERIES}"), 2, "proofs"),
    (swap(TOMBSTONE, TOMBSTONE_OF_SERIES), 1, TOMBSTONE),
    (remove(f"recordings/{GONE}/tombstone.*"), 2, f"data/{GONE}.mp4"),
    (remove(f"recordings/{GONE}"), 2, "proofs"),
    (swap(f"recordings/{ID}/receipts.jsonl", f"recordings/{GONE}/receipts.jsonl"), 1, f"recordings/{ID}/receipts"),
    (edited(f"data/copies/{ID}.mp4", flip_last), 1, f"data/copies/{ID}.mp4"),
    (remove(f"data/copies/{ID}.mp4"), 2, f"data/copies/{ID}.mp4"),
    (remove(f"copies/{ID}.json"), 1, f"data/copies/{ID}.mp4"),
]


@pytest.mark.parametrize(("change", "code", "subject"), RELISTED)
def test_what_is_altered_and_listed_anew_is_refused_and_named(
    bag: Path, wide: Wide, change: Change, code: int, subject: str
) -> None:
    change(bag)
    wide.list_and_sign(bag)
    report = verify.verify_bundle(bag, wide.trusted)
    assert report.code == code and report.subject.startswith(subject), report


def test_media_beside_a_tombstone_are_refused(bag: Path, wide: Wide) -> None:
    (bag / f"data/{GONE}.mp4").write_bytes(b"what should be gone")
    wide.list_and_sign(bag)
    refused(verify.verify_bundle(bag, wide.trusted), 1, f"data/{GONE}.mp4")


def of(name: str, value: str, change: Callable[[Json], None]) -> Callable[[Json], None]:
    return lambda payload: change(payload) if payload.get(name) == value else None


LIES: list[tuple[str, Callable[[Json], None], int, str]] = [
    ("receipt", of("recording", OPEN, setting("recording", ID)), 1, RECEIPTS_OF_OPEN),
    ("receipt", of("recording", OPEN, setting("size", 0)), 4, RECEIPTS_OF_OPEN),
    ("receipt", of("recording", SERIES, setting("media", "media")), 1, RECEIPTS_OF_SERIES),
    ("receipt", of("recording", SERIES, setting("metadata_sha256", "0" * 64)), 1, RECEIPTS_OF_SERIES),
    ("segments", of("recording", OPEN, setting("segments", [])), 2, RECEIPTS_OF_OPEN),
    ("conflict", of("recording", OPEN, setting("sha256", [])), 2, RECEIPTS_OF_OPEN),
    ("conflict", of("recording", SERIES, setting("sha256", [])), 2, RECEIPTS_OF_SERIES),
    ("series", of("series", SERIES, setting("version", 9)), 2, RECEIPTS_OF_SERIES),
    ("series", of("series", SERIES, setting("sha256", "0" * 64)), 2, RECEIPTS_OF_SERIES),
    ("series", of("series", SERIES, setting("metadata_sha256", None)), 1, RECEIPTS_OF_SERIES),
    ("tombstone", of("recording", GONE, setting("recording", ID)), 1, TOMBSTONE),
    ("tombstone", of("recording", GONE, setting("segments", 3)), 1, TOMBSTONE),
    ("tombstone", of("recording", GONE, setting("media_bytes", 1)), 1, TOMBSTONE),
    ("tombstone", of("recording", GONE, setting("act", ORDER)), 2, TOMBSTONE),
    ("tombstone", of("recording", GONE, setting("order", ID)), 1, TOMBSTONE),
    ("disposal", of("recording", GONE, setting("recording", ID)), 1, TOMBSTONE),
    ("disposal", of("recording", GONE, setting("manifests", [])), 1, TOMBSTONE),
    ("disposal", of("recording", GONE, setting("custodians", ["1" * 64])), 3, TOMBSTONE),
    ("disposal", of("recording", GONE, setting("custodians", ["1" * 64, "1" * 64])), 3, TOMBSTONE),
    ("disposal", of("recording", GONE_SERIES, setting("manifests", ["0" * 64])), 1, TOMBSTONE_OF_SERIES),
    ("export", setting("series", []), 2, "proofs"),
    ("export", setting("series", [SERIES]), 2, "proofs"),
    ("export", setting("recordings", [ID, GONE]), 2, "proofs"),
    ("copy", setting("manifest_sha256", "0" * 64), 1, f"copies/{ID}.json"),
    ("copy", setting("copy_of", GONE), 1, f"copies/{ID}.json"),
    ("copy", setting("sha256", "0" * 64), 1, f"data/copies/{ID}.mp4"),
    ("copy", setting("size", 1), 1, f"data/copies/{ID}.mp4"),
]


@pytest.mark.parametrize(("kind", "lie", "code", "subject"), LIES)
def test_a_lie_that_is_rightly_signed_and_logged_is_found(
    tmp_path: Path, kind: str, lie: Callable[[Json], None], code: int, subject: str
) -> None:
    lying = Wide(alter=altering(kind, lie))
    refused(verify.verify_bundle(lying.make(tmp_path / "lying"), lying.trusted), code, subject)
