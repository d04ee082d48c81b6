"""What may be thrown away: a plain bucket, or a folder beside the local evidence. Nothing in it is evidence.

*keep* reads, writes and deletes there. Copies have their digest in the vault's database, tails of uploads in the
api's, and either is believed only where it has that digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import io
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from services.vault.contract.http import Receive, Scope, Send, problem
from services.vault.contract.wire import MAX_TAIL_BYTES, TICKET_SECONDS
from services.vault.errors import NotInStore, StoreUnavailable
from services.vault.settings import Settings
from services.vault.stores.disk import FULL, sync_folder
from services.vault.stores.local import chunks_of
from services.vault.stores.port import GetTicket, Part, PutTicket
from services.vault.stores.s3 import S3Store
from services.vault.stores.tickets import STAGING_MOUNT, Refused, Tickets

MAX_BYTES = 5 * 1024**3
"""Of one copy: what one PUT may carry."""
_CHUNK = 1024 * 1024
_IDLE_SECONDS = 30
_PAGE = 500


class Staging(Protocol):
    """Raises StoreUnavailable where it cannot be reached."""

    async def keep(self, key: str, source: Path, sha256: str) -> None:
        """The file's bytes, at most `MAX_BYTES`, in place of what was there."""

    def read(self, key: str, part: Part) -> AsyncIterator[bytes]:
        """Raises NotInStore where nothing lies under the key."""

    def put_ticket(self, key: str, sha256: str, size: int) -> PutTicket:
        """For exactly these bytes."""

    def get_ticket(self, key: str) -> GetTicket: ...

    async def remove(self, key: str) -> None:
        """Gone when this returns, also where nothing was there."""

    async def names(self, prefix: str, after: str = "") -> list[str]:
        """The keys below it that come after this one, in order, some hundred at a time; none where there are no
        more."""

    async def stop(self) -> None: ...


def open_staging(settings: Settings, secret: bytes = b"") -> Staging:
    """`secret` signs the tickets of the folder."""
    if settings.store == "s3":
        return S3Staging(settings)
    assert settings.local_root and settings.local_public_url
    tickets = Tickets(settings.local_public_url, secret, STAGING_MOUNT)
    return FolderStaging(settings.local_root / "staging", tickets)


class FolderStaging:
    def __init__(self, folder: Path, tickets: Tickets):
        self._folder, self._tickets = folder, tickets
        self.turn = tickets.turn

    def put_ticket(self, key: str, sha256: str, size: int) -> PutTicket:
        expires = datetime.now(UTC) + timedelta(seconds=TICKET_SECONDS)
        headers = {"content-length": str(size), "x-amz-content-sha256": sha256}
        return PutTicket(*self._tickets.signed("PUT", f"{STAGING_MOUNT}/{key}", headers, expires), expires)

    def get_ticket(self, key: str) -> GetTicket:
        expires = datetime.now(UTC) + timedelta(seconds=TICKET_SECONDS)
        return GetTicket(*self._tickets.signed("GET", f"{STAGING_MOUNT}/{key}", {}, expires))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ticket contract, served by the vault at STAGING_MOUNT."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            key = self._tickets.authorize(scope)
            if request.method == "PUT":
                await self._receive(key, request)
                answer = Response()
            else:
                answer = Response(b"".join([chunk async for chunk in self.read(key, (0, MAX_TAIL_BYTES))]))
        except (Refused, ClientDisconnect) as refused:
            told = refused if isinstance(refused, Refused) else Refused(400, "cut-off", "上传连接中断。")
            answer = problem(told.status, told.slug, told.title, headers={"connection": "close"})
        except NotInStore:
            answer = problem(404, "not-found", "没有找到所请求的内容。")
        except OSError as error:
            if error.errno not in FULL:
                raise
            answer = problem(507, "disk-full", "证据存储空间不足。", headers={"connection": "close"})
        await answer(scope, receive, send)

    async def _receive(self, key: str, request: Request) -> None:
        size, data = min(int(request.headers["content-length"]), MAX_TAIL_BYTES), bytearray()
        chunks = aiter(request.stream())
        try:
            while chunk := await asyncio.wait_for(anext(chunks, b""), _IDLE_SECONDS):
                data += chunk
                if len(data) > size:
                    break
        except TimeoutError as error:
            raise Refused(408, "too-slow", "上传中断超时。") from error
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if len(data) != size or digest != request.headers["x-amz-content-sha256"]:
            raise Refused(400, "checksum-mismatch", "内容与凭单登记的摘要或长度不符，未予保存。")
        await asyncio.to_thread(self._keep, self._folder / key, io.BytesIO(data))

    async def keep(self, key: str, source: Path, sha256: str) -> None:
        def kept() -> None:
            with source.open("rb") as read:
                self._keep(self._folder / key, read)

        await asyncio.to_thread(kept)

    def _keep(self, target: Path, source: BinaryIO) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = target.with_name(f"{target.name}.new")
        with temporary.open("wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)

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

    def put_ticket(self, key: str, sha256: str, size: int) -> PutTicket:
        told = {"content-length": str(size)}
        signed = self._store.as_keep("PUT", "staging", key, payload=sha256, headers=told)
        return PutTicket(signed.url, signed.headers, datetime.now(UTC) + timedelta(seconds=TICKET_SECONDS))

    def get_ticket(self, key: str) -> GetTicket:
        return self._store.as_keep("GET", "staging", key)

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
