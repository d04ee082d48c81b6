"""Child processes of the local default: started, watched, restarted, and never left behind.

`Supervised` keeps one program running. `LocalError` carries the one sentence that a person sees when the
machine does not let us go on.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

LARGEST_LOG = 16 << 20  # bytes; a longer one becomes .old.log at the next start
ROOT = Path(__file__).resolve().parents[2]

Report = Callable[[str], None]


class LocalError(Exception):
    """The local default cannot go on. Its message is one clear Chinese sentence for a person."""


# --- what the machine refuses, in one sentence ---


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into a `LocalError` about `path`."""
    try:
        yield
    except OSError as e:
        where = e.filename or path
        if e.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise LocalError(f"磁盘空间不足,无法写入 {where}。请清理磁盘或用 --data 指定别的目录。") from e
        if e.errno == errno.EFBIG:
            raise LocalError(f"系统限制了文件大小(ulimit -f),无法写入 {where}。请放宽限制后再试。") from e
        if e.errno in {errno.EACCES, errno.EPERM}:
            raise LocalError(f"没有访问 {where} 的权限。请检查目录权限或用 --data 指定别的目录。") from e
        if e.errno == errno.EROFS:
            raise LocalError(f"{where} 所在的文件系统是只读的。请用 --data 指定别的目录。") from e
        if e.errno == errno.ENOENT:
            raise LocalError(f"找不到 {where}。") from e
        if e.errno in {errno.ENOTDIR, errno.EEXIST}:
            raise LocalError(f"{where} 已存在但不是目录。请用 --data 指定别的目录。") from e
        raise


def say_why(log: str, otherwise: str) -> LocalError:
    """The `LocalError` for a program that left these last lines in its log; a known cause needs only a sentence."""
    short = otherwise.partition("\n")[0].rstrip(":")
    if "No space left on device" in log or "not enough space" in log:
        return LocalError(f"磁盘空间不足:{short}")
    if "Permission denied" in log:
        return LocalError(f"权限不足:{short}")
    if "ddress already in use" in log:
        return LocalError(f"端口已被占用:{short}")
    if "File too large" in log:
        return LocalError(f"系统限制了文件大小(ulimit -f):{short}")
    return LocalError(otherwise)


