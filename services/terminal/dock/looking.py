"""What lies in a folder: files that may be taken over, and what is left where it is, each with its reason."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from services.terminal.home import TerminalError

MAX_BYTES = 64 * 1024**3
"""A file, as the api takes it."""
MAX_FILES = 100_000
MAX_DEPTH = 64
_SHOWN = 500
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

Never = Literal["empty", "link", "special", "too-large", "too-deep"]
Why = Literal[Never, "too-many", "unreadable", "changed", "gone", "refused", "disk", "unsent"]
WORDS: Final[dict[Why, str]] = {
    "empty": "空文件，没有内容可接管",
    "link": "符号链接，不跟随；请指明它所指的文件夹",
    "special": "不是普通文件",
    "too-large": "超过 64 GiB",
    "too-deep": f"文件夹层数超过 {MAX_DEPTH}",
    "too-many": f"超过 {MAX_FILES} 个文件，请分文件夹接管",
    "unreadable": "读不出来",
    "changed": "读取时内容有变化，可能还在写；已封存的部分标为不完整，下次运行重新接管",
    "gone": "接管途中读不到文件了（设备拔出？），再次运行同一命令即可接着传",
    "refused": "服务器不接受",
    "disk": "终端目录写不进去",
    "unsent": "还没有送完，再次运行同一命令即可接着传",
}
NEVER: Final = frozenset(get_args(Never))
"""Another run would leave these as well."""


class FolderUnfit(TerminalError):
    exit_code = 2


@dataclass(frozen=True)
class Found:
    """A file as it was seen: what it was then is part of it. `name` is within the folder, fit to be shown."""

    path: str
    name: str
    size: int
    mtime_ns: int
    inode: tuple[int, int]


@dataclass(frozen=True)
class Left:
    name: str
    why: Why
    detail: str = ""

    @property
    def words(self) -> str:
        return WORDS[self.why] + (f"（{self.detail}）" if self.detail else "")


@dataclass
class Look:
    files: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(each.size for each in self.files)


def require_fit(folder: Path, home: Path) -> Path:
    """Raises FolderUnfit where there is no such folder, or the terminal's own keys lie in it."""
    try:
        real, own = folder.expanduser().resolve(strict=True), home.resolve()
    except (OSError, RuntimeError) as error:
        raise FolderUnfit(f"没有这个文件夹：{shown(str(folder))}。") from error
    if not real.is_dir():
        raise FolderUnfit(f"不是文件夹：{shown(str(folder))}。")
    if real.is_relative_to(own) or own.is_relative_to(real):
        raise FolderUnfit(f"文件夹与终端目录重叠，不能接管：{shown(str(folder))}。")
    return real


def look(folder: Path) -> Look:
    """Everything below the folder, by name; links are not followed. Raises OSError where the folder is gone."""
    found = Look()
    _look(found, os.fspath(folder), "", 1)
    return found


def _look(found: Look, path: str, within: str, depth: int) -> None:
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in listed:
        name = within + entry.name
        try:
            seen = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(seen.st_mode):
                if depth == MAX_DEPTH:
                    found.left.append(Left(shown(name), "too-deep"))
                else:
                    _look(found, entry.path, name + "/", depth + 1)
                continue
        except OSError as error:
            found.left.append(Left(shown(name), "unreadable", error.strerror or ""))
            continue
        if (why := _why_not(found, seen)) is not None:
            found.left.append(Left(shown(name), why))
        else:
            found.files.append(found_as(entry.path, shown(name), seen))


def _why_not(found: Look, seen: os.stat_result) -> Why | None:
    if stat.S_ISLNK(seen.st_mode):
        return "link"
    if not stat.S_ISREG(seen.st_mode):
        return "special"
    if not seen.st_size:
        return "empty"
    if seen.st_size > MAX_BYTES:
        return "too-large"
    return "too-many" if len(found.files) >= MAX_FILES else None


def found_as(path: str, name: str, seen: os.stat_result) -> Found:
    return Found(path, name, seen.st_size, seen.st_mtime_ns, (seen.st_dev, seen.st_ino))


def shown(name: str) -> str:
    """A name as it may be printed and stored: bytes that are no text, control characters and those that turn the
    direction of text are spelled out; of one that is too long the end."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text if len(text) <= _SHOWN else "…" + text[1 - _SHOWN :]
