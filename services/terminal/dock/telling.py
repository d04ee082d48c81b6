"""What a dock says: how far each file is and all of them, and at the end what became of everything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from services.terminal.dock.journal import DockedFile
from services.terminal.dock.looking import NEVER, Left
from services.terminal.progress import Form, Progress
from services.terminal.running import DONE, REMAINS

LEFT_FOR_GOOD = 5
"""Exit code: nothing waits, and something in the folder cannot be taken over."""
_LINE_SECONDS = 1.0
_ROWS = 100
"""Of a table that people read; what is left is listed in full."""
_DETAILS = {"sealed", "closed"}

Came = Literal["taken-over", "already"]


class Telling(Progress):
    """Counts what it tells. `add` and `told` of a file once each."""

    def __init__(self, form: Form):
        super().__init__(form)
        self.files = self.bytes = 0
        """That were found, in all."""
        self.left: dict[str, Left] = {}
        self._counts: dict[Came, int] = {"taken-over": 0, "already": 0}
        self._rows: list[tuple[Came, str, str]] = []
        self._going: dict[str, DockedFile] = {}
        self._bytes_done = 0
        self._said = -_LINE_SECONDS

    def tell(self, event: str, **fields: Any) -> None:
        if self._form == "json" or event not in _DETAILS:
            super().tell(event, **fields)
        if event == "sealed" and (file := self._going.get(fields["recording"])):
            self._progress(file)

    def going(self, file: DockedFile) -> None:
        self._going[str(file.id)] = file

    def came(self, how: Came, name: str, size: int, recording: str, **more: Any) -> None:
        self._end(recording, size)
        self.left.pop(name, None)
        self._counts[how] += 1
        if len(self._rows) < _ROWS:
            self._rows.append((how, name, recording))
        self.tell(how, file=name, recording=recording, size=size, megabytes=size / 1e6, **more)

    def leave(self, left: Left, size: int = 0, recording: str = "") -> None:
        self._end(recording, size)
        if self.left.get(left.name) != left:
            self.left[left.name] = left
            self.tell("left", file=left.name, why=left.why, words=left.words)

    def summary(self) -> int:
        """The exit code."""
        counts = {"taken_over": self._counts["taken-over"], "already": self._counts["already"]}
        left = [{"file": one.name, "why": one.why, "words": one.words} for one in self.left.values()]
        fields = {"left": left} if self._form == "json" else {"left": len(left), "table": "\n".join(self._table())}
        self.tell("docked", **counts, **fields)
        if any(one.why not in NEVER for one in self.left.values()):
            return REMAINS
        return LEFT_FOR_GOOD if left else DONE

    def _end(self, recording: str, size: int) -> None:
        self._going.pop(recording, None)
        self._bytes_done += size

    def _progress(self, file: DockedFile) -> None:
        now = time.monotonic()
        if self._form != "json" and now - self._said < _LINE_SECONDS:
            return
        self._said = now
        sealed = file.sealed
        done = self._bytes_done + sum(each.sealed for each in self._going.values())
        self.tell(
            "dock-progress",
            recording=str(file.id),
            file=file.plan.name,
            sealed=sealed,
            size=file.plan.size,
            percent=100 * sealed // file.plan.size,
            all_sealed=done,
            all_size=self.bytes,
            all_percent=min(100, 100 * done // max(1, self.bytes)),
        )

    def _table(self) -> Iterator[str]:
        words = {"taken-over": "已接管", "already": "已在库中"}
        for how, name, recording in self._rows:
            yield f"  {words[how]}　{name}　{recording}"
        if (more := sum(self._counts.values()) - len(self._rows)) > 0:
            yield f"  ……另有 {more} 个文件"
        for one in self.left.values():
            yield f"  未接管　{one.name}　{one.words}"
