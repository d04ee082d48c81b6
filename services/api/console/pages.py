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
PRESENCES: Final = {
    "closed": "已封存",
    "live": "实时",
    "catching-up": "补传中",
    "silent": "录制中，无数据到达",
    "waiting": "待补传，无数据到达",
    "stopped": "终端已停止",
    "lost": "终端失联",
}
VIEWERS: Final = {
    **dict.fromkeys(("mp4", "mov", "avi", "mkv", "ts"), "film"),
    **dict.fromkeys(("wav", "mp3"), "sound"),
    **dict.fromkeys(("jpg", "png"), "picture"),
    "pdf": "paper",
}
"""What shows a single file of each format; the others are taken along alone."""
MEDIA: Final = {"init": "初始化段", "media": "媒体段"}


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
        viewers=VIEWERS,
    )
    return made


def render(name: str, /, **context: object) -> str:
    """The page `name` (a file in `templates/`) as HTML.

    Raises jinja2.TemplateNotFound for an unknown page and jinja2.UndefinedError for a missing value.
    """
    return environment().get_template(name).render(context)
