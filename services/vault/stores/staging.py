"""Copies that may be thrown away: a plain bucket, or a folder beside the local evidence. Nothing in it is evidence.

*keep* reads, writes and deletes there. What lies in it has its digest in the vault's database, and is believed only
where it has that digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Protocol

from services.vault.errors import StoreUnavailable
from services.vault.settings import Settings
from services.vault.stores.local import chunks_of
from services.vault.stores.port import Part
from services.vault.stores.s3 import S3Store

MAX_BYTES = 5 * 1024**3
"""Of one copy: what one PUT may carry."""
_CHUNK = 1024 * 1024
_PAGE = 500


class Staging(Protocol):
    """Raises StoreUnavailable where it cannot be reached."""

    async def keep(self, key: str, source: Path, sha256: str) -> None:
        """The file's bytes, at most `MAX_BYTES`, in place of what was there."""

    def read(self, key: str, part: Part) -> AsyncIterator[bytes]:
        """Raises NotInStore where nothing lies under the key."""

    async def remove(self, key: str) -> None:
        """Gone when this returns, also where nothing was there."""

    async def names(self, prefix: str, after: str = "") -> list[str]:
        """The keys below it that come after this one, in order, some hundred at a time; none where there are no
        more."""

    async def stop(self) -> None: ...


def open_staging(settings: Settings) -> Staging:
    if settings.store == "s3":
        return S3Staging(settings)
    assert settings.local_root
    return FolderStaging(settings.local_root / "staging")


class FolderStaging:
    def __init__(self, folder: Path):
        self._folder = folder

    async def keep(self, key: str, source: Path, sha256: str) -> None:
        await asyncio.to_thread(self._keep, self._folder / key, source)

    def _keep(self, target: Path, source: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = target.with_name(f"{target.name}.new")
        with source.open("rb") as read, temporary.open("wb") as file:
            shutil.copyfileobj(read, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    async def read(self, key: str, part: Part) -> AsyncIterator[bytes]:
        async for chunk in chunks_of(self._folder / key, part):
            yield chunk

    async def remove(self, key: str) -> None:
        def gone() -> None:
            (self._folder / key).unlink(missing_ok=True)
            (self._folder / f"{key}.new").unlink(missing_ok=True)

        await asyncio.to_thread(gone)

    async def names(self, prefix: str, after: str = "") -> list[str]:
        def found() -> list[str]:
            paths = (self._folder / prefix).rglob("*")
            names = (path.relative_to(self._folder).as_posix() for path in paths if path.is_file())
            return heapq.nsmallest(_PAGE, (name for name in names if name > after))

        return await asyncio.to_thread(found)

    async def stop(self) -> None:
        return


class S3Staging:
    def __init__(self, settings: Settings):
        self._store = S3Store(settings)

    async def keep(self, key: str, source: Path, sha256: str) -> None:
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            told = {"content-length": str(size)}
            ticket = self._store.as_keep("PUT", "staging", key, payload=sha256, headers=told)
            await self._send("PUT", ticket.url, ticket.headers, file if size else b"", (200,), size=size)

    async def read(self, key: str, part: Part) -> AsyncIterator[bytes]:
        async for chunk in self._store.fetch(self._store.as_keep("GET", "staging", key), part):
            yield chunk

    async def remove(self, key: str) -> None:
        ticket = self._store.as_keep("DELETE", "staging", key)
        await self._send("DELETE", ticket.url, ticket.headers, b"", (200, 204, 404))

    async def names(self, prefix: str, after: str = "") -> list[str]:
        told = {"list-type": "2", "max-keys": str(_PAGE), "prefix": prefix, "start-after": after}
        return await self._store.names("staging", told)

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: bytes | BinaryIO,
        wanted: tuple[int, ...],
        *,
        size: int = 0,
    ) -> None:
        answer = await self._store.calls.ask(method, url, headers, content, size=size)
        if answer.status_code not in wanted:
            raise StoreUnavailable(f"{method} of a copy answered {answer.status_code}")

    async def stop(self) -> None:
        await self._store.stop()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
