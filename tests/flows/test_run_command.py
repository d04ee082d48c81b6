"""The one command, as a person on a machine with its own troubles meets it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.folders import discard
from deploy.local.processes import ROOT
from tests.flows.evidence import eventually
from tests.system import free_ports

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2
LONGEST = 90
"""Seconds that one run may take before it is taken for hung."""
_KNOWN = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "QUANCHENG_MINIO")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("run")
    yield made
    discard(made)


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    """A data folder on which the demo was done once."""
    done = run("--once", "--seconds", "3", data=folder / "data")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder / "data"


def argv(*arguments: str, data: Path, port: int | None = None) -> list[str]:
    """Each run on other ports unless one is given: a folder is not tied to them."""
    where = ["--data", str(data), "--port", str(port or free_ports())]
    return [sys.executable, "-m", "deploy.local", *arguments, *where]


def run(
    *arguments: str, data: Path, port: int | None = None, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv(*arguments, data=data, port=port),
        cwd=ROOT,
        env={name: os.environ[name] for name in _KNOWN if name in os.environ},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
        preexec_fn=before,
    )


@contextlib.contextmanager
def started(*arguments: str, data: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        argv(*arguments, data=data),
        cwd=ROOT,
        env={name: os.environ[name] for name in _KNOWN if name in os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        patience = threading.Timer(LONGEST, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def said_until(process: subprocess.Popen[str], wanted: str) -> str:
    """What it says up to a line with `wanted`; fails when it ends before, or is ended for being too slow."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if wanted in line:
            return said
    raise AssertionError(said + (process.stderr.read() if process.stderr else ""))


def running_on(data: Path) -> list[str]:
    """The processes that have to do with this folder: it is in their command or in their settings."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            about = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
            if os.fsencode(data) in about and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def assert_nothing_runs_on(data: Path) -> None:
    eventually(lambda: not running_on(data), f"everything on {data} has ended")


def assert_one_sentence(done: subprocess.CompletedProcess[str], *wanted: str) -> None:
    """Exit code 1, and on stderr one line in Chinese that names the trouble."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("✗ "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(r"[\u4e00-\u9fff]", done.stderr)
    assert all(part in done.stderr for part in wanted), done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_once_does_the_whole_job_and_leaves_nothing_running(data: Path) -> None:
    said = (data.parent / "said.txt").read_text()
    assert said.index("就绪 ready") < said.index("①") < said.index("②") < said.index("③")
    assert "验证通过" in said
    assert "Signature Verified Successfully" in said
    assert "✓ 全部核验通过" in said
    assert_nothing_runs_on(data)


def test_a_second_start_does_not_repeat_the_demo_and_ctrl_c_ends_everything(data: Path) -> None:
    with started(data=data) as process:
        said = said_until(process, "按 Ctrl-C 停止")
        assert "就绪 ready" in said
        assert "①" not in said
        assert len(running_on(data)) >= 4, "itself, the database, vault and api"
        # Nobody else may work on the same folder meanwhile.
        assert_one_sentence(run(data=data), "正由另一个全程进程使用", str(process.pid))
        process.send_signal(signal.SIGINT)
        rest, trouble = process.communicate(timeout=60)
        assert (process.returncode, trouble) == (0, ""), rest
    assert_nothing_runs_on(data)


def test_ctrl_c_in_the_middle_of_the_demo_ends_everything(data: Path) -> None:
    with started("--once", "--seconds", "60", data=data) as process:
        said_until(process, "现在可以观看")
        process.send_signal(signal.SIGINT)
        rest, trouble = process.communicate(timeout=60)
        assert process.returncode == 130, rest + trouble
        assert "Traceback" not in rest + trouble
    assert_nothing_runs_on(data)


def test_killed_it_takes_its_children_along_and_the_next_start_recovers(data: Path) -> None:
    with started(data=data) as process:
        said_until(process, "按 Ctrl-C 停止")
        process.kill()
        process.wait()
    assert_nothing_runs_on(data)
    again = run("--once", "--seconds", "3", data=data)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "✓ 全部核验通过" in again.stdout


def test_a_folder_made_with_the_other_store_is_refused(data: Path, minio_binary: Path) -> None:
    assert_one_sentence(run("--minio", data=data), "另一种存储", "去掉 --minio")


@pytest.mark.parametrize("offset", [0, 1, 2], ids=["api", "vault", "minio"])
def test_a_port_in_use_is_said_before_anything_starts(folder: Path, minio_binary: Path, offset: int) -> None:
    port = free_ports()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + offset))
        other.listen()
        refused = run("--once", *(["--minio"] if offset == 2 else []), data=folder / "ports", port=port)
    assert_one_sentence(refused, f"端口 {port + offset} 已被其他程序占用", "--port")
    assert_nothing_runs_on(folder / "ports")


def test_a_folder_without_permission_is_said(folder: Path) -> None:
    shut = folder / "shut"
    shut.mkdir()
    shut.chmod(0)
    try:
        refused = run("--once", data=shut / "data", before=obey_permissions)
    finally:
        shut.chmod(0o700)
    assert_one_sentence(refused, "没有访问", str(shut / "data"), "权限")
    assert not list(shut.iterdir())


def obey_permissions() -> None:
    """Root sees no closed doors; take from it what opens them."""
    if os.geteuid() == 0:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError("cannot drop a capability")


@contextlib.contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own at `where`; False, with the reason printed, where none may be mounted."""
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(where)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        print(f"no small disk here, a limit on the size of files stands for it: {mounted.stderr.strip()}")
    try:
        yield not mounted.returncode
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(where)], check=True)


def limit_files() -> None:
    """No file may grow past 16 bytes: writes fail as they do on a full disk, only with another reason."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))


def test_a_disk_that_is_too_small_is_said_before_anything_starts(folder: Path) -> None:
    with small_disk(folder / "small", 64) as mounted:
        if mounted:
            assert_one_sentence(run("--once", data=folder / "small" / "data"), "只剩", "MB", "--data")
        else:
            limited = run("--once", data=folder / "small" / "data", before=limit_files)
            assert_one_sentence(limited, "限制了文件大小")
    assert_nothing_runs_on(folder / "small")


def test_a_limit_on_the_size_of_files_is_said(folder: Path) -> None:
    assert_one_sentence(run("--once", data=folder / "limited", before=limit_files), "限制了文件大小")


def test_a_disk_that_fills_up_while_it_records_is_said_and_ends_the_demo(folder: Path) -> None:
    with small_disk(folder / "filling", 420) as mounted:
        if not mounted:
            # Without a disk of its own to fill there is only the limit, which the test above holds to.
            return
        data = folder / "filling" / "data"
        with started("--once", "--seconds", "30", data=data) as process:
            said_until(process, "现在可以观看")
            eventually(lambda: list(data.glob("terminal/spool/*/*.receipt.json")), "the first receipts")
            fill(folder / "filling" / "filler")
            rest, trouble = process.communicate(timeout=60)
        done = subprocess.CompletedProcess(process.args, process.returncode, rest, trouble)
        assert_one_sentence(done, "磁盘")
        assert_nothing_runs_on(data)
        # With room again, the same folder goes on, and what was recorded before is not lost.
        (folder / "filling" / "filler").unlink()
        again = run("--once", "--seconds", "3", data=data)
        assert again.returncode == 0, again.stdout + again.stderr
        assert not list((data / "terminal" / "spool").iterdir())


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 20))
