"""The console's pages: Jinja templates beside this file, escaped always, strict about names.

    html = render("recordings.html", principal=principal, page=page, state=None)

Every page may also be given `store_lock` ("compliance", "none" or None when it is not known), which
decides the line in the footer, and `principal` (None on pages that need no sign-in).
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.api.console import filters

HERE: Final = Path(__file__).parent
TEMPLATES: Final = HERE / "templates"
STATIC: Final = HERE / "static"
STATIC_URL: Final = "/static"

PURPOSES: Final = {
    "case-handling": "办案使用",
    "spot-check": "监督抽查",
    "training": "培训",
    "other": "其他（请说明）",
}
ROLES: Final = {"officer": "执法人员", "supervisor": "监督人员", "administrator": "管理员"}
LOCKS: Final = {"compliance": "对象锁定（合规模式）", "none": "本地文件夹，不具备对象锁定效力"}
KINDS: Final = {
    "recorder": "执法记录仪",
    "dock": "采集站",
    "phone": "手机",
    "encoder": "编码器或网络摄像机",
    "gateway": "媒体网关",
    "hall-camera": "服务大厅摄像机",
    "instrument": "检测仪器",
}
GAPS: Final = {"disconnected": "来源中断", "not-sealed": "收到而未能封存"}
FACTS: Final = {
    "black": "画面全黑",
    "covered": "画面为单一色调，镜头可能被遮挡",
    "frozen": "画面没有变化",
    "silent": "没有声音",
    "no-picture": "全程没有画面",
    "no-sound": "全程没有声音轨",
    "clock-off": "设备时钟不准",
    "not-closed": "停止时没有关闭",
    "certificate-expired": "检测时检定证书已过期",
}
NOT_CLOSED: Final = {"lost": "终端失去联系", "revoked": "终端密钥已吊销", "cancelled": "上传方已撤销"}
NOT_LOOKED: Final = {
    "not-media": "不是音像，未做检测",
    "unreadable": "检测程序无法读取，未做检测",
    "partly-unreadable": "有一部分检测程序无法读取",
    "gone": "内容已不在，未做检测",
    "no-ffmpeg": "服务器没有 ffmpeg，未做检测",
}
PRESENCES: Final = {
    "closed": "已封存",
    "live": "实时",
    "catching-up": "补传中",
    "silent": "录制中，无数据到达",
    "waiting": "待补传，无数据到达",
    "stopped": "终端已停止",
    "lost": "终端失联",
}
TAKEOVERS: Final = {
    "no-link": "无网络",
    "device-cannot-stream": "设备不支持直传",
    "recovered": "设备恢复",
    "other": "其他",
}
VIEWERS: Final = {
    **dict.fromkeys(("mp4", "mov", "avi", "mkv", "ts"), "film"),
    **dict.fromkeys(("wav", "mp3"), "sound"),
    **dict.fromkeys(("jpg", "png"), "picture"),
    "pdf": "paper",
}
"""What shows a single file of each format; the others are taken along alone."""
MEDIA: Final = {"init": "初始化段", "media": "媒体段", "file": "文件的版本"}
FILE_KINDS: Final = {"photo": "照片", "sound": "录音", "document": "文档", "result": "检测结果"}
REQUESTS: Final = {"asked": "待移交", "handed-over": "已移交", "refused": "已拒绝", "lapsed": "已逾期"}


@cache
def static(name: str) -> str:
    """The address of a file under `static/`, with a part of its digest so that it may be cached for ever.

    Raises FileNotFoundError for a file that is not there.
    """
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"{STATIC_URL}/{name}?v={filters.short(digest)}"


@cache
def environment() -> Environment:
    """The one Jinja environment: autoescape for every template, and an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(shanghai=filters.shanghai, size=filters.size, duration=filters.duration, short=filters.short)
    # None is the answer for a page whose caller does not know the store or the person (an error page).
    made.globals.update(
        static=static,
        store_lock=None,
        principal=None,
        room="recordings",
        purposes=PURPOSES,
        roles=ROLES,
        locks=LOCKS,
        presences=PRESENCES,
        media_names=MEDIA,
        kinds=KINDS,
        gap_names=GAPS,
        fact_names=FACTS,
        not_closed=NOT_CLOSED,
        not_looked=NOT_LOOKED,
        takeover_names=TAKEOVERS,
        viewers=VIEWERS,
        file_kinds=FILE_KINDS,
        request_states=REQUESTS,
    )
    return made


def render(name: str, /, **context: object) -> str:
    """The page `name` (a file in `templates/`) as HTML.

    Raises jinja2.TemplateNotFound for an unknown page and jinja2.UndefinedError for a missing value.
    """
    return environment().get_template(name).render(context)
