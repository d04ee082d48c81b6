"""A process that waits in the midst of one system call on one of some files, for as long as it lives."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Call = Literal["link", "rename", "unlink", "open"]
_ALIKE = {
    "link": "?link,linkat",
    "rename": "?rename,renameat,?renameat2",
    "unlink": "?unlink,unlinkat",
    "open": "?open,openat",
}


@dataclass
class Stall:
    _eyes: subprocess.Popen[str]
    _told: Path
    _once_done: bool

    def waits(self) -> bool:
        if self._once_done:
            return self.done()
        return re.search(r"^\d+ +\w+\(", self._told.read_text(), re.MULTILINE) is not None

    def done(self) -> bool:
        """Whether the call took place."""
        return re.search(r"= \d+ \(DELAYED\)", self._told.read_text()) is not None

    def let_go(self) -> None:
        """Who was killed while it waited is reaped."""
        self._eyes.kill()


@contextmanager
def stalled(strace: Path, pid: int, call: Call, files: Iterable[Path], told: Path, *, done: bool) -> Iterator[Stall]:
    """It waits before the call on any of these files (none: on whichever), or once it is `done`; of a rename the old
    name counts. `told` is a file to write to meanwhile."""
    named = [part for file in files for part in ("-P", str(file))]
    when = f"inject={_ALIKE[call]}:delay_{'exit' if done else 'enter'}=120s"
    argv = [str(strace), "-f", "-e", f"trace={_ALIKE[call]}", "-e", when, *named, "-o", str(told), "-p", str(pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as eyes:
        assert eyes.stderr
        stall = Stall(eyes, told, done)
        try:
            while "attached" not in (said := eyes.stderr.readline()):
                assert said, "strace came to its end"
            yield stall
        finally:
            stall.let_go()
