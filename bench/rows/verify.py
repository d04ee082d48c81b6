"""The verifier: every claim in an export, beside one plain digest of the same files."""

import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from bench.frame import Unavailable, row
from bench.rows import direct
from bench.system import MIB, bulk_bytes, minio_system, require_room
from services.vault.contract.verify import VERIFIED


@cache
def _bundle() -> Path:
    """An export of one recording of the bulk size, pushed and fetched through the real system."""
    system = minio_system()
    require_room(system, 6 * bulk_bytes())
    home, files = direct.home(), direct.material()
    recording = direct.spooled(home, files)
    direct.push(system, home, recording)
    return system.export(str(recording.id))


def _bytes() -> int:
    return sum(path.stat().st_size for path in _files())


def _files() -> list[Path]:
    return sorted(path for path in _bundle().rglob("*") if path.is_file())


def openssl() -> float:
    """MiB/s of one `openssl dgst -sha256` over all files of the export."""
    program = shutil.which("openssl")
    if program is None:
        raise Unavailable("没有 openssl")
    argv = [program, "dgst", "-sha256", *map(str, _files())]
    began = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return _bytes() / MIB / (time.monotonic() - began)


@row("verify", unit="MiB/s", better="higher", goal=1.6, peer=openssl, runs=7)
def verify() -> float:
    """The export's own `verify.py` with the vault's keys, as a person starts it, from its start to its verdict."""
    bundle = _bundle()
    argv = [sys.executable, str(bundle / "verify.py"), "--quiet", str(bundle)]
    argv += ["--trust", str(bundle / "keys" / "vault.pem"), str(bundle / "keys" / "log.vkey")]
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode != VERIFIED:
        raise Unavailable(f"核验没有通过：{done.stdout.strip()}")
    return _bytes() / MIB / seconds
