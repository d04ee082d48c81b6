"""What each of the store's identities is denied on the evidence, and the little that it must be allowed.

Every request is harmless where it should succeed: it names an object that is not there, a version that was
never given, bytes that do not fit their own checksum, the setting that is in force already, a setting that cannot be
read (400 where it is allowed), or the removal of a bucket that is not empty (409).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.vault.errors import StoreUnavailable
from services.vault.stores.attacks import (
    OTHER_BYTES,
    answered,
    checksum,
    deleted_none,
    deletes_many,
    lock_headers,
    refused,
    xml_headers,
)
from services.vault.stores.findings import Findings
from services.vault.stores.s3 import Bucket, S3Store, Who

_NOTHING = "conformance/nothing"
_NEVER_GIVEN = "00000000-0000-4000-8000-000000000000"
_NO_VERSION = f"versionId={_NEVER_GIVEN}"
_MANY = deletes_many(_NOTHING, _NEVER_GIVEN)
_BYPASS = {"x-amz-bypass-governance-retention": "true"}
_VERSIONING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
_LOCKING = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
_HOLD = b"<LegalHold><Status>ON</Status></LegalHold>"
_UNREADABLE = b"<"
_EXTRACT = "x-amz-meta-snowball-auto-extract"
"""MinIO unpacks a tar that is put with this set, into any keys of the bucket; a ticket signs it as false."""
_AT_ONCE = 8


@dataclass(frozen=True)
class _Try:
    """One request and the statuses it may meet: 403 alone unless told otherwise."""

    who: Who | None
    slug: str
    claim: str
    method: str
    bucket: Bucket = "evidence"
    key: str = _NOTHING
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    added: dict[str, str] = field(default_factory=dict)
    ticket: bool = False
    wanted: tuple[int, ...] = (403,)


async def examine_rights(store: S3Store, findings: Findings) -> None:
    """Raises StoreUnavailable where the store does not answer."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def seen(it: _Try) -> str:
        async with gate:
            answer = await store.call(
                it.who,
                it.method,
                it.bucket,
                it.key,
                it.query,
                headers=it.headers,
                content=it.content,
                ticket=it.ticket,
                change=lambda sent: sent | it.added,
            )
        if it.content is _MANY:
            return "" if deleted_none(answer) else "存储回答已删除"
        refused(answer)
        return "" if answer.status_code in it.wanted else answered(answer)

    tries = [*_of_put(store.bucket("evidence")), *_of_keep(), *_of_probe(), *_of_strangers()]
    if await _holds_something(store):
        tries += [_removes(who) for who in ("put", "keep", "probe")]
    for it, told in zip(tries, await asyncio.gather(*map(seen, tries)), strict=True):
        findings.say(it.slug, it.claim, told)


async def _holds_something(store: S3Store) -> bool:
    """Whether a version lies among the evidence. An empty bucket would be gone where its removal is allowed."""
    listed = await store.call("keep", "GET", "evidence", query="max-keys=1&versions=")
    if refused(listed):
        raise StoreUnavailable(f"listing the evidence answered {listed.status_code}")
    return b"<Version>" in listed.content


def _removes(who: Who) -> _Try:
    return _Try(who, f"{who}-bucket-delete", f"{who} 应无权删除证据桶", "DELETE", key="")


def _bad_put(**changes: str) -> dict[str, str]:
    """The headers of a ticket for other bytes than OTHER_BYTES: where it may be put, it is refused with 400."""
    until = datetime.now(UTC) + timedelta(days=1)
    told = {"content-length": str(len(OTHER_BYTES)), "x-amz-checksum-sha256": checksum(b"not these")}
    return told | {"if-none-match": "*"} | lock_headers(until) | {k.replace("_", "-"): v for k, v in changes.items()}


def _put_as(who: Who, slug: str, claim: str, bucket: Bucket = "evidence", *wanted: int, hold: bool = False) -> _Try:
    headers = _bad_put(x_amz_object_lock_legal_hold="ON") if hold else _bad_put()
    if bucket in ("log", "staging"):
        headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-object-lock")}
    return _Try(
        who,
        slug,
        claim,
        "PUT",
        bucket,
        headers=headers,
        content=OTHER_BYTES,
        ticket=True,
        wanted=wanted or (403,),
    )


def _deletes(who: Who) -> list[_Try]:
    return [
        _Try(who, f"{who}-delete", f"{who} 应无权按版本删除证据", "DELETE", query=_NO_VERSION),
        _Try(who, f"{who}-bypass", f"{who} 应无权绕过锁定删除证据", "DELETE", query=_NO_VERSION, headers=_BYPASS),
        _Try(
            who,
            f"{who}-delete-many",
            f"{who} 应无权批量删除证据",
            "POST",
            key="",
            query="delete=",
            headers=xml_headers(_MANY),
            content=_MANY,
        ),
    ]


