"""Removing a data folder that was for trying out: tests and benchmarks only."""

import array
import contextlib
import fcntl
import os
import shutil
import sys
from pathlib import Path

# From linux/fs.h; the numbers are those of 64-bit Linux on x86 and ARM.
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_IMMUTABLE = 0x10


def discard(folder: Path) -> None:
    """Remove `folder` and all in it, sealed files included: the local store makes them immutable where it can."""
    if not folder.exists():
        return
    for where, _, names in os.walk(folder):
        for name in (".", *names):
            release(os.path.join(where, name))
    shutil.rmtree(folder)


def release(path: str) -> None:
    """Take the immutable flag from one file, where there is one and we may."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            flags = array.array("l", [0])
            fcntl.ioctl(fd, _GET_FLAGS, flags, True)
            if flags[0] & _IMMUTABLE:
                flags[0] &= ~_IMMUTABLE
                fcntl.ioctl(fd, _SET_FLAGS, flags, True)
        finally:
            os.close(fd)
