"""The spool: every segment is on disk before anything is sent, and stays until its receipt is on disk.

    HOME/spool/<recording>/recording.json           when it began
                           00000012.seg             the bytes, until receipted
                           00000012.json            the ask (wire.SegmentAsk): a segment exists once this does
                           00000012.receipt.json    the verified receipt
                           skipped.json             segments that found no room and were not kept
                           ended.json               capture ended in good order (absent after a crash)
                           closing.json             the signed closing, once made
                           manifest.json            the vault's verified answer to it
    HOME/done/<recording>/                          closed; only the small files are left

Each file is written beside its name, synced, renamed, and the folder synced, so a process killed anywhere
leaves whole files or none. One process at a time owns a home (`home.Lock`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ValidationError
from uuid_utils.compat import uuid7

from services.vault.contract.wire import ClosedRecording, Envelope, Media, SegmentAsk, rfc3339

_ASK = re.compile(r"^\d{8,10}\.json$")
_TEMPORARY = ".tmp"
_KEPT_FREE = 32 * 1024 * 1024
"""Bytes of the disk left free: a disk that is full to the brim could not take the receipts that empty it."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MAX_SKIPPED = 50_000
"""Sequences that stand for nothing, in one recording: a closing that lists many more would not be taken."""


class SpoolError(Exception):
    """The spool on disk cannot be used; the message is a Chinese sentence for people."""


class SpoolFull(SpoolError):
    """No room for another segment; nothing that waits for its receipt was given up."""


class SegmentDamaged(SpoolError):
    """A spooled segment's bytes are no longer those that were written."""


@dataclass(frozen=True)
class Ended:
    interrupted: bool


