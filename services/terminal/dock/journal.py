"""What the terminal remembers of the files it takes over, so that a run goes on where the one before ended.

    HOME/dock/<recording>/file.json       what was found and hashed: the file exists for us once this does
                          receipts.jsonl  the verified receipts, one a line
                          closing.json    the signed closing, once made
                          manifest.json   the vault's verified answer to it
    HOME/docked.jsonl                     a line for each file that is closed, by its mark and digest
    HOME/done/<recording>/                closed; without `docked.jsonl` it would be taken over again

Every file is written as the spool's are, and a line counts once its end is on disk. The bytes stay where they were
found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from uuid_utils.compat import uuid7

from services.terminal.dock.looking import Found
from services.terminal.dock.reading import SEGMENT_BYTES, FileChanged, Part, Taken, open_as_seen
from services.terminal.home import HomeUnusable
from services.terminal.spool import sync_folder, write_durably
from services.vault.contract import wire

_PIECE = 1024 * 1024


class Plan(BaseModel):
    """file.json."""

    model_config = ConfigDict(frozen=True)

    mark: str
    name: str
    sha256: str
    size: int
    format: wire.Format
    digests: list[str]
    at: AwareDatetime
    monotonic_ms: int
    reason: wire.TakeoverReason
    note: str | None
    modified_at: AwareDatetime | None
    created_at: AwareDatetime | None


@dataclass(frozen=True)
class Docked:
    recording: UUID
    sha256: str


class DockedFile:
    """One file on its way (`carried.Carried`). `source` is where it lies in this run."""

    def __init__(self, journal: Journal, path: Path, plan: Plan):
        self.id, self.path, self.plan = UUID(path.name), path, plan
        self.source: Found | None = None
        self.started_at = plan.at
        self.receipted: dict[int, wire.SegmentAsk] = {}
        self.next_sequence, self.skipped = len(plan.digests), 0
        self._journal = journal
        self.pending = {ask.sequence: ask for ask in self._asks()}
        told = wire.TakenOver.model_validate(plan.model_dump(include=set(wire.TakenOver.model_fields))).told()
        self.taken_over: dict[str, Any] | None = told
        self.opened_as: dict[str, Any] | None = told | {"file_name": plan.name, "note": plan.note}

    def _asks(self) -> Iterator[wire.SegmentAsk]:
        for sequence, sha256 in enumerate(self.plan.digests):
            yield wire.SegmentAsk(
                sequence=sequence,
                sha256=sha256,
                size=min(SEGMENT_BYTES, self.plan.size - sequence * SEGMENT_BYTES),
                media="media",
                started_at=self.plan.at,
                duration_ms=0,
                monotonic_ms=self.plan.monotonic_ms,
            )

    @property
    def ended_at(self) -> datetime:
        return self.started_at

    @property
    def sealed(self) -> int:
        """Bytes that have their receipts."""
        return sum(ask.size for ask in self.receipted.values())

    def open(self, ask: wire.SegmentAsk) -> Part:
        """Raises FileChanged, FileUnreadable: nothing more can be sent of it then."""
        if self.source is None:
            raise RuntimeError("a file is sent from where it was found")
        return Part(open_as_seen(self.source), ask.sequence * SEGMENT_BYTES, ask.size)

    def check(self, ask: wire.SegmentAsk) -> None:
        digest = hashlib.sha256()
        with self.open(ask) as part:
            while piece := part.read(_PIECE):
                digest.update(piece)
        if digest.hexdigest() != ask.sha256:
            raise FileChanged

    def accept(self, ask: wire.SegmentAsk, receipt: wire.Envelope) -> None:
        line = {"sequence": ask.sequence, "receipt": receipt.model_dump()}
        append_durably(self.path / "receipts.jsonl", line)
        self._receipted(ask.sequence)

    def _receipted(self, sequence: int) -> None:
        if (ask := self.pending.pop(sequence, None)) is not None:
            self.receipted[sequence] = ask

    def give_up(self) -> None:
        """The file is not what was hashed any more, or is gone for good: what was not sealed never will be."""
        self.pending.clear()

    def leaves(self) -> list[wire.SegmentAsk]:
        return [self.receipted[sequence] for sequence in sorted(self.receipted)]

    def missing(self) -> list[int]:
        return [n for n in range(self.next_sequence) if n not in self.receipted and n not in self.pending]

    def closing(self) -> wire.Envelope | None:
        path = self.path / "closing.json"
        return wire.Envelope.model_validate_json(path.read_bytes()) if path.exists() else None

    def keep_closing(self, closing: wire.Envelope) -> None:
        write_durably(self.path / "closing.json", closing.model_dump_json().encode())

    def retire(self, closed: wire.ClosedRecording, *, forget: bool) -> None:
        write_durably(self.path / "manifest.json", closed.model_dump_json().encode())
        self._journal.retire(self, forget=forget)

    def drop(self) -> None:
        """Nothing of it was sealed: forget it."""
        self._journal.drop(self)

    @property
    def complete(self) -> bool:
        return len(self.receipted) == self.next_sequence

    def recover(self, *, repair: bool) -> None:
        """Read what an earlier process left: one that had begun to close it sends no more of it."""
        for line in lines_of(self.path / "receipts.jsonl", repair=repair):
            self._receipted(line["sequence"])
        if (self.path / "closing.json").exists():
            self.give_up()


class Journal:
    """Methods that write may be called from several threads. Raises OSError (the disk), and HomeUnusable where the
    list of what is closed cannot be read: without it files would come twice."""

    def __init__(self, home: Path):
        self._root, self._done, self._index = home / "dock", home / "done", home / "docked.jsonl"
        self.plans: dict[str, DockedFile] = {}
        """Unfinished, by mark."""
        self.unreadable: list[Path] = []
        """Folders that nothing could be made of; they are left as they are."""
        self._marks: dict[str, Docked] = {}
        self._digests: dict[str, Docked] = {}
        self._writing = threading.Lock()

    def load(self, *, repair: bool = True) -> None:
        """Without `repair` nothing is touched, so it may look on while another process docks."""
        if repair:
            for folder in (self._root, self._done):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            for line in lines_of(self._index, repair=repair):
                self._know(line["mark"], Docked(UUID(line["recording"]), line["sha256"]))
        except (ValueError, KeyError) as error:
            raise HomeUnusable(f"接管记录已损坏：{self._index}。请勿删除，联系管理员处理。") from error
        for path in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            self._load(path, repair=repair)

    def _load(self, path: Path, *, repair: bool) -> None:
        try:
            file = DockedFile(self, path, Plan.model_validate_json((path / "file.json").read_bytes()))
            file.recover(repair=repair)
        except FileNotFoundError:
            # Killed between making the folder and writing its first file.
            if repair:
                shutil.rmtree(path)
            return
        except (ValueError, KeyError, ValidationError):
            self.unreadable.append(path)
            return
        self.plans[file.plan.mark] = file
        if repair and (path / "manifest.json").exists():
            self.retire(file, forget=False)

    @property
    def docked(self) -> int:
        return len(self._digests)

    def known(self, *, mark: str | None = None, sha256: str | None = None) -> Docked | None:
        """The file, where it is closed already."""
        return self._marks.get(mark or "") or self._digests.get(sha256 or "")

    def of_digest(self, sha256: str) -> DockedFile | None:
        """The unfinished one of this content."""
        return next((file for file in self.plans.values() if file.plan.sha256 == sha256), None)

    def plan(self, plan: Plan) -> DockedFile:
        """Begin one. Once this returns it survives the process and the machine's power."""
        path = self._root / str(uuid7())
        path.mkdir(mode=0o700)
        write_durably(path / "file.json", plan.model_dump_json().encode())
        sync_folder(self._root)
        file = self.plans[plan.mark] = DockedFile(self, path, plan)
        return file

    def also(self, mark: str, docked: Docked) -> None:
        """The same content under another mark: no later run hashes it again."""
        with self._writing:
            line = {"mark": mark, "recording": str(docked.recording), "sha256": docked.sha256}
            append_durably(self._index, line)
            self._know(mark, docked)

    def retire(self, file: DockedFile, *, forget: bool) -> None:
        plan = file.plan
        if file.complete and self.known(mark=plan.mark) is None:
            self.also(plan.mark, Docked(file.id, plan.sha256))
        file.path.rename(self._done / file.path.name)
        sync_folder(self._done)
        sync_folder(self._root)
        if forget:
            shutil.rmtree(self._done / file.path.name)
        self.plans.pop(plan.mark, None)

    def drop(self, file: DockedFile) -> None:
        shutil.rmtree(file.path)
        self.plans.pop(file.plan.mark, None)

    def _know(self, mark: str, docked: Docked) -> None:
        self._marks[mark] = docked
        self._digests.setdefault(docked.sha256, docked)


def planned(taken: Taken, **more: Any) -> Plan:
    names = ("sha256", "size", "format", "digests", "modified_at", "created_at")
    return Plan.model_validate({name: getattr(taken, name) for name in names} | more)


def append_durably(path: Path, line: dict[str, Any]) -> None:
    """After this returns the line is on disk."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        data = wire.canonical(line) + b"\n"
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if fresh:
        sync_folder(path.parent)


def lines_of(path: Path, *, repair: bool = True) -> list[dict[str, Any]]:
    """Whole lines; with `repair` the end of one that was cut short is removed. Raises ValueError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]
