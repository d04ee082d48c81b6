"""A write-once local folder under the same ticket contract: for trying out and for one small office.

It is write-once for honest programs, and it is not Object Lock: every receipt it leads to says `none`.
A file appears under its name whole, checked and on the disk, or not at all (O_EXCL, fsync, link, 0444, and
the immutable flag where the system allows it); a crash leaves at most a nameless file in `incoming`, which
the next start removes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

from services.vault.contract.http import Receive, Scope, Send, problem
from services.vault.contract.wire import MAX_SEGMENT_BYTES, TICKET_SECONDS, Lock
from services.vault.errors import NotInStore, StillLocked, StoredDiffers, StoreUnfit
from services.vault.stores.disk import (
    FULL,
    being_written,
    create,
    plainly,
    remember,
    remembered,
    set_immutable,
    sync_folder,
    write,
)
from services.vault.stores.port import GetTicket, Part, PutTicket, StoredName, StoredObject
from services.vault.stores.tickets import MOUNT, Refused, Tickets

_BATCH = 1024 * 1024
_IDLE_SECONDS = 30
_PAGE = 1000
_VERSION = "1"
_INTENT = "x-quancheng-intent"


class LocalStore:
    lock: Lock = "none"

    def __init__(self, root: Path, public_url: str, secret: bytes, *, immutable: bool = True):
        self._root = root
        self._evidence, self._log, self._incoming = root / "evidence", root / "log", root / "incoming"
        self._held = root / "held"
        self._public = public_url
        self._tickets = Tickets(public_url, secret)
        self._immutable = immutable

    async def start(self) -> None:
        try:
            self.prepare()
            for leftover in self._incoming.iterdir():
                if not being_written(leftover):
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnfit(f"本地证据文件夹 {self._root} 不可用：{error.strerror}。") from error

    # For the check of what this folder promises, which is made on another folder beside it.

    def beside(self, name: str) -> LocalStore:
        """A store of the same kind in the folder `name`, with a secret that nobody else has."""
        return LocalStore(self._root / name, self._public, secrets.token_bytes(32), immutable=self._immutable)

    def prepare(self) -> None:
        """Make its folders; raises StoreUnfit. Nothing that lies in them is touched."""
        try:
            for folder in (self._evidence, self._log, self._incoming):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreUnfit(f"本地证据文件夹 {self._root} 不可用：{error.strerror}。") from error

    def mode(self, key: str) -> int:
        """The permission bits of what lies under `key`; 0 where nothing does."""
        path = self._path(key)
        return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0

    async def stop(self) -> None:
        return

    def turn(self, secret: bytes, *, honour: bool) -> None:
        """Sign tickets with another secret from here on. `honour`: those out already live on to their end."""
        self._tickets.turn(secret, honour=honour)

    def put_ticket(
        self, key: str, sha256: str, size: int, retain_until: datetime, now: datetime, intent: str = ""
    ) -> PutTicket:
        expires = now + timedelta(seconds=TICKET_SECONDS)
        headers = {
            "content-length": str(size),
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            "x-quancheng-lock": self.lock,
            **({_INTENT: intent} if intent else {}),
        }
        return PutTicket(*self._tickets.signed("PUT", f"{MOUNT}/{key}", headers, expires), expires)

    def get_ticket(self, key: str, version: str, now: datetime) -> GetTicket:
        expires = now + timedelta(seconds=TICKET_SECONDS)
        return GetTicket(*self._tickets.signed("GET", f"{MOUNT}/{key}", {}, expires))

    async def head(self, key: str, version: str | None = None) -> StoredObject | None:
        with plainly():
            return await asyncio.to_thread(self._head, key)

    async def drift(self) -> timedelta:
        return timedelta()

    async def put(self, key: str, data: bytes, retain_until: datetime) -> StoredObject:
        sha256 = hashlib.sha256(data).hexdigest()
        with plainly():
            await asyncio.to_thread(self._write_whole, self._evidence / key, data)
        found = await self.head(key)
        if found is None or found.sha256 != sha256:
            raise StoredDiffers(f"{key} is not what was put")
        return found

    async def extend(self, key: str, version: str, retain_until: datetime) -> None:
        """Nothing is locked here, so nothing becomes longer; the vault's own record of the date stands alone."""
        if not await asyncio.to_thread(self._path(key).exists):
            raise NotInStore(key)

    async def hold(self, key: str, version: str, on: bool) -> None:
        with plainly():
            await asyncio.to_thread(self._set_held, key, on)

    async def delete(self, key: str, version: str) -> None:
        await asyncio.to_thread(self._delete, key)

    async def list(self, prefix: str) -> AsyncIterator[StoredName]:
        found = self._walk(prefix)
        while page := await asyncio.to_thread(lambda: [*itertools.islice(found, _PAGE)]):
            for each in page:
                yield each

    async def read(self, key: str, version: str, part: Part | None = None) -> AsyncIterator[bytes]:
        async for chunk in chunks_of(self._path(key), part):
            yield chunk

    async def publish(self, path: str, data: bytes, *, immutable: bool) -> None:
        target = self._log / path
        with plainly():
            if not immutable:
                await asyncio.to_thread(self._replace, target, data)
            elif not await asyncio.to_thread(self._write_whole, target, data) and await self.published(path) != data:
                raise StoredDiffers(f"{path} was published with other bytes")

    async def unpublish(self, folder: str) -> int:
        return await asyncio.to_thread(self._unpublish, self._log / folder)

    async def published(self, path: str) -> bytes | None:
        try:
            return await asyncio.to_thread((self._log / path).read_bytes)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    # The ticket contract, served by the vault at MOUNT.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] != "http":
                return
            key = self._tickets.authorize(scope)
            if scope["method"] == "PUT":
                await self._receive(scope, key, receive)
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._send(key, send)
        except Refused as refused:
            answer = problem(refused.status, refused.slug, refused.title, headers={"connection": "close"})
            await answer(scope, receive, send)

    async def _receive(self, scope: Scope, key: str, receive: Receive) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        size, wanted = (
            int(headers["content-length"]),
            base64.b64decode(headers["x-amz-checksum-sha256"]).hex(),
        )
        target = self._path(key)
        if size > MAX_SEGMENT_BYTES:
            raise Refused(413, "too-large", "提交的内容超过允许的大小。")
        if target.exists():
            # Whoever is still sending when the connection closes never hears why, and sends it all again.
            async for _ in _body(receive, size):
                pass
            raise Refused(412, "already-there", "该对象已存在，不可覆盖。")
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with await asyncio.to_thread(create, temporary) as file:
                digest, got, batch = hashlib.sha256(), 0, []
                async for body in _body(receive, size):
                    got += len(body)
                    batch.append(body)
                    if sum(map(len, batch)) >= _BATCH:
                        await asyncio.to_thread(write, file, batch, digest)
                        batch = []
                await asyncio.to_thread(write, file, batch, digest)
                if got != size or digest.hexdigest() != wanted:
                    raise Refused(400, "checksum-mismatch", "内容与凭单登记的摘要或长度不符，未予保存。")
                remember(file.fileno(), headers.get(_INTENT, ""))
                if not await asyncio.to_thread(self._settle, file, temporary, target):
                    raise Refused(412, "already-there", "该对象已存在，不可覆盖。")
        except OSError as error:
            if error.errno in FULL:
                raise Refused(507, "disk-full", "证据存储空间不足。") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    async def _send(self, key: str, send: Send) -> None:
        path = self._path(key)
        if not path.is_file():
            raise Refused(404, "not-found", "没有找到所请求的内容。")
        length = str(path.stat().st_size).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]},
        )
        async for chunk in self.read(key, _VERSION):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    # On the disk.

    def _path(self, key: str) -> Path:
        return self._evidence / key

    def _walk(self, prefix: str) -> Iterator[StoredName]:
        for folder, below, names in os.walk(self._evidence / prefix.rpartition("/")[0]):
            below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                key = path.relative_to(self._evidence).as_posix()
                if key.startswith(prefix):
                    yield StoredName(key, _VERSION, path.lstat().st_size)

    def _head(self, key: str) -> StoredObject | None:
        try:
            with self._path(key).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
                intent = remembered(file.fileno())
                self._sync_name(self._path(key), file.fileno())
        except FileNotFoundError:
            return None
        held = (self._held / key).exists()
        return StoredObject(key, _VERSION, size, digest, self.lock, None, held, intent)

    def _set_held(self, key: str, on: bool) -> None:
        """The flag is an empty file of the same name beside the evidence; what bears it is not deleted."""
        flag = self._held / key
        if not self._path(key).exists():
            raise NotInStore(key)
        flag.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if on:
            flag.touch(mode=0o444)
        else:
            flag.unlink(missing_ok=True)
        sync_folder(flag.parent)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        if (self._held / key).exists():
            raise StillLocked(key)
        if path.exists():
            with path.open("rb") as file:
                set_immutable(file.fileno(), False)
            path.unlink()
            sync_folder(path.parent)

    def _unpublish(self, folder: Path) -> int:
        assert folder.suffix == ".p"  # nothing but partial tiles is ever removed
        names = [*folder.iterdir()] if folder.exists() else []
        for path in names:
            with path.open("rb") as file:
                set_immutable(file.fileno(), False)
            path.unlink()
        if folder.exists():
            folder.rmdir()
        return len(names)

    def _write_whole(self, target: Path, data: bytes) -> bool:
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with create(temporary) as file:
                write(file, [data], None)
                return self._settle(file, temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _settle(self, file: IO[bytes], temporary: Path, target: Path) -> bool:
        """Make the written file durable and give it its name; False if the name is taken."""
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        temporary.unlink()
        self._sync_name(target, file.fileno())
        return True

    def _sync_name(self, target: Path, descriptor: int) -> None:
        """Make the name itself survive a power cut, however the process that gave it ended."""
        for folder in target.parents:
            sync_folder(folder)
            if folder == self._root:
                break
        if self._immutable:
            set_immutable(descriptor, True)

    def _replace(self, target: Path, data: bytes) -> None:
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with create(temporary) as file:
                write(file, [data], None)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)


async def chunks_of(path: Path, part: Part | None) -> AsyncIterator[bytes]:
    """Raises NotInStore."""
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except FileNotFoundError as error:
        raise NotInStore(path.name) from error
    with file:
        at, end = part or (0, 1 << 62)
        file.seek(at)
        while at < end and (chunk := await asyncio.to_thread(file.read, min(_BATCH, end - at))):
            at += len(chunk)
            yield chunk


async def _body(receive: Receive, size: int) -> AsyncIterator[bytes]:
    """What is sent, up to `size`. Raises Refused where it stops, breaks off, or goes on."""
    got, more = 0, True
    while more:
        try:
            message = await asyncio.wait_for(receive(), _IDLE_SECONDS)
        except TimeoutError as error:
            raise Refused(408, "too-slow", "上传中断超时。") from error
        if message["type"] == "http.disconnect":
            raise Refused(400, "cut-off", "上传连接中断。")
        body, more = message.get("body", b""), message.get("more_body", False)
        got += len(body)
        if got > size:
            raise Refused(400, "checksum-mismatch", "内容比凭单登记的长，未予保存。")
        yield body
