"""The spool keeps what was recorded through any death of the process, and frees only what is receipted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.terminal.home import Home, HomeInUse
from services.terminal.spool import RecordingSpool, SegmentDamaged, Spool, SpoolFull
from services.vault.contract.wire import Envelope, SegmentAsk, Signature

NOW = datetime(2026, 11, 23, 17, 34, 40, tzinfo=UTC)
RECEIPT = Envelope(payloadType="x", payload="e30=", signatures=[Signature(keyid="0" * 64, sig="AA==")])


def new_spool(home: Path, limit: int = 10_000) -> Spool:
    return Spool(home, limit_bytes=limit)


def append(recording: RecordingSpool, data: bytes) -> SegmentAsk:
    sequence = recording.next_sequence
    return recording.append(
        data,
        media="media" if sequence else "init",
        started_at=NOW + timedelta(seconds=sequence),
        duration_ms=1000,
        monotonic_ms=sequence * 1000,
    )


def bytes_of(recording: RecordingSpool, ask: SegmentAsk) -> bytes:
    with recording.open(ask) as file:
        return file.read()


def test_a_later_process_finds_what_was_recorded(tmp_path: Path) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    asks = [append(recording, bytes([n]) * 100) for n in range(3)]
    recording.accept(asks[1], RECEIPT)

    spool = new_spool(tmp_path)
    (found,) = spool.leftovers()
    assert (found.id, found.started_at) == (recording.id, NOW)
    assert list(found.pending.values()) == [asks[0], asks[2]]
    assert found.leaves() == [asks[1]]
    assert bytes_of(found, asks[2]) == b"\x02" * 100
    assert spool.used == 200
    assert found.ended_at == NOW + timedelta(seconds=3)
    assert append(found, b"more").sequence == 3


def test_bytes_are_freed_by_a_receipt_and_by_nothing_else(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    recording = spool.begin(NOW)
    ask = append(recording, b"bytes")
    segment = recording.path / "00000000.seg"
    assert segment.read_bytes() == b"bytes"
    recording.accept(ask, RECEIPT)
    assert not segment.exists()
    assert Envelope.model_validate_json((recording.path / "00000000.receipt.json").read_bytes()) == RECEIPT
    assert spool.used == 0


def test_half_written_files_are_removed(tmp_path: Path) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    append(recording, b"whole")
    (recording.path / "00000001.seg").write_bytes(b"its json was never written")
    (recording.path / "00000002.json.tmp").write_bytes(b"{")
    (found,) = new_spool(tmp_path).leftovers()
    assert list(found.pending) == [0]
    assert found.next_sequence == 1
    assert sorted(path.name for path in recording.path.iterdir()) == [
        "00000000.json",
        "00000000.seg",
        "recording.json",
    ]


def test_death_between_receipt_and_freeing_loses_nothing(tmp_path: Path) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    ask = append(recording, b"bytes")
    (recording.path / "00000000.receipt.json").write_bytes(RECEIPT.model_dump_json().encode())
    (found,) = new_spool(tmp_path).leftovers()
    assert found.leaves() == [ask]
    assert not found.pending
    assert not (recording.path / "00000000.seg").exists()


def test_a_folder_that_cannot_be_read_keeps_nobody_from_recording(tmp_path: Path) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    append(recording, b"whole")
    (recording.path / "recording.json").write_bytes(b"\0\0\0")
    spool = new_spool(tmp_path)
    assert spool.leftovers() == []
    assert spool.unreadable == [recording.path]
    assert (recording.path / "00000000.seg").read_bytes() == b"whole"
    append(spool.begin(NOW), b"new")


def test_looking_on_changes_nothing(tmp_path: Path) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    append(recording, b"whole")
    (recording.path / "00000001.seg").write_bytes(b"being written by another process")
    before = sorted(recording.path.iterdir())
    (seen,) = new_spool(tmp_path).leftovers(repair=False)
    assert list(seen.pending) == [0]
    assert sorted(recording.path.iterdir()) == before


def test_a_full_spool_refuses_the_new_and_keeps_the_old(tmp_path: Path) -> None:
    recording = new_spool(tmp_path, limit=250).begin(NOW)
    asks = [append(recording, b"x" * 100), append(recording, b"y" * 100)]
    with pytest.raises(SpoolFull):
        append(recording, b"z" * 100)
    assert [bytes_of(recording, ask) for ask in asks] == [b"x" * 100, b"y" * 100]
    recording.accept(asks[0], RECEIPT)
    assert append(recording, b"z" * 100).sequence == 2


@pytest.mark.parametrize("damage", [b"twi", b"tw", b"", None], ids=["altered", "cut short", "empty", "gone"])
def test_a_damaged_segment_is_set_aside_and_declared_missing(tmp_path: Path, damage: bytes | None) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    asks = [append(recording, b"one"), append(recording, b"two"), append(recording, b"three")]
    file = recording.path / "00000001.seg"
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(SegmentDamaged):
        recording.check(asks[1])
    recording.check(asks[0])
    for ask in (asks[0], asks[2]):
        recording.accept(ask, RECEIPT)
    assert recording.missing() == [1]
    (found,) = new_spool(tmp_path).leftovers()
    assert (found.missing(), list(found.pending)) == ([1], [])
    aside = recording.path / "00000001.damaged"
    assert (aside.read_bytes() if aside.exists() else None) == damage


def test_how_capture_ended_outlives_the_process(tmp_path: Path) -> None:
    recording = new_spool(tmp_path).begin(NOW)
    append(recording, b"x")
    (found,) = new_spool(tmp_path).leftovers()
    assert found.ended() is None
    recording.end(interrupted=False)
    (found,) = new_spool(tmp_path).leftovers()
    ended = found.ended()
    assert ended is not None
    assert not ended.interrupted


def test_a_second_process_on_the_same_home_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    code = (
        "import sys,time,pathlib; from services.terminal.home import Home\n"
        "with Home(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(HomeInUse, match="同一目录只能运行一个"), Home(tmp_path).lock():
        pass
    first.kill()
    first.wait()
    first.stdout.close()
    with Home(tmp_path).lock():
        pass


def test_segments_survive_kill_9_in_the_middle_of_writing(tmp_path: Path) -> None:
    code = (
        "import sys,pathlib; from datetime import datetime, UTC; from services.terminal.spool import Spool\n"
        "r = Spool(pathlib.Path(sys.argv[1]), limit_bytes=10**9).begin(datetime.now(UTC))\n"
        "while True:\n"
        "    a = r.append(bytes([r.next_sequence % 256]) * 50_000, media='media',"
        " started_at=datetime.now(UTC), duration_ms=1, monotonic_ms=1)\n"
        "    print(a.sequence, flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(20):
        writer.stdout.readline()
    time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    told = [int(line) for line in writer.communicate()[0].split()]
    (found,) = new_spool(tmp_path, limit=10**9).leftovers()
    assert found.next_sequence >= max(told, default=19) + 1
    assert found.missing() == []
    for ask in list(found.pending.values()):
        assert bytes_of(found, ask) == bytes([ask.sequence % 256]) * 50_000