class RecordingSpool:
    """One recording's folder. Its methods block on the disk: call them off the event loop."""

    def __init__(self, spool: Spool, path: Path, started_at: datetime):
        self.id, self.path, self.started_at = UUID(path.name), path, started_at
        self._spool = spool
        self.pending: dict[int, SegmentAsk] = {}
        """Spooled and not yet receipted, by sequence."""
        self.receipted: dict[int, SegmentAsk] = {}
        self.next_sequence = 0
        self.skipped = 0
        self.taken_over: dict[str, Any] | None = None
        self.opened_as: dict[str, Any] | None = None

    def append(
        self,
        data: bytes,
        *,
        media: Media,
        started_at: datetime,
        duration_ms: int,
        monotonic_ms: int,
        always: bool = False,
    ) -> SegmentAsk:
        """Once this returns the segment survives the process and the machine's power. `always`: beyond the limit too,
        if need be. Raises SpoolFull."""
        ask = SegmentAsk(
            sequence=self.next_sequence,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            media=media,
            started_at=started_at,
            duration_ms=duration_ms,
            monotonic_ms=monotonic_ms,
        )
        self._spool.reserve(ask.size, always=always)
        try:
            write_durably(self._file(ask.sequence, "seg"), data)
            write_durably(self._file(ask.sequence, "json"), ask.model_dump_json().encode())
        except OSError as error:
            self._spool.release(ask.size)
            self._file(ask.sequence, "seg").unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                self._spool.refuse(ask.size)
                raise SpoolFull("磁盘已满，新的片段写不进暂存区。") from error
            raise SpoolError(f"暂存区写入失败：{error.strerror}。") from error
        self.pending[ask.sequence] = ask
        self.next_sequence += 1
        return ask

    def skip(self) -> None:
        """A segment was recorded and there is no room for it: its sequence stays empty."""
        self.skipped += 1
        if self.skipped <= _MAX_SKIPPED:
            self.next_sequence += 1

    def keep_skipped(self) -> None:
        """So that a later process declares missing what this one skipped, up to now."""
        told = {"count": self.skipped, "next_sequence": self.next_sequence}
        write_durably(self.path / "skipped.json", json.dumps(told).encode())

    def open(self, ask: SegmentAsk) -> FileIO:
        """The segment's bytes, to be sent as they are: the store takes none but those of the ticket's digest.
        Raises SegmentDamaged where they are not there in their length."""
        try:
            file = self._file(ask.sequence, "seg").open("rb", buffering=0)
        except FileNotFoundError:
            raise self._set_aside(ask) from None
        if os.fstat(file.fileno()).st_size != ask.size:
            file.close()
            raise self._set_aside(ask)
        return file

    def check(self, ask: SegmentAsk) -> None:
        """Raises SegmentDamaged where the segment's bytes are no longer those that were hashed."""
        with self.open(ask) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != ask.sha256:
                raise self._set_aside(ask)

    def _set_aside(self, ask: SegmentAsk) -> SegmentDamaged:
        path = self._file(ask.sequence, "seg")
        if path.exists():
            path.rename(path.with_suffix(".damaged"))
            sync_folder(self.path)
        if self.pending.pop(ask.sequence, None):
            self._spool.release(ask.size)
        return SegmentDamaged(f"片段 {ask.sequence} 在暂存区中已损坏，将在结束声明中列为缺失。")

    def accept(self, ask: SegmentAsk, receipt: Envelope) -> None:
        """Steps 5 and 6: keep the verified receipt, and only then free the bytes."""
        write_durably(self._file(ask.sequence, "receipt.json"), receipt.model_dump_json().encode())
        self._file(ask.sequence, "seg").unlink(missing_ok=True)
        self.receipted[ask.sequence] = ask
        if self.pending.pop(ask.sequence, None):
            self._spool.release(ask.size)

    def end(self, *, interrupted: bool) -> None:
        """Remember that capture is over, so that whoever closes this recording later says the same."""
        if self.skipped:
            self.keep_skipped()
        write_durably(self.path / "ended.json", json.dumps({"interrupted": interrupted}).encode())

    def ended(self) -> Ended | None:
        path = self.path / "ended.json"
        return Ended(json.loads(path.read_bytes())["interrupted"]) if path.exists() else None

    @property
    def ended_at(self) -> datetime:
        """The device's time at the end of the last segment there is."""
        asks = {**self.receipted, **self.pending}
        if not asks:
            return self.started_at
        last = asks[max(asks)]
        return max(self.started_at, last.started_at + timedelta(milliseconds=last.duration_ms))

    def leaves(self) -> list[SegmentAsk]:
        """What the closing counts: every receipted segment, in order."""
        return [self.receipted[sequence] for sequence in sorted(self.receipted)]

    def missing(self) -> list[int]:
        """Sequences that were recorded and can never be sent."""
        return [n for n in range(self.next_sequence) if n not in self.receipted and n not in self.pending]

    def closing(self) -> Envelope | None:
        path = self.path / "closing.json"
        return Envelope.model_validate_json(path.read_bytes()) if path.exists() else None

    def keep_closing(self, closing: Envelope) -> None:
        """A closing is sent only once it is here, so a repetition after a crash sends the very same."""
        write_durably(self.path / "closing.json", closing.model_dump_json().encode())

    def retire(self, closed: ClosedRecording, *, forget: bool) -> None:
        """The recording is closed and its manifest verified: nothing here is needed any more."""
        write_durably(self.path / "manifest.json", closed.model_dump_json().encode())
        self._spool.retire(self.path, forget=forget)

    def recover(self, *, repair: bool) -> None:
        """Read the folder as an earlier process left it; with `repair`, remove what was half written."""
        for file in sorted(self.path.iterdir()):
            if file.name.endswith(_TEMPORARY) and repair:
                file.unlink()
            elif file.name == "skipped.json":
                told = json.loads(file.read_bytes())
                self.skipped, self.next_sequence = told["count"], max(self.next_sequence, told["next_sequence"])
            elif _ASK.match(file.name):
                self._recover(SegmentAsk.model_validate_json(file.read_bytes()), repair=repair)
            elif file.suffix == ".seg" and repair and not file.with_suffix(".json").exists():
                file.unlink()

    def _recover(self, ask: SegmentAsk, *, repair: bool) -> None:
        bytes_left = self._file(ask.sequence, "seg")
        self.next_sequence = max(self.next_sequence, ask.sequence + 1)
        if self._file(ask.sequence, "receipt.json").exists():
            self.receipted[ask.sequence] = ask
            if repair:
                bytes_left.unlink(missing_ok=True)
        elif bytes_left.exists():
            self.pending[ask.sequence] = ask

    def _file(self, sequence: int, suffix: str) -> Path:
        return self.path / f"{sequence:08d}.{suffix}"


