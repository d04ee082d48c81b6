"""What rows share: one system on a real MinIO with its demo bureau, and how big a bulk measurement is."""

import contextlib
import os
import shutil
import sys
from functools import cache

from bench.frame import Unavailable
from deploy.local.minio import find_or_build
from deploy.local.processes import LocalError
from tests.system import System, running

MIB = 1024 * 1024
held = contextlib.ExitStack()
"""What rows share; whoever measures closes it, before the interpreter ends the threads that keep watch over it."""


def bulk_bytes() -> int:
    """Bytes of one bulk measurement: 1 GiB, or `$QUANCHENG_BENCH_MIB` MiB for a quick look."""
    return int(os.environ.get("QUANCHENG_BENCH_MIB", "1024")) * MIB


def say(text: str) -> None:
    """Progress goes to stderr: the table on stdout stays a table."""
    print(text, file=sys.stderr, flush=True)


@cache
def minio_system() -> System:
    """The whole system, live, in a temporary folder that goes with `held`."""
    try:
        unhurried = {f"QUANCHENG_API_{door}_MBIT_PER_SECOND": "1000000" for door in ("PUSH", "UPLOAD")}
        return held.enter_context(running(find_or_build(say), settings=unhurried))
    except LocalError as error:
        raise Unavailable(str(error)) from error


def require_room(system: System, needed: int) -> None:
    """Raises Unavailable where the disk has less than `needed` bytes beside the gibibyte MinIO keeps free."""
    free = shutil.disk_usage(system.folder).free
    if free < needed + 1024 * MIB:
        raise Unavailable(f"磁盘空间不足：需要 {needed // MIB} MiB，只有 {free // MIB} MiB")
