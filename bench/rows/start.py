"""How long the whole system takes to be there."""

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from bench.frame import Unavailable, row
from deploy.local.folders import discard
from deploy.local.processes import ROOT

READY = "就绪 ready"


def _start(data: Path, deadline: float) -> float:
    """Seconds from starting `./dev run` on `data` until it prints its ready line; it is then stopped."""
    argv = [sys.executable, str(ROOT / "dev"), "run", "--data", str(data), "--port", str(_free_ports())]
    began = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=data) as process:
        try:
            return _await_line(process, READY, deadline) - began
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_line(process: "subprocess.Popen[bytes]", wanted: str, deadline: float) -> float:
    """The monotonic time at which `wanted` appeared in the output."""
    assert process.stdout is not None
    seen = b""
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        if not select.select([process.stdout], [], [], 0.5)[0]:
            continue
        chunk = os.read(process.stdout.fileno(), 65536)
        now = time.monotonic()
        seen += chunk
        if wanted.encode() in seen:
            return now
        if not chunk:
            break
    last = seen.decode(errors="replace").splitlines()[-12:]
    raise Unavailable("./dev run 没有就绪:\n    " + "\n    ".join(last))


def _free_ports() -> int:
    """The first of three free ports in a row: api, vault, store."""
    for port in range(18100, 19000, 10):
        try:
            for each in range(port, port + 3):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise Unavailable("18100 到 19000 之间没有空闲的端口")


@cache
def _warm_folder() -> Path:
    """A data folder on which the system has run once, demonstration included; removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="quancheng-bench-"))
    atexit.register(discard, folder)
    argv = [sys.executable, str(ROOT / "dev"), "run", "--once", "--data", str(folder)]
    argv += ["--port", str(_free_ports())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        last = (done.stdout + done.stderr).splitlines()[-12:]
        raise Unavailable("./dev run --once 失败:\n    " + "\n    ".join(last))
    return folder


@row("start", unit="s", better="lower", goal=5.0, goal_on="ours", runs=5)
def start() -> float:
    """From exec of `./dev run` on a data folder that has run before to its ready line. No peer."""
    return _start(_warm_folder(), deadline=120)
