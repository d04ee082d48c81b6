"""Reading a recorder's file without changing it: its mark, its digests, and what is known of its time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import FileIO

from services.media import movie
from services.media.kind import kind_of
from services.terminal.dock.looking import Found, found_as

SEGMENT_BYTES = 8 * 1024 * 1024
_ENDS = 64 * 1024
_PIECE = 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FileChanged(Exception):
    """It is no longer what was seen, or hashed."""


class FileUnreadable(Exception):
    """The system does not give its bytes; `detail` says why."""

    def __init__(self, error: OSError):
        super().__init__(error.strerror or type(error).__name__)
        self.detail = error.strerror or type(error).__name__


class Stopped(Exception):
    """Nobody wants the digest any more."""


@dataclass(frozen=True)
class Taken:
    """`digests` are those of its segments; the last may be shorter than the others."""

    sha256: str
    size: int
    format: str
    digests: list[str]
    modified_at: datetime | None
    created_at: datetime | None


def mark_of(found: Found) -> str:
    """Tells a file from any other without reading all of it: size, time of modification, and a digest of both ends.
    Raises FileChanged, FileUnreadable."""
    with opened(found) as file, _readable():
        digest = hashlib.sha256(file.read(_ENDS) or b"")
        file.seek(max(0, found.size - _ENDS))
        digest.update(file.read(_ENDS) or b"")
    return f"{found.size}-{found.mtime_ns}-{digest.hexdigest()}"


def take(found: Found, going: Callable[[], bool]) -> Taken:
    """Hash it once, whole and by segments. Raises FileChanged, FileUnreadable, and Stopped where `going` says so."""
    whole, digests, size, head = hashlib.sha256(), [], 0, b""
    with opened(found) as file, _readable():
        part, held = hashlib.sha256(), 0
        while piece := file.read(min(_PIECE, SEGMENT_BYTES - held)):
            if not going():
                raise Stopped
            head = head or piece
            whole.update(piece)
            part.update(piece)
            size, held = size + len(piece), held + len(piece)
            if size > found.size:
                raise FileChanged
            if held == SEGMENT_BYTES:
                digests.append(part.hexdigest())
                part, held = hashlib.sha256(), 0
        if held:
            digests.append(part.hexdigest())
        kind = kind_of(head)
        created = movie.created_at(file) if kind in ("mp4", "mov") else None
        require_same(found, file)
    if size != found.size:
        raise FileChanged
    return Taken(whole.hexdigest(), size, kind, digests, _moment(found.mtime_ns), created)


@contextlib.contextmanager
def opened(found: Found) -> Iterator[FileIO]:
    """The file that was seen and no other: no link in its place, no other file, nothing that was written to it since.
    Raises FileChanged, FileUnreadable."""
    file = open_as_seen(found)
    try:
        yield file
    finally:
        file.close()


def open_as_seen(found: Found) -> FileIO:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            # Not even the time of last access, where this is allowed.
            descriptor = os.open(found.path, flags | getattr(os, "O_NOATIME", 0))
        except PermissionError:
            descriptor = os.open(found.path, flags)
    except OSError as error:
        raise FileUnreadable(error) from error
    file = FileIO(descriptor)
    try:
        require_same(found, file)
    except BaseException:
        file.close()
        raise
    return file


def require_same(found: Found, file: FileIO) -> None:
    """Raises FileChanged, FileUnreadable."""
    with _readable():
        now, named = os.fstat(file.fileno()), os.stat(found.path, follow_symlinks=False)
    for seen in (now, named):
        if not stat.S_ISREG(seen.st_mode) or found_as(found.path, found.name, seen) != found:
            raise FileChanged


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileUnreadable(error) from error


def _moment(nanoseconds: int) -> datetime | None:
    """None for what no clock shows."""
    try:
        found = _EPOCH + timedelta(milliseconds=nanoseconds // 1_000_000)
    except OverflowError:
        return None
    return found if 1970 <= found.year <= 2200 else None


class Part:
    """A segment's bytes within its file."""

    def __init__(self, file: FileIO, begin: int, size: int):
        self._file, self._left = file, size
        with _readable():
            file.seek(begin)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int, /) -> bytes:
        """Raises FileUnreadable."""
        with _readable():
            piece = self._file.read(min(size, self._left)) or b""
        self._left -= len(piece)
        return piece
