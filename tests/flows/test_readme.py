"""Every command that the README shows, run as a newcomer would: from a fresh clone, in an empty home."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.folders import discard
from deploy.local.processes import ROOT
from tests.system import free_ports

README = (ROOT / "README.md").read_text("utf-8")
RUN_BY_CI_ITSELF = {"./dev test", "./dev lint"}
RUN_HERE = {
    "./dev run",
    "./dev run --once",
    "./dev run --minio",
    "./dev run --demo",
    "./dev run --data DIR --port N",
    "./dev bench start",
}


class Newcomer:
    """A clone of what is committed, and a home with nothing in it."""

    def __init__(self, folder: Path, minio: Path):
        self.clone = folder / "quancheng"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        home = folder / "home"
        home.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("QUANCHENG_", "XDG_", "VIRTUAL_ENV"))}
        self.environment = kept | {"HOME": str(home), "QUANCHENG_MINIO": str(minio)}
        self.port = free_ports()

    def dev(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["./dev", *arguments],
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["./dev", *arguments],
            cwd=self.clone,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, minio_binary: Path) -> Iterator[Newcomer]:
    made = Newcomer(tmp_path_factory.mktemp("newcomer"), minio_binary)
    yield made
    discard(made.clone / "data")


def test_the_readme_shows_no_command_that_is_not_run() -> None:
    shown = set(re.findall(r"`(\./dev [^`]*)`", README))
    shown |= {line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()}
    assert {c for c in shown if c.startswith("./dev")} == RUN_BY_CI_ITSELF | RUN_HERE
    assert {c for c in shown if not c.startswith("./dev")} == {
        "git clone https://example.org/quancheng.git && cd quancheng"
    }


@pytest.mark.parametrize("store", [[], ["--minio"]], ids=["local", "minio"])
def test_a_newcomer_sees_the_whole_job_verified(newcomer: Newcomer, store: list[str]) -> None:
    done = newcomer.dev("run", "--once", *store, "--port", str(newcomer.port), "--seconds", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "就绪 ready" in done.stdout
    assert done.stdout.count("Signature Verified Successfully") == 3
    assert "✓ 全部核验通过" in done.stdout


def test_a_second_start_does_not_repeat_the_job_unless_asked_and_ends_cleanly(newcomer: Newcomer) -> None:
    for more, repeated in (([], False), (["--demo", "--seconds", "3"], True)):
        with newcomer.start("run", "--port", str(newcomer.port), *more) as process:
            said = _until(process, "按 Ctrl-C 停止")
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[0]
        assert ("全部核验通过" in said) is repeated
        assert process.returncode == 0, rest
        assert "Traceback" not in rest


def test_the_start_is_measured(newcomer: Newcomer) -> None:
    done = newcomer.dev("bench", "start", "--json")
    row = json.loads(done.stdout.strip().splitlines()[-1])
    # Whether the goal is met is the benchmark's to say, on a machine that has nothing else to do.
    assert done.returncode == (0 if row["met"] else 1), done.stdout + done.stderr
    assert row.keys() >= {"name", "ours", "peer", "unit", "ratio", "better", "goal", "met", "runs"}
    assert row["name"] == "start"
    assert row["ours"] > 0


def _until(process: subprocess.Popen[str], wanted: str) -> str:
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if wanted in line:
            return said
    raise AssertionError(said)
