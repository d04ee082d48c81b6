"""Builds the Go programs that lie beside this file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deploy.local.golang import go_environment


def build(go: Path, name: str, folder: Path) -> Path:
    """The program `tests/peers/<name>`, built into `folder` with its modules pinned by `go.sum`."""
    program = folder / name
    environment = go_environment(go, folder / "go") | {"GOFLAGS": "-mod=readonly -buildvcs=false -modcacherw"}
    argv = [str(go), "build", "-o", str(program), "."]
    done = subprocess.run(
        argv, cwd=Path(__file__).parent / name, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program
