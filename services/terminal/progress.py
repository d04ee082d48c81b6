"""What a run tells whoever started it: a Chinese line for people, or one JSON object a line for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, Literal

Form = Literal["plain", "json"]

_SENTENCES = {
    "recording": "开始录制：{recording}",
    "sealed": "片段 {sequence} 已封存：{seconds:.1f} 秒 {kilobytes} KB，凭证已验证，往返 {ms} 毫秒",
    "closed": "记录 {recording} 已关闭：{segments} 个片段 {megabytes:.1f} MB，清单签名与根哈希已验证",
    "leftover": "续传上次留下的记录 {recording}：{pending} 个片段尚无凭证",
    "followed": "证据库更换了签名密钥，接替声明由双方签名、已验证，改认 {key_id}",
    "stopping": "{reason}，停止录制，正在送出剩余片段",
}


class Progress:
    """`recording`, `sealed`, `closed`, `leftover`, `followed` and `stopping` go to stdout; `retry` and `error` are
    also for people, and go to stderr unless the form is JSON. A reader that went away stops nothing."""

    def __init__(self, form: Form):
        self._form = form

    def tell(self, event: str, **fields: Any) -> None:
        if self._form == "json":
            self._write(sys.stdout, json.dumps({"event": event, **fields}, ensure_ascii=False))
        elif event == "retry":
            self._write(sys.stderr, f"{fields['reason']}，{fields['seconds']:.1f} 秒后再试")
        elif event == "error":
            self._write(sys.stderr, f"错误：{fields['reason']}")
        else:
            self._write(sys.stdout, _SENTENCES[event].format(**fields))

    @staticmethod
    def _write(stream: Any, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=stream, flush=True)
