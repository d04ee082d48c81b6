"""The tar that an export is, told member by member without being written. Pure."""

from __future__ import annotations

import tarfile
from datetime import datetime
from uuid import UUID

END = bytes(2 * tarfile.BLOCKSIZE)
_USTAR_BYTES = 8 * 1024**3


def header(act: UUID, path: str, size: int, moment: datetime) -> bytes:
    """What stands before a member's bytes: one block, or three where the size needs a pax record."""
    info = tarfile.TarInfo(f"quancheng-{act}/{path}")
    info.size, info.mtime, info.mode = size, int(moment.timestamp()), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT if size < _USTAR_BYTES else tarfile.PAX_FORMAT)


def padding(size: int) -> int:
    """Zero bytes that follow a member of this size."""
    return -size % tarfile.BLOCKSIZE


def span(head: bytes, size: int) -> int:
    """Bytes from the beginning of a member to that of the next."""
    return len(head) + size + padding(size)
