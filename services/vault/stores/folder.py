"""What the local folder promises, tried on a folder beside the evidence: write-once by ticket, and read-only files.

It is not Object Lock, and no check here says otherwise: whoever owns the machine can alter or remove its files.
The one probe object is put at the first start and stays; everything else that is tried must leave nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx

from services.vault.contract.wire import TICKET_SECONDS
from services.vault.errors import StoreFull
from services.vault.stores.attacks import answered
from services.vault.stores.findings import Finding, Findings
from services.vault.stores.local import LocalStore

NOT_OBJECT_LOCK = (
    "本地文件夹不是对象锁定（Object Lock）：它只对守规矩的程序一次写入，掌握本机的人仍能改动或删除。"
    "签发的凭证都写明 none。"
)
_KEY = "probe/object"
_DATA = b"quancheng local folder probe\n" * 64
_OTHER = b"other bytes than the ticket's\n" * 64

Headers = dict[str, str]


async def examine_folder(store: LocalStore) -> list[Finding]:
    """Raises StoreUnfit where the folder cannot be used at all, and StoreFull."""
    probe = store.beside("probe")
    await asyncio.to_thread(probe.prepare)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(probe)) as door:
        return await _examine(probe, door)


async def _examine(probe: LocalStore, door: httpx.AsyncClient) -> list[Finding]:
    findings, now = Findings(), datetime.now(UTC)

    async def put(
        key: str,
        data: bytes,
        *,
        body: bytes | None = None,
        change: Callable[[Headers], Headers] = dict,
        at: datetime = now,
    ) -> httpx.Response:
        ticket = probe.put_ticket(key, hashlib.sha256(data).hexdigest(), len(data), now, at)
        answer = await door.put(ticket.url, content=data if body is None else body, headers=change(ticket.headers))
        if answer.status_code == 507:
            raise StoreFull(key)
        return answer

    # What is promised is kept.
    first = await put(_KEY, _DATA)
    kept = await probe.head(_KEY)
    same = kept is not None and (kept.size, kept.sha256) == (len(_DATA), hashlib.sha256(_DATA).hexdigest())
    seen = "" if first.status_code in (200, 412) else answered(first)
    findings.say("put", "凭单写入的内容应如实读回", seen or ("" if same else "内容不符或不存在"))
    for slug, claim, data in (
        ("write-once", "同名再次写入应被拒绝（412）", _DATA),
        ("overwrite", "以其他内容覆盖应被拒绝（412）", _OTHER),
    ):
        again = await put(_KEY, data)
        unchanged = await probe.head(_KEY) == kept
        seen = "" if again.status_code == 412 else answered(again)
        findings.say(slug, claim, seen or ("" if unchanged else "内容已变"))
    mode = await asyncio.to_thread(probe.mode, _KEY)
    findings.say("read-only", "已写入的文件应为只读（0444）", "" if mode == 0o444 else f"权限为 {mode:04o}")
    # What no ticket allows is refused, and leaves nothing.
    lapsed = now - timedelta(seconds=TICKET_SECONDS + 60)
    fresh = f"bad/{secrets.token_hex(8)}"
    for slug, claim, answer in (
        ("other-bytes", "与凭单校验值不符的内容应被拒绝", await put(fresh, _DATA, body=_OTHER[: len(_DATA)])),
        ("other-length", "比凭单登记的长的内容应被拒绝", await put(fresh, _DATA, body=_DATA + b"x")),
        ("lapsed", "过期的凭单应被拒绝", await put(fresh, _DATA, at=lapsed)),
        (
            "header-left-out",
            "去掉已签名的标头应被拒绝",
            await put(fresh, _DATA, change=lambda told: {k: v for k, v in told.items() if k != "if-none-match"}),
        ),
        (
            "header-added",
            "添加未签名的标头应被拒绝",
            await put(fresh, _DATA, change=lambda told: told | {"x-amz-copy-source": f"/{_KEY}"}),
        ),
    ):
        left = await probe.head(fresh)
        seen = "" if answer.status_code in (400, 403) else answered(answer)
        findings.say(slug, claim, seen or ("存储回答已拒绝，却留下了内容" if left else ""))
    return findings.found
