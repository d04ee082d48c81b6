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
    "spool-full": "注意！{reason} 新的片段暂不保留，画面继续；有空间后自动恢复",
    "spool-room": "暂存区又有空间，恢复保留；其间 {skipped} 个片段没有保留，将在结束声明中列为缺失",
    "capture-lost": "注意！采集中断（{reason}），{seconds:.0f} 秒后重新开始，记录继续",
    "capture-back": "采集已恢复",
    "stopping": "{reason}，不再接收新的，正在送出剩余片段",
    "dock-found": "{folder}：{files} 个文件，共 {megabytes:.1f} MB",
    "dock-progress": "{file}：已封存 {percent}%（全部 {all_percent}%）",
    "taken-over": "已接管：{file}（{format}，{megabytes:.1f} MB），记录 {recording}，清单签名与整个文件的摘要已验证",
    "already": "已在库中，不再传送：{file}，记录 {recording}",
    "left": "注意！未接管：{file}：{words}",
    "abandoned": "按不完整关闭：{file}，记录 {recording}",
    "docked": "接管 {taken_over} 个，已在库中 {already} 个，未接管 {left} 个\n{table}",
}


class Progress:
    """`retry` and `error` go to stderr unless the form is JSON, everything else to stdout. A reader that went away
    stops nothing."""

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
