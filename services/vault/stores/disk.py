"""What the local folder does with files: made once, written through, and immutable where the system allows it."""

from __future__ import annotations

import array
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from services.vault.errors import StoreFull, StoreUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT)
_ATTRIBUTE = "user.quancheng.intent"
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10


@contextmanager
def plainly() -> Iterator[None]:
    """What the disk refuses is told as StoreUnavailable, and a full one as StoreFull."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreUnavailable
        raise kind(str(error.strerror)) from error


def create(path: Path) -> IO[bytes]:
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def being_written(path: Path) -> bool:
    """Whether a process that is alive still writes it: the lock goes with who holds it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def remember(descriptor: int, intent: str) -> None:
    """Beside the bytes, where the file system knows extended attributes; elsewhere a rebuild does without."""
    if intent:
        with suppress(OSError):
            os.setxattr(descriptor, _ATTRIBUTE, intent.encode("latin-1"))


def remembered(descriptor: int) -> str:
    try:
        return os.getxattr(descriptor, _ATTRIBUTE).decode("latin-1")
    except OSError:
        return ""


def write(file: IO[bytes], chunks: Iterable[bytes], digest: hashlib._Hash | None) -> None:
    for chunk in chunks:
        file.write(chunk)
        if digest is not None:
            digest.update(chunk)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_immutable(descriptor: int, on: bool) -> None:
    """Best effort: needs CAP_LINUX_IMMUTABLE and a file system that knows the flag."""
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags, True)
        flags[0] = flags[0] | _FS_IMMUTABLE_FL if on else flags[0] & ~_FS_IMMUTABLE_FL
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags, True)
    except OSError:
        return
