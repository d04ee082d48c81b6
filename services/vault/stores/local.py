"""A write-once local folder under the same ticket contract: for trying out and for one small office.

It is write-once for honest programs, and it is not Object Lock: every receipt it leads to says `none`.
A file appears under its name whole, checked and on the disk, or not at all (O_EXCL, fsync, link, 0444, and
the immutable flag where the system allows it); a crash leaves at most a nameless file in `incoming`, which
the next start removes.
"""

from __future__ import annotations

import array
import asyncio
import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import itertools
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from services.vault.contract.http import Receive, Scope, Send, problem
from services.vault.contract.wire import MAX_SEGMENT_BYTES, TICKET_SECONDS, Lock
from services.vault.errors import NotInStore, StillLocked, StoredDiffers, StoreFull, StoreUnfit
from services.vault.stores.port import GetTicket, PutTicket, StoredName, StoredObject

MOUNT = "/store"
_SCHEME = "QC-HMAC-SHA256"
_KEY = re.compile(r"^(?:[a-z0-9][a-z0-9._-]*/)*[a-z0-9][a-z0-9._-]*$")
_BATCH = 1024 * 1024
_IDLE_SECONDS = 30
_PAGE = 1000
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
_VERSION = "1"
_INTENT, _ATTRIBUTE = "x-quancheng-intent", "user.quancheng.intent"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Refused(Exception):
    def __init__(self, status: int, slug: str, title: str):
        super().__init__(slug)
        self.status, self.slug, self.title = status, slug, title