def make_folder(path: Path, mode: int = 0o755) -> Path:
    """Create `path` (and its parents) with exactly `mode`; says plainly why it cannot."""
    with plainly(path):
        path.mkdir(parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
    return path


def require_room(folder: Path, megabytes: int) -> None:
    """Refuse to start where less than `megabytes` are free: a full disk is easier told before than after."""
    with plainly(folder):
        free = shutil.disk_usage(folder).free
    if free < megabytes << 20:
        have = f"{folder} 所在磁盘只剩 {free >> 20} MB,至少需要 {megabytes} MB。"
        raise LocalError(have + "请清理磁盘或用 --data 指定别的目录。")


def require_free_port(port: int, purpose: str, host: str = "127.0.0.1") -> None:
    """Say at once, and before anything else starts, that a port is taken."""
    if not 0 < port < 65536:
        raise LocalError(f"端口 {port} 无效,应在 1 到 65535 之间({purpose})。")
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise LocalError(f"端口 {port} 已被其他程序占用({purpose})。请用 --port 换一个端口。") from e
            if e.errno in {errno.EACCES, errno.EPERM}:
                raise LocalError(f"没有权限使用端口 {port}({purpose})。请用 --port 换一个大于 1023 的端口。") from e
            raise LocalError(f"无法使用地址 {host}:{port}({purpose}):{e.strerror}。") from e


@contextmanager
def hold_folder(data: Path) -> Iterator[None]:
    """Make this process the only one that runs on `data`; the hold ends with the process, however it ends."""
    make_folder(data)
    with plainly(data):
        fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            holder = os.pread(fd, 20, 0).decode() or "?"
            taken = f"数据目录 {data} 正由另一个全程进程使用(进程号 {holder})。"
            raise LocalError(taken + "请先停止它,或用 --data 指定别的目录。") from e
        with plainly(data):
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def read_secrets(path: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The secrets kept in `path` (0600, in a folder 0700 of ours), made by `make` and synced on first use.

    A key that an older file lacks is added. Killed at any point, either the old or the new file is there.
    """
    make_folder(path.parent, 0o700)
    with plainly(path):
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        whole = make() | kept
        if whole != kept:
            fresh = path.with_name(path.name + ".new")
            fresh.unlink(missing_ok=True)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as f:
                json.dump(whole, f, indent=1)
                f.flush()
                os.fsync(f.fileno())
            fresh.replace(path)
            sync_folder(path.parent)
    return whole


def sync_folder(folder: Path) -> None:
    """Make names given in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- spawning ---

_PR_SET_PDEATHSIG = 1
# PyDLL keeps the interpreter's lock: between fork and exec nothing may wait for another thread.
_prctl = ctypes.PyDLL(None).prctl if sys.platform == "linux" else None

# The kernel sends the death signal when the *thread* that forked ends, so one thread that lives as long
# as the process forks all children.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path = ROOT,
    account: tuple[int, int] | None = None,
    on_our_death: signal.Signals = signal.SIGKILL,
    piped: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start `argv` in a session of its own (Ctrl-C is ours to pass on), output appended to `log`.

    When this process dies, even by SIGKILL, the child gets `on_our_death` (Linux). `account` is the user and
    group id to become; with `piped` its standard output comes to us, and only its errors to the log.
    Raises LocalError when the log or the program cannot be opened.
    """
    parent = os.getpid()

    def tie() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, int(on_our_death), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as out:
            return subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=out,
                start_new_session=True,
                user=account[0] if account else None,
                group=account[1] if account else None,
                extra_groups=[] if account else None,
                preexec_fn=tie,  # noqa: PLW1509 - one call through PyDLL, which takes no lock
            )

    make_folder(log.parent, 0o700)
    with plainly(Path(argv[0])):
        return _spawner.submit(start).result()


def size_of(log: Path) -> int:
    """Bytes in `log`, 0 when there is none: where the next program's output will begin."""
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, since: int = 0, lines: int = 12) -> str:
    """The last lines that `log` gained after `since` bytes, for the person who has to find out why."""
    try:
        return "\n".join(log.read_bytes()[since:].decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether `url` (on this machine) answers 200 within `timeout` seconds."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as r:
            return bool(r.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


class Supervised:
    """One program that is kept running until `stop`.

    `start` returns when `ready_url` answers 200. From then on a thread restarts the program whenever it
    dies unasked, after 0.2 s at first and at most 10 s later, saying so in one line through `report`.
    Nothing is kept in memory that a restart of the whole needs: killed with SIGKILL, this process takes
    the program with it.
    """

    FIRST_DELAY = 0.2
    LONGEST_DELAY = 10.0
    STEADY = 30.0

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log_path: Path,
        ready_url: str,
        *,
        report: Report = print,
        deadline: float = 60.0,
        cwd: Path = ROOT,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = list(argv)
        self._env = dict(env)
        self._ready_url = ready_url
        self._report = report
        self._deadline = deadline
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_began = 0
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process id of the running program, or None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def ready(self) -> bool:
        """Whether the program runs and has answered since its last start."""
        return self._ready.is_set() and self.pid is not None

    def start(self) -> None:
        """Start and wait until ready; LocalError with the log's last lines when it dies or is too slow."""
        if self._watcher is not None:
            return
        self._stopping.clear()
        self._spawn()
        try:
            self._await_ready()
        except BaseException:
            self._end()
            raise
        self._watcher = threading.Thread(target=self._watch, name=f"watch {self.name}", daemon=True)
        self._watcher.start()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the program answers, as after `kill`; LocalError after `timeout` seconds."""
        if not self._ready.wait(timeout):
            raise LocalError(f"{self.name} 在 {timeout:.0f} 秒内没有恢复。日志:{self.log_path}")

    def kill(self) -> None:
        """SIGKILL without telling the watcher, which then restarts the program. For staging faults."""
        process = self._process
        if process is not None and process.poll() is None:
            self._ready.clear()
            process.kill()

    def stop(self, patience: float = 10.0) -> None:
        """SIGTERM, wait `patience` seconds, then SIGKILL. Does nothing when it is not running."""
        self._stopping.set()
        self._end(patience)
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def _end(self, patience: float = 10.0) -> None:
        self._ready.clear()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _spawn(self) -> None:
        self._ready.clear()
        if size_of(self.log_path) > LARGEST_LOG:
            self.log_path.replace(self.log_path.with_suffix(".old.log"))
        self._log_began = size_of(self.log_path)
        self._process = spawn(self._argv, env=self._env, log=self.log_path, cwd=self._cwd)

    def _await_ready(self) -> None:
        process = self._process
        if process is None:
            return
        until = time.monotonic() + self._deadline
        while not self._stopping.is_set():
            if process.poll() is not None:
                last = tail(self.log_path, self._log_began)
                raise say_why(
                    last,
                    f"{self.name} 启动后即退出({ended(process.returncode)})。日志 {self.log_path}:\n{last}",
                )
            if answers(self._ready_url):
                self._ready.set()
                return
            if time.monotonic() > until:
                last = tail(self.log_path, self._log_began)
                raise LocalError(f"{self.name} 在 {self._deadline:.0f} 秒内没有就绪。日志 {self.log_path}:\n{last}")
            time.sleep(0.02)

    def _watch(self) -> None:
        delay = self.FIRST_DELAY
        while True:
            process = self._process
            if process is None:
                return
            began = time.monotonic()
            status = process.wait()
            self._ready.clear()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > self.STEADY:
                delay = self.FIRST_DELAY
            self._report(f"{self.name} 意外退出({ended(status)}),{delay:.1f} 秒后重新启动")
            if self._stopping.wait(delay):
                return
            delay = min(delay * 2, self.LONGEST_DELAY)
            self.restarts += 1
            try:
                self._spawn()
                self._await_ready()
            except LocalError as e:
                self._report(str(e).split("\n", 1)[0])
                self._end()
                continue
            finally:
                if self._stopping.is_set():  # asked to stop between two programs
                    self._end()
            if self._ready.is_set():
                self._report(f"{self.name} 已恢复")


def ended(status: int) -> str:
    """How a process ended, for people: a signal's name or the exit status."""
    if status < 0:
        return f"信号 {signal.Signals(-status).name}" if -status in signal.valid_signals() else f"信号 {-status}"
    return f"退出码 {status}"
