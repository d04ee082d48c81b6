"""A disk of its own that is small, can be filled to the last byte, and grows again."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


class SmallDisk:
    """A tmpfs at `folder`; takes root, and a test that cannot have it fails."""

    def __init__(self, folder: Path, megabytes: int):
        self._folder, self._whole = folder, f"{megabytes}m"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, mode=0o700)
        done = self._mount("-t", "tmpfs", "-o", f"size={self._whole},mode=0700", "quancheng-test")
        if done.returncode:
            pytest.fail(f"一块小磁盘(tmpfs)挂载失败,须以 root 运行:{done.stderr}", pytrace=False)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], check=True)

    def fill(self) -> None:
        """No byte is left."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            told = os.statvfs(self._folder)
            used = (told.f_blocks - told.f_bfree) * told.f_frsize
            # Refused where something was written in between.
            if self._mount("-o", f"remount,size={used}").returncode == 0:
                return
        raise AssertionError("the disk could not be filled")

    def make_room(self) -> None:
        done = self._mount("-o", f"remount,size={self._whole}")
        assert done.returncode == 0, done.stderr

    def _mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", *options, str(self._folder)], capture_output=True, text=True, check=False)