class Spool:
    """All recordings of one home. `limit_bytes` bounds what waits for receipts."""

    def __init__(self, home: Path, *, limit_bytes: int):
        self._root, self._done = home / "spool", home / "done"
        self.limit = limit_bytes
        self.used = 0
        """Bytes that wait for their receipts."""
        self.unreadable: list[Path] = []
        """Folders that the last look for leftovers could make nothing of; they are left as they are."""
        self._refused = 0
        """Bytes that found no room last."""
        self._counting = threading.Lock()
        for folder in (self._root, self._done):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, started_at: datetime) -> RecordingSpool:
        """A new recording with an id of the terminal's own making (UUIDv7). Raises SpoolFull."""
        path = self._root / str(uuid7())
        try:
            path.mkdir(mode=0o700)
            write_durably(path / "recording.json", json.dumps({"started_at": rfc3339(started_at)}).encode())
            sync_folder(self._root)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self.refuse(1)
                raise SpoolFull("磁盘已满，新的记录写不进暂存区。") from error
            raise
        return RecordingSpool(self, path, started_at)

    def leftovers(self, *, repair: bool = True) -> list[RecordingSpool]:
        """Recordings that an earlier process began and did not see closed, oldest first.

        Without `repair` nothing is touched, so it may look on while another process records."""
        found = []
        self.unreadable.clear()
        for path in sorted(path for path in self._root.iterdir() if path.is_dir()):
            try:
                about = json.loads((path / "recording.json").read_bytes())
                recording = RecordingSpool(self, path, datetime.fromisoformat(about["started_at"]))
                recording.recover(repair=repair)
            except FileNotFoundError:
                # Killed between making the folder and writing its first file: nothing was recorded.
                if repair and not list(path.glob("*.seg")):
                    shutil.rmtree(path)
                continue
            except (ValueError, KeyError, ValidationError):
                # One damaged folder must not keep a recorder from recording.
                self.unreadable.append(path)
                continue
            if repair and not recording.next_sequence:
                shutil.rmtree(path)
                continue
            if repair:
                self.used += sum(ask.size for ask in recording.pending.values())
            found.append(recording)
        return found

    def done_count(self) -> int:
        return sum(1 for _ in self._done.iterdir())

    @property
    def full(self) -> bool:
        """Something found no room, and would find none now."""
        return self._refused > 0 and self._want(self._refused) is not None

    def reserve(self, size: int, *, always: bool = False) -> None:
        """Room for this many bytes more. Raises SpoolFull."""
        with self._counting:
            if not always and (reason := self._want(size)):
                self._refused = size
                raise SpoolFull(reason)
            self._refused = 0 if not always else self._refused
            self.used += size

    def refuse(self, size: int) -> None:
        """The disk itself had no room for what was reserved."""
        self._refused = size

    def _want(self, size: int) -> str | None:
        """Why there is no room for this many bytes more."""
        if shutil.disk_usage(self._root).free < size + _KEPT_FREE:
            return "磁盘空间不足，新的片段写不进暂存区。"
        if self.used + size > self.limit:
            return f"暂存区已满：{self.used / 1e6:.1f} MB 尚未取得凭证，上限 {self.limit / 1e6:.1f} MB。"
        return None

    def release(self, size: int) -> None:
        with self._counting:
            self.used -= size

    def retire(self, path: Path, *, forget: bool) -> None:
        target = self._done / path.name
        path.rename(target)
        sync_folder(self._done)
        sync_folder(self._root)
        if forget:
            shutil.rmtree(target)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """After this returns the file is whole on disk under its name; before, the name is as it was."""
    temporary = path.with_name(path.name + _TEMPORARY)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_model(path: Path, model: BaseModel) -> None:
    write_durably(path, model.model_dump_json(indent=2).encode())


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