def _configures(who: Who) -> list[_Try]:
    return [
        _Try(
            who,
            f"{who}-{part}",
            f"{who} 应无权更改证据桶的{name}",
            "PUT",
            key="",
            query=f"{part}=",
            headers=xml_headers(body),
            content=body,
        )
        for part, name, body in (
            ("versioning", "版本控制", _VERSIONING),
            ("object-lock", "对象锁定配置", _LOCKING),
            ("policy", "访问策略", _UNREADABLE),
            ("lifecycle", "生命周期规则", _UNREADABLE),
            ("tagging", "标签", _UNREADABLE),
        )
    ]


def _of_put(evidence: str) -> list[_Try]:
    copied = {"x-amz-copy-source": f"/{evidence}/conformance/other"}
    ticket = _bad_put() | {"content-length": "0"}
    return [
        # 400: allowed to put, and told that these are not the bytes of the ticket.
        _put_as("put", "put-puts", "put 应能写入证据桶（此处内容不符，被拒绝）", "evidence", 400),
        _Try("put", "put-get", "put 应无权读取证据", "GET"),
        _Try("put", "put-head", "put 应无权查看证据", "HEAD"),
        _Try("put", "put-list", "put 应无权列出证据", "GET", key="", query="list-type=2&max-keys=1"),
        *_deletes("put"),
        *_configures("put"),
        _Try(
            "put",
            "put-hold",
            "put 应无权设置复议诉讼留存标志",
            "PUT",
            query="legal-hold=",
            headers=xml_headers(_HOLD),
            content=_HOLD,
        ),
        _put_as("put", "put-hold-header", "put 应无权在写入时设置复议诉讼留存标志", hold=True),
        _put_as("put", "put-log", "put 应无权写入日志桶", "log"),
        _put_as("put", "put-probe", "put 应无权写入探针桶", "probe"),
        _put_as("put", "put-staging", "put 应无权写入副本桶", "staging"),
        _Try(
            "put",
            "put-copy",
            "在凭单上添加 x-amz-copy-source 应被拒绝",
            "PUT",
            headers=ticket,
            added=copied,
            ticket=True,
        ),
        _Try(
            "put",
            "put-extract",
            "把凭单上禁止解包的标头改为允许应被拒绝",
            "PUT",
            headers=ticket | {_EXTRACT: "false"},
            added={_EXTRACT: "true"},
            ticket=True,
        ),
    ]


def _of_keep() -> list[_Try]:
    return [
        _Try("keep", "keep-heads", "keep 应能查看证据（此处对象不存在）", "HEAD", wanted=(404,)),
        _put_as("keep", "keep-put", "keep 应无权写入证据"),
        *_deletes("keep"),
        *_configures("keep"),
        _Try("keep", "keep-log-delete", "keep 应无权删除日志桶中的版本", "DELETE", "log", query=_NO_VERSION),
        _Try("keep", "keep-log-remove", "keep 应无权删除日志桶中除部分瓦片以外的文件", "DELETE", "log"),
        _put_as("keep", "keep-log", "keep 应能写入日志桶（此处内容不符，被拒绝）", "log", 400),
        _put_as("keep", "keep-staging", "keep 应能写入副本桶（此处内容不符，被拒绝）", "staging", 400),
        _put_as("keep", "keep-probe", "keep 应无权写入探针桶", "probe"),
    ]


def _of_probe() -> list[_Try]:
    return [
        _Try("probe", "probe-get", "probe 应无权读取证据", "GET"),
        _put_as("probe", "probe-put", "probe 应无权写入证据"),
        *_deletes("probe"),
        *_configures("probe"),
    ]


def _of_strangers() -> list[_Try]:
    bare = {name: value for name, value in _bad_put().items() if not name.startswith("x-amz-object-lock")}
    return [
        _Try(None, "open-get", "未签名的请求应无权读取证据", "GET"),
        _Try(None, "open-copies", "未签名的请求应无权读取副本", "GET", "staging"),
        _Try(None, "open-list", "未签名的请求应无权列出证据", "GET", key="", query="list-type=2&max-keys=1"),
        _Try(None, "open-put", "未签名的请求应无权写入证据", "PUT", headers=bare, content=OTHER_BYTES),
        _Try(None, "open-delete", "未签名的请求应无权删除证据", "DELETE", query=_NO_VERSION),
    ]
