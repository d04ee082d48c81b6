"""The attack on an S3 store's lock, with full rights, on an object of the probe bucket.

1. The probe object: today's, put once with a short lock and attacked again by every start of the day. Those of
   past days are deleted when their lock has lapsed, so the bucket stays small.
2. Bad puts: other bytes, another length, a lock header left out, the same key again.
3. Attacks on the object's version and on the bucket. After each the version is looked at again, because a store
   may answer one thing and do another; last, every byte is read.
4. Controls: a request of the same form that the lock allows must succeed. Without them a store that merely did
   not understand the attack would pass for one that withstood it.

Any number of vaults may do this at once: nothing here depends on which version of the key is the newest.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import re
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from urllib.parse import quote

from services.vault.errors import StoreUnavailable
from services.vault.stores.calls import Answer
from services.vault.stores.findings import Findings
from services.vault.stores.hearing import stored_object
from services.vault.stores.s3 import S3Store

_LOCKED_DAYS = 2
_PREFIX = "lock/"
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_BYPASS = {"x-amz-bypass-governance-retention": "true"}
_LISTED_AT_ONCE = 50
OTHER_BYTES = b"other bytes than those the checksum is of"


class Answered(Protocol):
    @property
    def status_code(self) -> int: ...


def refused(response: Answer) -> bool:
    """Whether the store said no. An answer that is neither yes nor no raises StoreUnavailable."""
    if response.status_code >= 500 and response.status_code != 501:
        raise StoreUnavailable(f"{response.method} answered {response.status_code}")
    return response.status_code >= 400


def deletes_many(key: str, version: str) -> bytes:
    """The body of a DeleteObjects request, which stores judge apart from a single DELETE."""
    return f"<Delete {_XMLNS}><Object><Key>{key}</Key><VersionId>{version}</VersionId></Object></Delete>".encode()


def deleted_none(response: Answer) -> bool:
    """DeleteObjects answers 200 and tells of each object in the body."""
    return refused(response) or b"<Deleted>" not in response.content


def answered(response: Answered) -> str:
    return f"存储回答 {response.status_code}"


def xml_headers(content: bytes) -> dict[str, str]:
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    return {"content-md5": base64.b64encode(digest).decode(), "content-type": "application/xml"}


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def lock_headers(until: datetime) -> dict[str, str]:
    return {
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@dataclass(frozen=True)
class _Probe:
    """The object under attack: its version, its bytes and its lock are known beforehand."""

    key: str
    data: bytes
    until: datetime
    version: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def _todays(today: date) -> _Probe:
    """Locked until the midnight (UTC) after tomorrow, so for one day at least and two at most."""
    until = datetime.combine(today + timedelta(days=_LOCKED_DAYS), time(), UTC)
    return _Probe(f"{_PREFIX}{today.isoformat()}", f"quancheng lock probe {today}\n".encode() * 64, until)


class Attack:
    """One run against one store. Raises StoreUnavailable where the store does not answer."""

    def __init__(self, store: S3Store, findings: Findings):
        self._store, self._findings, self._say = store, findings, findings.say
        self._attacked = _todays(datetime.now(UTC).date())

    async def run(self) -> None:
        # 1. The probe object.
        if not await self._place():
            return
        # 2. Bad puts.
        await self._bad_puts()
        await self._overwrite()
        # 3. Attacks, with 4. their controls.
        await self._attack_version()
        await self._attack_bucket()
        await self._read_whole()
        if self._findings.all_held:
            await self._clear_away()

    async def _place(self) -> bool:
        it, claim = self._attacked, "探针对象应能带合规锁（COMPLIANCE）写入，并如实读回"
        put = await self._put(it.key, it.data, {"if-none-match": "*"})
        if put.status_code == 200:
            versions = [put.headers.get("x-amz-version-id", "")]
        elif put.status_code == 412:
            versions = [version for key, version in await self._listing(it.key) if key == it.key]
        else:
            refused(put)
            return self._say("probe-locked", claim, f"{answered(put)}，未能写入")
        seen = "没有版本号"
        for version in filter(None, versions):
            self._attacked = _Probe(it.key, it.data, it.until, version)
            seen = await self._harm()
            if not seen:
                break
        return self._say("probe-locked", claim, seen)

    async def _bad_puts(self) -> None:
        it = self._attacked
        place, shorter = f"bad/{secrets.token_hex(8)}", {"content-length": str(len(it.data) - 1)}
        puts: dict[str, tuple[str, Awaitable[Answer]]] = {
            f"{place}/other-bytes": (
                "与凭单校验值不符的内容应被拒绝",
                self._put(f"{place}/other-bytes", OTHER_BYTES, claimed=it.data[: len(OTHER_BYTES)]),
            ),
            f"{place}/other-length": (
                "与凭单长度不符的上传应被拒绝",
                self._put(f"{place}/other-length", it.data, left_out="content-length", added=shorter),
            ),
        }
        for header in lock_headers(it.until):
            key = f"{place}/without-{header.removeprefix('x-amz-object-lock-')}"
            puts[key] = (f"去掉已签名的标头 {header} 后应被拒绝", self._put(key, it.data, left_out=header))
        answers = await asyncio.gather(*(put for _, put in puts.values()))
        left = {key for key, _ in await self._listing(f"{place}/")}
        for (key, (claim, _)), answer in zip(puts.items(), answers, strict=True):
            seen = "" if refused(answer) else answered(answer)
            self._say(key.rpartition("/")[2], claim, seen or ("存储回答已拒绝，却留下了对象" if key in left else ""))

    async def _overwrite(self) -> None:
        it = self._attacked
        again = await self._put(it.key, it.data, {"if-none-match": "*"})
        seen = "" if again.status_code == 412 else answered(again)
        self._say("write-once", "带 If-None-Match 的同名写入应被拒绝（412）", seen or await self._harm())
        over = await self._store.call("probe", "PUT", "probe", it.key, content=OTHER_BYTES)
        version = over.headers.get("x-amz-version-id", "")
        seen = await self._harm()
        if not refused(over) and version in ("", "null", it.version):
            seen = seen or "新内容没有成为另一个版本"
        self._say("overwrite", "覆盖同名对象后，被锁定的版本应原样留存", seen)
        if version not in ("", it.version):
            gone = await self._delete(version)
            self._say("control-delete", "对照：未锁定的版本应能按版本删除", answered(gone) if refused(gone) else "")

    async def _attack_version(self) -> None:
        it = self._attacked
        same = await self._retain("COMPLIANCE", it.until, {})
        self._say("control-retain", "对照：同样写法、日期不变的锁定应被接受", answered(same) if refused(same) else "")
        earlier = it.until - timedelta(hours=1)
        await self._withstood("delete", "锁定期内按版本删除应被拒绝", await self._delete(it.version))
        await self._withstood("bypass", "带绕过标头的按版本删除应被拒绝", await self._delete(it.version, _BYPASS))
        content = deletes_many(it.key, it.version)
        many = await self._store.call(
            "probe", "POST", "probe", query="delete=", headers=xml_headers(content) | _BYPASS, content=content
        )
        seen = "" if deleted_none(many) else "存储回答已删除"
        self._say("delete-many", "以批量删除绕过锁定应被拒绝", seen or await self._harm())
        for slug, claim, mode, until in (
            ("shorten", "缩短合规锁的期限应被拒绝", "COMPLIANCE", earlier),
            ("downgrade", "把合规锁降为治理锁（GOVERNANCE）应被拒绝", "GOVERNANCE", it.until),
            ("unlock", "清空锁定期限应被拒绝", None, it.until),
        ):
            await self._withstood(slug, claim, await self._retain(mode, until, {}))
            await self._withstood(f"{slug}-bypass", f"带绕过标头{claim}", await self._retain(mode, until, _BYPASS))

    async def _attack_bucket(self) -> None:
        async def configure(part: str, body: str) -> Answer:
            content = body.encode()
            return await self._store.call(
                "probe", "PUT", "probe", query=f"{part}=", headers=xml_headers(content), content=content
            )

        async def still_on(part: str, wanted: bytes) -> str:
            answer = await self._store.call("probe", "GET", "probe", query=f"{part}=")
            refused(answer)
            return "" if wanted in answer.content else "事后已不再启用"

        for part, name, on, off in (
            (
                "versioning",
                "版本控制",
                f"<VersioningConfiguration {_XMLNS}><Status>Enabled</Status></VersioningConfiguration>",
                f"<VersioningConfiguration {_XMLNS}><Status>Suspended</Status></VersioningConfiguration>",
            ),
            (
                "object-lock",
                "对象锁定配置",
                f"<ObjectLockConfiguration {_XMLNS}><ObjectLockEnabled>Enabled</ObjectLockEnabled>"
                "</ObjectLockConfiguration>",
                f"<ObjectLockConfiguration {_XMLNS}></ObjectLockConfiguration>",
            ),
        ):
            wanted = b"<Status>Enabled<" if part == "versioning" else b"<ObjectLockEnabled>Enabled<"
            control = await configure(part, on)
            seen = answered(control) if refused(control) else ""
            self._say(f"control-{part}", f"对照：同样写法重申启用{name}应被接受", seen)
            attacked = await configure(part, off)
            seen = "" if refused(attacked) else answered(attacked)
            seen = seen or await still_on(part, wanted) or await self._harm()
            self._say(f"{part}-off", f"停用存储桶的{name}应被拒绝", seen)
        for slug, claim, headers in (
            ("bucket-delete", "删除存储桶应被拒绝", {}),
            ("bucket-force-delete", "强制删除存储桶应被拒绝", {"x-minio-force-delete": "true"}),
        ):
            await self._withstood(slug, claim, await self._store.call("probe", "DELETE", "probe", headers=headers))

    async def _read_whole(self) -> None:
        it = self._attacked
        answer = await self._store.call("probe", "GET", "probe", it.key, f"versionId={it.version}")
        refused(answer)
        same = answer.status_code == 200 and answer.content == it.data
        self._say("bytes", "经历全部攻击后，探针对象的内容应逐字节不变", "" if same else "内容已变或不存在")

    async def _clear_away(self) -> None:
        """Delete what past days left. What the lock still holds is refused and stays until another day."""
        today = datetime.now(UTC).date()
        recent = {f"{_PREFIX}{today - timedelta(days=n)}" for n in range(-1, _LOCKED_DAYS + 1)}
        for key, version in await self._listing(""):
            if key not in recent:
                await self._store.call("probe", "DELETE", "probe", key, f"versionId={version}")

    # Single requests.

    async def _withstood(self, slug: str, claim: str, answer: Answer) -> None:
        seen = "" if refused(answer) else answered(answer)
        harm = await self._harm()
        self._say(slug, claim, "，".join(filter(None, (seen, harm))))

    async def _harm(self) -> str:
        """How the probe object is no longer what it was; empty where it is."""
        it = self._attacked
        answer = await self._store.call(
            "probe", "HEAD", "probe", it.key, f"versionId={it.version}", headers={"x-amz-checksum-mode": "ENABLED"}
        )
        refused(answer)
        if answer.status_code != 200:
            return "被锁定的版本已不存在"
        found = stored_object(it.key, answer.headers)
        if found.lock != "compliance":
            return "对象没有合规锁"
        if found.retain_until is None or found.retain_until < it.until:
            return "锁定期限比要求的短"
        if (found.size, found.sha256) != (len(it.data), it.sha256):
            return "校验值或长度与写入的内容不符"
        return "" if found.version == it.version else "返回的不是所问的版本"

    async def _put(
        self,
        key: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        claimed: bytes | None = None,
        left_out: str = "",
        added: dict[str, str] | None = None,
    ) -> Answer:
        """A PUT signed as a ticket is; `claimed` are the bytes whose checksum it names."""
        signed = {"content-length": str(len(data)), "x-amz-checksum-sha256": checksum(claimed or data)}

        def change(sent: dict[str, str]) -> dict[str, str]:
            return {name: value for name, value in sent.items() if name != left_out} | (added or {})

        # An announced length that is shorter than the bytes must not be made good by the client.
        content = data[:-1] if added and "content-length" in added else data
        return await self._store.call(
            "probe",
            "PUT",
            "probe",
            key,
            headers=signed | lock_headers(self._attacked.until) | (headers or {}),
            content=content,
            ticket=True,
            change=change,
        )

    async def _delete(self, version: str, headers: dict[str, str] | None = None) -> Answer:
        return await self._store.call(
            "probe", "DELETE", "probe", self._attacked.key, f"versionId={version}", headers=headers
        )

    async def _retain(self, mode: str | None, until: datetime, headers: dict[str, str]) -> Answer:
        it = self._attacked
        date_until = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        inner = f"<Mode>{mode}</Mode><RetainUntilDate>{date_until}</RetainUntilDate>" if mode else ""
        content = f"<Retention {_XMLNS}>{inner}</Retention>".encode()
        return await self._store.call(
            "probe",
            "PUT",
            "probe",
            it.key,
            f"retention=&versionId={it.version}",
            headers=xml_headers(content) | headers,
            content=content,
        )

    async def _listing(self, prefix: str) -> list[tuple[str, str]]:
        query = f"max-keys={_LISTED_AT_ONCE}&prefix={quote(prefix, safe='')}&versions="
        listed = await self._store.call("probe", "GET", "probe", query=query)
        if refused(listed):
            raise StoreUnavailable(f"listing the probe bucket answered {listed.status_code}")
        return _listed(listed.content)


def _listed(answer: bytes) -> list[tuple[str, str]]:
    """Key and version of every version (delete markers too) in a ListObjectVersions answer."""
    pairs = []
    for block in re.findall(r"<(?:Version|DeleteMarker)>(.*?)</(?:Version|DeleteMarker)>", answer.decode(), re.S):
        key, version = re.search(r"<Key>(.*?)</Key>", block), re.search(r"<VersionId>(.*?)</VersionId>", block)
        if key and version:
            pairs.append((html.unescape(key[1]), html.unescape(version[1])))
    return pairs
