"""Where a recording or a file came from, in plain words, and what that is worth. Pure: one table.

What decides is who stands behind the bytes: a device's own key, an address that somebody knew, a gateway that took
them apart, a person who brought or handed them over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Slug = Literal[
    "device-signed",
    "dock-signed",
    "imported",
    "remuxed",
    "address-push",
    "address-upload",
    "address-file",
    "instrument-file",
    "person-file",
]
_SEALED = "自接收起逐字节封存，此后的任何改动都能查出"


@dataclass(frozen=True)
class Worth:
    """`origin`: where it came from; `weight`: what that is worth."""

    slug: Slug
    origin: str
    weight: str


TABLE: Final[dict[Slug, tuple[str, str]]] = {
    "device-signed": (
        "执法设备自身签名并直接传来",
        "最可靠：片段由登记在设备上的密钥证明出自该设备，离开设备后的任何改动都能查出。",
    ),
    "dock-signed": (
        "采集站接管设备中的文件后签名传来",
        "采集站的签名证明接管之后未改动；接管之前在设备内的情况没有签名。",
    ),
    "imported": (
        "由外单位系统导出并移交",
        f"移交之前的真实、完整由移交方说明；{_SEALED}。移交人、接收人和时间见移交情况。",
    ),
    "remuxed": (
        "经媒体网关重新封装后推送",
        f"不是设备的原始封装，网关可能改动；没有设备签名。{_SEALED}。",
    ),
    "address-push": (
        "通过推送地址传来，没有设备签名",
        f"只能证明由知道该地址的一方传来，不能证明出自哪台设备。{_SEALED}。",
    ),
    "address-upload": (
        "通过地址上传的已有文件，没有设备签名",
        f"不是实时传输；上传之前的情况无从证明，只能证明由知道该地址的一方传来。{_SEALED}。",
    ),
    "address-file": (
        "通过地址送来的单个文件，没有设备签名",
        f"送来之前的情况无从证明，只能证明由知道该地址的一方送来。{_SEALED}。",
    ),
    "instrument-file": (
        "检测仪器通过地址送来，没有仪器签名",
        f"读数由送来的一方填报，须与仪器及其检定证书核对。{_SEALED}。",
    ),
    "person-file": (
        "由已登录的人员送来",
        f"送来之前的情况由该人员说明；能证明是谁、何时送来。{_SEALED}。",
    ),
}


def worth_of(
    door: str,
    source_kind: str | None,
    *,
    signed: bool = False,
    taken_over: bool = False,
    remuxed: bool = False,
    handed_over: bool = False,
) -> Worth:
    """`source_kind` is None where a person brought it; `taken_over`: as a file that was finished already."""
    slug = _slug(door, source_kind, signed, taken_over, remuxed, handed_over)
    return Worth(slug, *TABLE[slug])


def _slug(
    door: str, source_kind: str | None, signed: bool, taken_over: bool, remuxed: bool, handed_over: bool
) -> Slug:
    if handed_over:
        return "imported"
    if signed:
        return "dock-signed" if taken_over else "device-signed"
    if remuxed:
        return "remuxed"
    if source_kind is None:
        return "person-file"
    if door == "push":
        return "address-push"
    if door == "resumable":
        return "address-upload"
    return "instrument-file" if source_kind == "instrument" else "address-file"
