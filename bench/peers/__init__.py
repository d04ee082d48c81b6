"""Known programs in Go to measure against: found, or built once into the cache as MinIO is.

`mc` is MinIO's own client, `tusd` the reference server of tus.
`tessera/` is a small program of ours around the Tessera library.
"""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from bench.frame import Unavailable
from bench.system import say
from deploy.local import golang
from deploy.local.golang import Program, cache_folder, find_go, go_environment, only_one
from deploy.local.processes import LocalError, make_folder

TESSERA = Path(__file__).with_name("tessera")


def _is_minio_client(program: Path) -> bool:
    """Elsewhere `mc` is a file manager."""
    said = golang.answer_of(program, "--version")
    return said is not None and said.stdout.startswith("mc version") and "MinIO" in said.stdout


MC = Program(
    title="mc",
    package="github.com/minio/mc",
    version="v0.0.0-20250313080218-cf909e1063a9",
    needs_go=(1, 23),
    variable="QUANCHENG_MC",
    works=_is_minio_client,
    minutes="1 到 5",
    megabytes=2000,
)


def _is_tusd(program: Path) -> bool:
    said = golang.answer_of(program, "-version")
    return said is not None and "Version" in said.stdout


TUSD = Program(
    title="tusd",
    package="github.com/tus/tusd/v2/cmd/tusd",
    version="v2.9.1",
    needs_go=(1, 24),
    variable="QUANCHENG_TUSD",
    works=_is_tusd,
    minutes="1 到 4",
    megabytes=2000,
)


@cache
def tusd() -> Path:
    """The reference server of tus. Raises Unavailable."""
    try:
        return golang.find_or_build(TUSD, say)
    except LocalError as error:
        raise Unavailable(str(error)) from error


@cache
def mc() -> Path:
    """MinIO's client. Raises Unavailable."""
    try:
        return golang.find_or_build(MC, say)
    except LocalError as error:
        raise Unavailable(str(error)) from error


@cache
def tessera() -> Path:
    """The program of `bench/peers/tessera`, built anew when its source has changed. Raises Unavailable."""
    sources = b"".join(source.read_bytes() for source in sorted(TESSERA.iterdir()))
    target = cache_folder() / "tessera-peer" / hashlib.sha256(sources).hexdigest()[:16] / "tessera-peer"
    try:
        make_folder(target.parent)
        with only_one(target.parent / "lock", "tessera-peer", say):
            if not target.exists():
                go = find_go(say, (1, 25))
                env = go_environment(go, target.parent / "go")
                argv = [str(go), "build", "-trimpath", "-o", str(target), "."]
                done = subprocess.run(argv, env=env, cwd=TESSERA, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise Unavailable(f"tessera-peer 编译失败：{done.stderr.strip()[-300:]}")
    except LocalError as error:
        raise Unavailable(str(error)) from error
    return target
