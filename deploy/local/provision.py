"""`./dev test`: get what the tests need that no Python package brings, then run pytest.

MinIO, Chromium, a Go, libfaketime, strace, nft, Caddy, the witness litewitness and tus-js-client are found or made;
their paths go to pytest as QUANCHENG_MINIO, QUANCHENG_CHROMIUM, QUANCHENG_GO, QUANCHENG_FAKETIME, QUANCHENG_STRACE,
QUANCHENG_NFT, QUANCHENG_CADDY, QUANCHENG_LITEWITNESS and QUANCHENG_TUSJS.
What cannot be had is said before and after the tests, with what cannot run without it; with CI=true it
fails the run, however well the other tests went.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local import nodes, peers
from deploy.local.golang import cache_folder
from deploy.local.minio import find_or_build
from deploy.local.processes import ROOT, LocalError

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FONT = "fonts-noto-cjk"


@dataclass(frozen=True)
class Missing:
    """Something that could not be had: what, why, and which tests it takes with it."""

    what: str
    why: str
    tests: str


def say(text: str) -> None:
    print(f"· {text}" if not text.startswith(" ") else text, file=sys.stderr, flush=True)


# --- Chromium ---


def find_chromium() -> Path:
    """A Chromium that starts: `$QUANCHENG_CHROMIUM`, PATH, Debian's package (as root), else Playwright's."""
    named = os.environ.get("QUANCHENG_CHROMIUM")
    if named:
        if not starts(Path(named)):
            raise LocalError(f"QUANCHENG_CHROMIUM 指向的 {named} 不能启动。")
        return Path(named).absolute()
    reasons = ["PATH 中没有 Chromium"]
    if found := on_path():
        return found
    if can_install():
        if install("chromium", FONT) and (found := on_path()):
            return found
        reasons.append("Debian 软件包 chromium 安装失败或不能启动")
    else:
        reasons.append("不是 root 或没有 apt-get,无法安装软件包")
    if found := playwright_chromium():
        return found
    reasons.append("Playwright 的 Chromium 下载失败或缺少系统库")
    raise LocalError(";".join(reasons) + "。")


def on_path() -> Path | None:
    found = (shutil.which(name) for name in CHROMIUM_NAMES)
    return next((Path(f) for f in found if f and starts(Path(f))), None)


def starts(program: Path) -> bool:
    """Whether `program` gets as far as telling its version, which takes all its libraries."""
    try:
        said = subprocess.run([str(program), "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.returncode == 0


def can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*packages: str) -> bool:
    """Install Debian packages as root, quietly unless it fails; whether it worked."""
    say(f"正在安装 Debian 软件包 {' '.join(packages)} … installing with apt-get")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *argv], env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            say("\n".join(["apt-get 失败:", *(done.stdout + done.stderr).splitlines()[-8:]]))
            return False
    return True


def has_chinese_font() -> bool:
    """Whether a browser here can draw Chinese; taken for granted where fontconfig cannot be asked."""
    if sys.platform != "linux":
        return True
    if shutil.which("fc-list") is None:
        return False
    listed = subprocess.run(["fc-list", ":lang=zh-cn"], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip())


def playwright_chromium() -> Path | None:
    say("正在下载 Playwright 的 Chromium(约 150 MB)… downloading Chromium")
    os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", str(cache_folder() / "playwright"))
    playwright = [sys.executable, "-P", "-m", "playwright", "install", "chromium"]
    if subprocess.run(playwright, check=False).returncode != 0:
        return None
    ask = "from playwright.sync_api import sync_playwright as s\nwith s() as p: "
    ask += "print(p.chromium.executable_path)"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    found = Path(told.stdout.strip() or "/nonexistent")
    return found if starts(found) else None


def find_browser() -> Path:
    """Chromium, and as root the font without which its screenshots show boxes for Chinese."""
    found = find_chromium()
    if not has_chinese_font():
        if can_install():
            install(FONT)
        else:
            say(f"没有中文字体,网页截图中的汉字会显示为方框(Debian 软件包 {FONT})")
    return found


# --- a clock that can be stepped ---


def find_faketime() -> Path:
    """libfaketime, preloaded into a process whose clock is stepped: `$QUANCHENG_FAKETIME`, or Debian's package."""
    named = os.environ.get("QUANCHENG_FAKETIME")
    if named:
        if not Path(named).is_file():
            raise LocalError(f"QUANCHENG_FAKETIME 指向的 {named} 不存在。")
        return Path(named).absolute()
    if found := faketime_here():
        return found
    if can_install() and install("libfaketime") and (found := faketime_here()):
        return found
    raise LocalError("没有 libfaketime(Debian 软件包 libfaketime),也无法安装。")


