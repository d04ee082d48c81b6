"""The account that runs PostgreSQL when we are root, which PostgreSQL refuses to be."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from deploy.local.processes import LocalError, Report, plainly

ACCOUNT = "quancheng-postgres"


def service_account() -> tuple[int, int]:
    """User and group id of that account; made on first use. LocalError when it cannot be made."""
    try:
        found = pwd.getpwnam(ACCOUNT)
    except KeyError:
        maker = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        argv = [maker or "useradd", "--system", "--user-group", "--no-create-home"]
        argv += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", ACCOUNT]
        made = subprocess.run(argv, capture_output=True, text=True, check=False) if maker else None
        try:
            found = pwd.getpwnam(ACCOUNT)
        except KeyError as e:
            why = made.stderr.strip() if made else "没有 useradd 命令"
            raise LocalError(f"以 root 运行时需要建立账户 {ACCOUNT},但失败了:{why}。请改用普通用户运行。") from e
    return found.pw_uid, found.pw_gid


def open_way(inside: Path, report: Report) -> None:
    """Let other accounts pass through `inside` and its parents: search, not read; each change is told."""
    for folder in [inside, *inside.parents]:
        mode = folder.stat().st_mode & 0o7777
        if not mode & 0o001:
            report(f"数据库以独立账户运行,为其开放目录 {folder} 的通过权限(o+x,不含读取)")
            with plainly(folder):
                folder.chmod(mode | 0o001)


def share(programs: Path) -> None:
    """Make an installed tree of programs readable to other accounts, which a strict umask prevents."""
    if (programs / "bin" / "postgres").stat().st_mode & 0o005 == 0o005:
        return
    with plainly(programs):
        for path in [programs, *programs.rglob("*")]:
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o7777
                path.chmod(mode | (0o005 if mode & 0o100 else 0o004))
