"""A reference terminal that is running: what it says is read while it says it, and it can be pulled off."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.system import System

SECOND_BY_SECOND = ("--source", "demo", "--segment-seconds", "1")


class LiveTerminal:
    """`record` or `resume` as its own process; leaving the block kills what still runs."""

    def __init__(self, system: System, home: Path, command: str, *arguments: str, within: Sequence[str] = ()):
        self.home = home
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self._told = threading.Condition()
        self._process = system.start_terminal(command, home, *arguments, within=within)
        self._reader = threading.Thread(target=self._read, name="terminal's events")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def recording(self) -> str:
        """The id of the recording it made; waits until there is one."""
        self.wait_for("recording")
        return str(self.of("recording")[0]["recording"])

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in list(self.events) if event["event"] == kind]

    def wait_for(self, kind: str, count: int = 1, timeout: float = 60) -> None:
        """Until `count` events of a kind were told; fails when it ends or `timeout` seconds pass before."""
        until = time.monotonic() + timeout
        with self._told:
            while len(self.of(kind)) < count:
                left = until - time.monotonic()
                assert left > 0, f"no {count} {kind} within {timeout} s: {self.said[-15:]}"
                assert self._reader.is_alive(), f"it ended before {count} {kind}: {self.said[-15:]}"
                self._told.wait(min(left, 0.5))

    def finish(self, timeout: float = 120) -> int:
        """Its exit code, once it has ended by itself."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not finished within {timeout} s: {self.said[-15:]}") from None
        self._reader.join()
        return code

    def interrupt(self) -> None:
        """SIGINT, as its officer stops it."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, as a battery that falls out would."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._told:
                self.said.append(line.rstrip())
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._told.notify_all()


def receipts_of(home: Path, recording: str) -> dict[int, dict[str, Any]]:
    """The verified receipts a terminal keeps of a closed recording, as DSSE envelopes by sequence."""
    folder = home / "done" / recording
    return {int(path.name[:8]): json.loads(path.read_bytes()) for path in sorted(folder.glob("*.receipt.json"))}


def asks_of(folder: Path) -> list[dict[str, Any]]:
    """What was spooled, by sequence: each segment's digest, size and device times."""
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("[0-9]" * 8 + ".json"))]
