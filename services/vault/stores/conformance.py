"""Whether a store keeps what it promises: asked at every start, and by `check-store`.

For S3, in this order:

1. The clocks agree within `MAX_DRIFT`, the evidence and probe buckets are set to version and to lock, and no rule
   lets evidence expire.
2. The lock withstands an attack with full rights, on the probe bucket (`attacks.py`).
3. *put*, *keep*, *probe* and strangers are denied everything on the evidence that is not theirs (`rights.py`).

For the local folder: what `folder.py` says. The order matters: the evidence bucket is only touched by a store
that has shown that it refuses bytes which are not those of the ticket.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

from services.vault.errors import StoreUnavailable, StoreUnfit
from services.vault.stores.attacks import Attack, refused
from services.vault.stores.calls import Answer
from services.vault.stores.findings import Finding, Findings
from services.vault.stores.folder import examine_folder
from services.vault.stores.local import LocalStore
from services.vault.stores.port import Store
from services.vault.stores.rights import examine_rights
from services.vault.stores.s3 import Bucket, S3Store, Who

MAX_DRIFT = timedelta(seconds=5)
_SECONDS = 20.0
"""A healthy store needs a fraction of one second; a start does not wait longer than this."""
_TOLD = 3
_EXPIRES = re.compile(rb"<(?:Noncurrent\w*|AllVersions|DelMarker)?Expiration\b")
"""Of versions, or of markers that hide them; an upload that was broken off may be cleared away by rule."""


async def require(store: Store) -> None:
    """Raises StoreUnfit, which names in one sentence what gave way, or StoreUnavailable."""
    broken = [finding for finding in await examine(store) if not finding.held]
    if broken:
        told = "；".join(f"{finding.claim}（{finding.seen}）" for finding in broken[:_TOLD])
        rest = f"；另有 {len(broken) - _TOLD} 项" if len(broken) > _TOLD else ""
        raise StoreUnfit(f"存储没有守住承诺，拒绝启动：{told}{rest}。")


async def examine(store: Store) -> list[Finding]:
    """Every check that this store allows, in order; one that makes the next ones pointless is the last."""
    try:
        async with asyncio.timeout(_SECONDS):
            if isinstance(store, S3Store):
                return await _examine_s3(store)
            assert isinstance(store, LocalStore)
            return await examine_folder(store)
    except TimeoutError as error:
        raise StoreUnavailable(f"the store was not done with its checks after {_SECONDS:.0f} s") from error


async def configuration(store: Store) -> list[Finding]:
    """Whether the evidence bucket still is set to version, to lock and to expire nothing. Cheap: asked again while
    running."""
    findings = Findings()
    if isinstance(store, S3Store) and await _configured(store, findings, "keep", "evidence"):
        await _expires_nothing(store, findings)
    return findings.found


async def _examine_s3(store: S3Store) -> list[Finding]:
    findings = Findings()
    drift = await store.drift()
    far = abs(drift) > MAX_DRIFT
    findings.say("clock", "证据库与存储的时钟相差应不超过 5 秒", told_drift(drift) if far else "")
    ready = await _configured(store, findings, "keep", "evidence")
    ready = ready and await _expires_nothing(store, findings)
    ready &= await _configured(store, findings, "probe", "probe")
    if ready and not far:
        try:
            await Attack(store, findings).run()
            if findings.all_held:
                await examine_rights(store, findings)
        except StoreUnavailable:
            # A store that gave way and then fell silent is told by what gave way.
            if findings.all_held:
                raise
    return findings.found


def told_drift(drift: timedelta) -> str:
    return f"存储的时钟{'快' if drift > timedelta() else '慢'}约 {abs(drift.total_seconds()):.0f} 秒"


async def _configured(store: S3Store, findings: Findings, who: Who, bucket: Bucket) -> bool:
    name = f"存储桶 {store.bucket(bucket)}"
    versioning = await store.call(who, "GET", bucket, query="versioning=")
    if versioning.status_code == 404:
        return findings.say(f"bucket-{bucket}-exists", f"{name} 应存在", f"{name} 不存在，请先运行 setup-store")
    on = b"<Status>Enabled</Status>" in _told(versioning)
    findings.say(f"bucket-{bucket}-versioning", f"{name} 应启用版本控制", "" if on else f"{name} 未启用版本控制")
    # Where no bucket ever had a lock configuration the store answers 404.
    locking = await store.call(who, "GET", bucket, query="object-lock=")
    lock = b"" if locking.status_code == 404 else _told(locking)
    locks = b"<ObjectLockEnabled>Enabled</ObjectLockEnabled>" in lock
    seen = "" if locks else f"{name} 未启用对象锁定（Object Lock）"
    findings.say(f"bucket-{bucket}-lock", f"{name} 应启用对象锁定", seen)
    weak = b"<Mode>GOVERNANCE</Mode>" in lock
    seen = f"{name} 的默认锁定方式是可以绕过的治理锁（GOVERNANCE）" if weak else ""
    findings.say(f"bucket-{bucket}-default", f"{name} 的默认锁定方式不应是治理锁", seen)
    return on and locks and not weak


async def _expires_nothing(store: S3Store, findings: Findings) -> bool:
    """A rule deletes what has lapsed without any order, and nobody is told."""
    name = f"存储桶 {store.bucket('evidence')}"
    rules, seen = await store.call("keep", "GET", "evidence", query="lifecycle="), ""
    if rules.status_code == 403:
        seen = f"keep 无权查看 {name} 的生命周期规则，请重新运行 setup-store"
    elif rules.status_code != 404 and _EXPIRES.search(_told(rules)):
        seen = f"{name} 有使对象到期删除的生命周期规则"
    return findings.say("bucket-evidence-lifecycle", f"{name} 不应有使对象到期删除的生命周期规则", seen)


def _told(response: Answer) -> bytes:
    if refused(response):
        raise StoreUnavailable(f"{response.url} answered {response.status_code}")
    return response.content