def faketime_here() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


# --- eyes on system calls ---


def find_strace() -> Path:
    """strace: `$QUANCHENG_STRACE`, PATH, or Debian's package."""
    found = os.environ.get("QUANCHENG_STRACE") or shutil.which("strace")
    if not found and can_install() and install("strace"):
        found = shutil.which("strace")
    if found and starts(Path(found)):
        return Path(found).absolute()
    raise LocalError("没有可用的 strace(Debian 软件包 strace),也无法安装。")


# --- a link that loses packets ---


def find_nft() -> Path:
    """nft, for root: `$QUANCHENG_NFT`, PATH, or Debian's package, with the `ip` that it needs beside it."""
    if os.geteuid() != 0:
        raise LocalError("不是 root,不能建立网络命名空间。")
    found = os.environ.get("QUANCHENG_NFT") or shutil.which("nft")
    if (not found or not shutil.which("ip")) and can_install() and install("nftables", "iproute2"):
        found = shutil.which("nft")
    if found and starts(Path(found)) and shutil.which("ip"):
        return Path(found).absolute()
    raise LocalError("没有可用的 nft 与 ip(Debian 软件包 nftables、iproute2),也无法安装。")


# --- a client in JavaScript ---


def find_tus_js() -> Path:
    """tus-js-client for the Node that is here, or Debian's."""
    if not (shutil.which("node") and shutil.which("npm")) and can_install():
        install("nodejs", "npm")
    return nodes.find_tus_js(say)


# --- all of it ---


def provide() -> list[Missing]:
    """Put what the tests need into this process's environment; returns what could not be had."""
    wanted: list[tuple[str, Callable[[], Path], str, str]] = [
        ("QUANCHENG_MINIO", lambda: find_or_build(say), "MinIO", "对象存储(S3,Object Lock)一侧的全部测试"),
        ("QUANCHENG_CHROMIUM", find_browser, "Chromium", "tests/browser 的全部测试"),
        ("QUANCHENG_GO", lambda: peers.find_go(say), "Go", "由独立客户端读取公开日志的测试"),
        ("QUANCHENG_FAKETIME", find_faketime, "libfaketime", "时钟跳变的测试"),
        ("QUANCHENG_STRACE", find_strace, "strace", "证据先落盘、后签收的测试"),
        ("QUANCHENG_NFT", find_nft, "nft", "丢包网络中的终端的测试"),
        ("QUANCHENG_CADDY", lambda: peers.find_caddy(say), "Caddy", "反向代理(TLS)的测试"),
        ("QUANCHENG_TUSJS", find_tus_js, "tus-js-client", "由 tus-js-client 上传的测试"),
        ("QUANCHENG_LITEWITNESS", lambda: peers.find_litewitness(say), "litewitness", "日志见证的测试"),
    ]
    missing = []
    for variable, find, what, tests in wanted:
        try:
            os.environ[variable] = str(find())
        except LocalError as e:
            os.environ.pop(variable, None)
            missing.append(Missing(what, str(e), tests))
    return missing


def tell(missing: list[Missing]) -> None:
    if not missing:
        return
    bar = "!" * 78
    lines = [bar, "缺少测试所需的程序 MISSING — 下列测试无法进行,结果不完整:"]
    for m in missing:
        lines += [f"  ✗ {m.what}", f"      原因 why:  {m.why}", f"      影响 tests: {m.tests}"]
    print("\n".join([*lines, bar]), file=sys.stderr, flush=True)


def main() -> int:
    missing = provide()
    tell(missing)
    # Most of a test's time is waiting: a run of everything takes three files at a time.
    arguments = sys.argv[1:] or ["-n", "3", "--dist", "loadfile"]
    # Ctrl-C goes to pytest as well; it ends the run in its own way, and we tell its result.
    pytest = subprocess.Popen([sys.executable, "-P", "-m", "pytest", *arguments], cwd=ROOT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = pytest.wait()
    tell(missing)
    if missing and os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        print("CI=true:缺少上述程序,本次测试不通过。", file=sys.stderr, flush=True)
        return status or 1
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
