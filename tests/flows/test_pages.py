"""What docs/ tells to do is done, and what it says of the code is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.processes import ROOT
from services.vault import closing, sealing
from tests.flows.hand_terminal import HandTerminal, some_bytes
from tests.system import System


@pytest.fixture(scope="module")
def bundle(local_system: System) -> Iterator[Path]:
    with HandTerminal(local_system) as terminal:
        recording = terminal.begin()
        pieces = [some_bytes() for _ in range(3)]
        asks = [recording.seal(n, piece) for n, piece in enumerate(pieces)]
        recording.close(recording.closing(asks))
        yield local_system.export(str(recording.id))


def blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.S)


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_commands_for_whoever_verifies_hold_for_an_export(bundle: Path) -> None:
    unpack, *commands = blocks("verifying.md")
    assert unpack.startswith("tar xf") and len(commands) == 5
    done = run("".join(commands), bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Signature Verified Successfully") == 3
    assert done.stdout.count("OK\n") == 2
    assert "consistent" in done.stdout or "一致" in done.stdout


def test_the_commands_for_whoever_verifies_fail_where_a_byte_is_altered(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (media,) = (copy / "data").glob("*.mp4")
    altered = bytearray(media.read_bytes())
    second = int((copy / "recordings" / media.stem / "offsets.tsv").read_text().splitlines()[2].split("\t")[1])
    altered[second + 5] ^= 1
    media.write_bytes(altered)
    commands = blocks("verifying.md")[1:]
    assert run(commands[0], copy).returncode != 0
    assert run(commands[1] + commands[2], copy).returncode != 0
    assert run(commands[4], copy).returncode == 1


def test_the_page_on_sealing_has_the_steps_of_the_code() -> None:
    page = (ROOT / "docs" / "sealing.md").read_text("utf-8")
    told = re.findall(r"^\| (\d\. \w+) \|", page, re.M)
    assert told == re.findall(r"^(\d\. \w+)\.", sealing.__doc__ or "", re.M)
    part = page.partition("## Closing")[2].partition("\n## ")[0]
    steps = re.findall(r"^(\d)\. ", part, re.M)
    assert steps == re.findall(r"^(\d)\. ", closing.__doc__ or "", re.M)
