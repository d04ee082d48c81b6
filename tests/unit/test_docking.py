"""A recorder's folder as the terminal reads and remembers it: names, kinds, marks, the journal after any cut."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.media import movie
from services.media.kind import kind_of
from services.terminal.__main__ import main
from services.terminal.closing import closing_payload
from services.terminal.dock.journal import DockedFile, Journal, planned
from services.terminal.dock.looking import MAX_DEPTH, FolderUnfit, Found, look, require_fit, shown
from services.terminal.dock.reading import SEGMENT_BYTES, FileChanged, FileUnreadable, Stopped, mark_of, take
from services.terminal.home import HomeUnusable
from services.vault.contract import wire
from tests.unit.terminal_peer import sign

AT = datetime(2026, 11, 26, 5, 0, tzinfo=UTC)
CLOSED: dict[str, Any] = {
    "segments": 2,
    "bytes": 5,
    "ended_at": AT,
    "closed_at": AT,
    "lock": "none",
    "manifest_sha256": "0" * 64,
}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    (tmp_path / "card").mkdir()
    return tmp_path / "card"


def found(card: Path, data: bytes = b"x" * (SEGMENT_BYTES + 9)) -> Found:
    (card / "a").write_bytes(data)
    return look(card).files[0]


def always() -> bool:
    return True


def begun(home: Path, card: Path) -> tuple[Journal, DockedFile]:
    journal, file = Journal(home), found(card)
    journal.load()
    more = {"mark": mark_of(file), "name": "a", "at": AT, "monotonic_ms": 1, "reason": "no-link", "note": None}
    plan = journal.plan(planned(take(file, always), **more))
    plan.source = file
    return journal, plan


def again(home: Path) -> Journal:
    journal = Journal(home)
    journal.load()
    return journal


def receipt() -> wire.Envelope:
    return wire.Envelope.model_validate(sign(Ed25519PrivateKey.generate(), wire.RECEIPT_TYPE, {}))


def closed(file: DockedFile) -> wire.ClosedRecording:
    told = CLOSED | {"recording": file.id, "manifest": receipt(), "log_act": file.id}
    return wire.ClosedRecording.model_validate(told)


def test_names_are_spelled_out_where_they_deceive_or_are_no_text() -> None:
    assert shown("执法 01.MP4") == "执法 01.MP4"
    assert shown("a\u202egpj.exe\n\x1b[2J") == "a\\u202egpj.exe\\u000a\\u001b[2J"
    assert shown(os.fsdecode(b"\xff\xfe")) == "\\xff\\xfe"
    long = shown("d/" * 400 + "end.mp4")
    assert (len(long), long[0], long[-7:]) == (500, "…", "end.mp4")


def test_a_folder_that_is_too_deep_or_not_readable_is_named(card: Path) -> None:
    deep = card
    for _ in range(MAX_DEPTH):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").write_bytes(b"x")
    assert [left.why for left in look(card).left] == ["too-deep"]
    with pytest.raises(OSError, match="No such file"):
        look(card / "gone")


def test_a_folder_with_the_terminals_keys_is_no_recorders(card: Path) -> None:
    for folder, home in ((card, card), (card, card / "home"), (card / "home", card)):
        (card / "home").mkdir(exist_ok=True)
        with pytest.raises(FolderUnfit):
            require_fit(folder, home)
    with pytest.raises(FolderUnfit):
        require_fit(card / "nowhere", card)
    assert require_fit(card, card.parent / "home") == card.resolve()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x00\x00\x00\x18ftypisom", "mp4"),
        (b"\x00\x00\x00\x14ftypqt  ", "mov"),
        (b"\x00\x00\x00\x18ftypheic", "bin"),
        (b"G" + b"\x40" * 187 + b"G" + b"\x00" * 187, "ts"),
        (b"Good day to you, and so on" + b"." * 162 + b"G" + b"!" * 800, "bin"),
        (b"RIFF\x00\x00\x00\x00WEBP", "bin"),
        (b"", "bin"),
    ],
)
def test_what_is_not_sure_is_bin(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_when_a_movie_says_it_was_made() -> None:
    seconds = int((AT - datetime(1904, 1, 1, tzinfo=UTC)).total_seconds())
    old, new = struct.pack(">II", 0, seconds), struct.pack(">IQ", 1 << 24, seconds)
    for time in (old + bytes(8), new + bytes(8)):
        moov = box(b"moov", box(b"udta", b"") + box(b"mvhd", time))
        wide = struct.pack(">I4sQ", 1, b"mdat", 16 + 3) + b"abc"
        assert movie.created_at(BytesIO(box(b"ftyp", b"isom") + wide + moov)) == AT
    for nothing in (box(b"mvhd", bytes(16)), box(b"mvhd", b"\x01" + b"\xff" * 20), box(b"mvhd", b""), b"\x00\x00"):
        assert movie.created_at(BytesIO(box(b"moov", nothing))) is None
    for broken in (b"", b"\x00\x00\x00\x01moov", struct.pack(">I4s", 7, b"free"), struct.pack(">I4s", 99, b"moov")):
        assert movie.created_at(BytesIO(broken)) is None


def test_a_file_is_hashed_whole_and_by_segments(card: Path) -> None:
    data = os.urandom(SEGMENT_BYTES + 9)
    taken = take(found(card, data), always)
    parts = [data[:SEGMENT_BYTES], data[SEGMENT_BYTES:]]
    assert taken.sha256 == hashlib.sha256(data).hexdigest()
    assert taken.digests == [hashlib.sha256(part).hexdigest() for part in parts]
    assert (taken.size, taken.format, taken.created_at) == (len(data), "bin", None)
    with pytest.raises(Stopped):
        take(look(card).files[0], lambda: False)


def test_a_time_that_no_clock_shows_is_not_told(card: Path) -> None:
    (card / "a").write_bytes(b"x")
    os.utime(card / "a", (0, 2**34))
    assert take(look(card).files[0], always).modified_at is None


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def exchanged(path: Path) -> None:
    other, seen = path.with_name("other"), path.stat()
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    other.rename(path)


def rewritten(path: Path) -> None:
    path.write_bytes(b"y" * path.stat().st_size)


@pytest.mark.parametrize("change", [grown, exchanged, rewritten])
def test_a_file_that_is_not_what_was_seen_is_not_taken(card: Path, change: Callable[[Path], None]) -> None:
    seen = found(card)
    change(card / "a")
    with pytest.raises(FileChanged):
        take(seen, always)
    while_read = look(card).files[0]

    def changing() -> bool:
        change(card / "a")
        return True

    with pytest.raises(FileChanged):
        take(while_read, changing)


def test_a_link_put_in_a_files_place_is_not_followed(card: Path) -> None:
    seen = found(card)
    (card / "a").rename(card / "b")
    (card / "a").symlink_to("b")
    with pytest.raises(FileUnreadable):
        mark_of(seen)


def test_a_mark_tells_files_of_one_size_and_time_apart(card: Path) -> None:
    marks = set()
    for data in (b"a" * 200_000, b"b" + b"a" * 199_999, b"a" * 199_999 + b"b"):
        (card / "a").write_bytes(data)
        os.utime(card / "a", ns=(0, 0))
        marks.add(mark_of(look(card).files[0]))
    assert len(marks) == 3


def test_the_journal_goes_on_from_every_cut(tmp_path: Path, card: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    _, file = begun(home, card)
    mark = file.plan.mark
    (file.path.parent / "killed-at-once").mkdir()
    file.accept(file.pending[1], receipt())
    with (file.path / "receipts.jsonl").open("ab") as cut:
        cut.write(b'{"sequence": 0, "rec')
    journal = again(home)
    file = journal.plans[mark]
    assert (sorted(file.pending), sorted(file.receipted), file.complete) == ([0], [1], False)
    assert not (file.path.parent / "killed-at-once").exists()
    file.accept(file.pending[0], receipt())
    file = again(home).plans[mark]
    assert (file.complete, file.missing()) == (True, [])
    # The manifest is there, and nothing after it.
    (file.path / "manifest.json").write_bytes(closed(file).model_dump_json().encode())
    journal = again(home)
    assert (journal.plans, journal.docked) == ({}, 1)
    known = again(home).known(mark=mark)
    assert known is not None
    assert (known.recording, known.sha256) == (file.id, file.plan.sha256)
    assert (home / "done" / str(file.id) / "receipts.jsonl").exists()


def test_what_was_given_up_is_never_taken_for_whole(tmp_path: Path, card: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    _, file = begun(home, card)
    file.accept(file.pending[0], receipt())
    file.give_up()
    told = closing_payload(file, interrupted=True)
    assert (told["count"], told["missing"], told["taken_over"]["sha256"]) == (1, [1], file.plan.sha256)
    file.keep_closing(receipt())
    file = again(home).plans[file.plan.mark]
    assert (file.pending, file.missing()) == ({}, [1])
    file.retire(closed(file), forget=False)
    journal = again(home)
    assert (journal.plans, journal.docked, journal.known(mark=file.plan.mark)) == ({}, 0, None)


def test_bytes_that_were_exchanged_under_a_files_mark_are_noticed(tmp_path: Path, card: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    _, file = begun(home, card)
    seen = (card / "a").stat()
    with (card / "a").open("r+b") as middle:
        middle.seek(SEGMENT_BYTES // 2)
        middle.write(b"!")
    os.utime(card / "a", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    file.check(file.pending[1])
    with pytest.raises(FileChanged):
        file.check(file.pending[0])
    (card / "a").unlink()
    with pytest.raises(FileUnreadable):
        file.open(file.pending[1])


def test_a_damaged_journal_is_said_and_nothing_in_it_thrown_away(tmp_path: Path, card: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    _, file = begun(home, card)
    (file.path / "file.json").write_bytes(b"{")
    journal = again(home)
    assert (journal.unreadable, file.path.exists()) == ([file.path], True)
    (home / "docked.jsonl").write_bytes(b"not a line\n")
    with pytest.raises(HomeUnusable):
        again(home)


def test_the_closing_of_what_was_recorded_says_what_it_always_did(tmp_path: Path, card: Path) -> None:
    _, file = begun(tmp_path, card)
    file.taken_over = None
    assert "taken_over" not in closing_payload(file, interrupted=False)


@pytest.mark.parametrize(
    "wrong", [["--reason", "other"], ["--reason", "tired"], [], ["--reason", "other", "--note", " "]]
)
def test_a_reason_is_one_of_the_list_and_other_is_explained(
    tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["dock", str(tmp_path), "--home", str(tmp_path / "home"), *wrong])
    assert left.value.code == 2
    assert "参数有误" in capsys.readouterr().err


def test_a_note_is_not_signed(tmp_path: Path, card: Path) -> None:
    _, file = begun(tmp_path, card)
    assert file.opened_as is not None and file.taken_over is not None
    assert file.opened_as.keys() - file.taken_over.keys() == {"file_name", "note"}
    assert datetime.fromisoformat(file.taken_over["at"]) - AT < timedelta(seconds=1)