class LocalStore:
    lock: Lock = "none"

    def __init__(self, root: Path, public_url: str, secret: bytes, *, immutable: bool = True):
        self._root = root
        self._evidence, self._log, self._incoming = root / "evidence", root / "log", root / "incoming"
        self._held = root / "held"
        self._public = public_url.rstrip("/")
        self._host = urlsplit(self._public).netloc
        self._secret = secret
        self._immutable = immutable

    async def start(self) -> None:
        try:
            self.prepare()
            for leftover in self._incoming.iterdir():
                if not _being_written(leftover):
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
        return PutTicket(*self._signed("PUT", f"{MOUNT}/{key}", headers, expires), expires)

    def get_ticket(self, key: str, version: str, now: datetime) -> GetTicket:
        expires = now + timedelta(seconds=TICKET_SECONDS)
        return GetTicket(*self._signed("GET", f"{MOUNT}/{key}", {}, expires))

    async def head(self, key: str, version: str | None = None) -> StoredObject | None:
        return await asyncio.to_thread(self._head, key)

    async def drift(self) -> timedelta:
        return timedelta()

    async def put(self, key: str, data: bytes, retain_until: datetime) -> StoredObject:
        sha256 = hashlib.sha256(data).hexdigest()
        with _plainly():
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
        with _plainly():
            await asyncio.to_thread(self._set_held, key, on)

    async def delete(self, key: str, version: str) -> None:
        await asyncio.to_thread(self._delete, key)

    async def list(self, prefix: str) -> AsyncIterator[StoredName]:
        found = self._walk(prefix)
        while page := await asyncio.to_thread(lambda: [*itertools.islice(found, _PAGE)]):
            for each in page:
                yield each

    async def read(self, key: str, version: str) -> AsyncIterator[bytes]:
        with await asyncio.to_thread(self._path(key).open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, _BATCH):
                yield chunk

    async def publish(self, path: str, data: bytes, *, immutable: bool) -> None:
        target = self._log / path
        with _plainly():
            if not immutable:
                await asyncio.to_thread(self._replace, target, data)
            elif not await asyncio.to_thread(self._write_whole, target, data) and await self.published(path) != data:
                raise StoredDiffers(f"{path} was published with other bytes")

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
            key = self._authorize(scope)
            if scope["method"] == "PUT":
                await self._receive(scope, key, receive)
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._send(key, send)
        except _Refused as refused:
            answer = problem(refused.status, refused.slug, refused.title, headers={"connection": "close"})
            await answer(scope, receive, send)

    def _authorize(self, scope: Scope) -> str:
        """The key this request may use. Any `x-` header that was not signed is refused, as S3 does."""
        pairs = [(name.decode().lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        method, path = scope["method"], scope["raw_path"].decode() if scope.get("raw_path") else scope["path"]
        match = re.fullmatch(
            rf"{_SCHEME} Expires=(\d{{1,12}}),SignedHeaders=([a-z0-9;-]+),Signature=([0-9a-f]{{64}})",
            headers.get("authorization", ""),
        )
        unsigned = bool(scope.get("query_string")) or len(headers) != len(pairs)
        if method not in ("PUT", "GET") or match is None or unsigned:
            raise _Refused(403, "ticket-invalid", "上传凭单无效。")
        expires, names, signature = int(match[1]), match[2].split(";"), match[3]
        if any(name not in names for name in headers if name.startswith(("x-amz-", "x-quancheng-"))):
            raise _Refused(403, "header-not-signed", "请求带有凭单未签名的标头。")
        covered = {name: headers.get(name, "") for name in names}
        if not hmac.compare_digest(signature, self._signature(method, path, covered, expires)):
            raise _Refused(403, "ticket-invalid", "上传凭单无效，或与请求的标头不符。")
        if expires < datetime.now(UTC).timestamp():
            raise _Refused(403, "ticket-expired", "上传凭单已过期，请重新申请。")
        key = path.removeprefix(MOUNT + "/")
        if not _KEY.fullmatch(key):
            raise _Refused(403, "ticket-invalid", "上传凭单无效。")
        return str(key)

    async def _receive(self, scope: Scope, key: str, receive: Receive) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        size, wanted = (
            int(headers["content-length"]),
            base64.b64decode(headers["x-amz-checksum-sha256"]).hex(),
        )
        target = self._path(key)
        if target.exists():
            raise _Refused(412, "already-there", "该对象已存在，不可覆盖。")
        if size > MAX_SEGMENT_BYTES:
            raise _Refused(413, "too-large", "提交的内容超过允许的大小。")
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with await asyncio.to_thread(_create, temporary) as file:
                digest, got, batch, more = hashlib.sha256(), 0, [], True
                while more:
                    try:
                        message = await asyncio.wait_for(receive(), _IDLE_SECONDS)
                    except TimeoutError as error:
                        raise _Refused(408, "too-slow", "上传中断超时。") from error
                    if message["type"] == "http.disconnect":
                        raise _Refused(400, "cut-off", "上传连接中断。")
                    body, more = message.get("body", b""), message.get("more_body", False)
                    got += len(body)
                    if got > size:
                        raise _Refused(400, "checksum-mismatch", "内容比凭单登记的长，未予保存。")
                    batch.append(body)
                    if sum(map(len, batch)) >= _BATCH or not more:
                        await asyncio.to_thread(_write, file, batch, digest)
                        batch = []
                if got != size or digest.hexdigest() != wanted:
                    raise _Refused(400, "checksum-mismatch", "内容与凭单登记的摘要或长度不符，未予保存。")
                _remember(file.fileno(), headers.get(_INTENT, ""))
                if not await asyncio.to_thread(self._settle, file, temporary, target):
                    raise _Refused(412, "already-there", "该对象已存在，不可覆盖。")
        except OSError as error:
            if error.errno in _FULL:
                raise _Refused(507, "disk-full", "证据存储空间不足。") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    async def _send(self, key: str, send: Send) -> None:
        path = self._path(key)
        if not path.is_file():
            raise _Refused(404, "not-found", "没有找到所请求的内容。")
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
                intent = _remembered(file.fileno())
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
        _sync_folder(flag.parent)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        if (self._held / key).exists():
            raise StillLocked(key)
        if path.exists():
            with path.open("rb") as file:
                _set_immutable(file.fileno(), False)
            path.unlink()
            _sync_folder(path.parent)

    def _write_whole(self, target: Path, data: bytes) -> bool:
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with _create(temporary) as file:
                _write(file, [data], None)
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
            _sync_folder(folder)
            if folder == self._root:
                break
        if self._immutable:
            _set_immutable(descriptor, True)

    def _replace(self, target: Path, data: bytes) -> None:
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with _create(temporary) as file:
                _write(file, [data], None)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    # Tickets.

    def _signed(
        self, method: str, path: str, headers: dict[str, str], expires: datetime
    ) -> tuple[str, dict[str, str]]:
        until = int(expires.timestamp())
        covered = {**headers, "host": self._host}
        signature = self._signature(method, path, covered, until)
        authorization = f"{_SCHEME} Expires={until},SignedHeaders={';'.join(sorted(covered))},Signature={signature}"
        return self._public + path, {**headers, "authorization": authorization}

    def _signature(self, method: str, path: str, headers: dict[str, str], expires: int) -> str:
        lines = [method, path, str(expires), *(f"{name}:{headers[name]}" for name in sorted(headers))]
        return hmac.new(self._secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(str(error.strerror)) from error
        raise


def _create(path: Path) -> IO[bytes]:
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _being_written(path: Path) -> bool:
    """Whether a process that is alive still writes it: the lock goes with who holds it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _write(file: IO[bytes], chunks: Iterable[bytes], digest: hashlib._Hash | None) -> None:
    for chunk in chunks:
        file.write(chunk)
        if digest is not None:
            digest.update(chunk)


def _remember(descriptor: int, intent: str) -> None:
    """Beside the bytes, where the file system knows extended attributes; elsewhere a rebuild does without."""
    if intent:
        with contextlib.suppress(OSError):
            os.setxattr(descriptor, _ATTRIBUTE, intent.encode("latin-1"))


def _remembered(descriptor: int) -> str:
    try:
        return os.getxattr(descriptor, _ATTRIBUTE).decode("latin-1")
    except OSError:
        return ""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_immutable(descriptor: int, on: bool) -> None:
    """Best effort: needs CAP_LINUX_IMMUTABLE and a file system that knows the flag."""
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags, True)
        flags[0] = flags[0] | _FS_IMMUTABLE_FL if on else flags[0] & ~_FS_IMMUTABLE_FL
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags, True)
    except OSError:
        return
