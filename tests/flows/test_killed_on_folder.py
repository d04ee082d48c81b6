"""On the local folder the vault is killed between a file and its name, and started again (`scenes`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.vault.log import tiles
from tests.flows.evidence import eventually
from tests.flows.hand_terminal import HandTerminal
from tests.flows.scenes import SOON, Rig, Scene, begin, killed_when
from tests.flows.stalls import Call, stalled
from tests.peers.authority import Authority
from tests.system import running

AHEAD = 12
"""By how many entries the log may have grown when the step is reached."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Authority(tmp_path_factory.mktemp("tsa") / "one") as authority:
        told = {"SWEEP_EVERY_SECONDS": "0.2", "TSAS": json.dumps([authority.listed])}
        made = running(None, settings={f"QUANCHENG_VAULT_{name}": value for name, value in told.items()})
        with made as system, HandTerminal(system) as terminal:
            yield Rig(system, terminal, authority)


def root(rig: Rig) -> Path:
    return (rig.system.stack.data / "evidence").resolve()


def segment(rig: Rig, scene: Scene) -> list[Path]:
    return [root(rig) / f"evidence/recordings/{scene.recording.id}/{1:010d}-{scene.second.sha256}"]


def folder(rig: Rig, scene: Scene) -> list[Path]:
    return [root(rig) / f"evidence/recordings/{scene.recording.id}"]


def manifest(rig: Rig, scene: Scene) -> list[Path]:
    return [root(rig) / f"evidence/recordings/{scene.recording.id}/manifest-0000"]


def statements(rig: Rig, scene: Scene) -> list[Path]:
    signer = rig.sql("SELECT key_id FROM vault.keys WHERE purpose = 'receipt' AND superseded_at IS NULL")[:8]
    names = (f"{first:012d}-{end:012d}" for first in sizes(rig) for end in sizes(rig) if first < end)
    return [root(rig) / f"evidence/statements/{name}-{signer}.jsonl" for name in names]


def tile(rig: Rig, scene: Scene) -> list[Path]:
    return [root(rig) / "log" / tiles.tile_path(0, (n - 1) // 256, (n - 1) % 256 + 1) for n in sizes(rig)]


def any_file(rig: Rig, scene: Scene) -> list[Path]:
    return []


def token(rig: Rig, scene: Scene) -> list[Path]:
    return [root(rig) / f"evidence/timestamps/{n:012d}.tsr" for n in sizes(rig)]


def sizes(rig: Rig) -> range:
    size = int(rig.sql("SELECT size FROM vault.log_head"))
    return range(size, size + AHEAD)


STEPS: dict[str, tuple[Call, Callable[[Rig, Scene], list[Path]], Callable[[Scene], None]]] = {
    "sealing 3": ("link", segment, Scene.put),
    "sealing 4": ("open", segment, Scene.commit),
    "sweeping 2": ("open", segment, Scene.sweep),
    "closing 2": ("open", folder, Scene.close_alone),
    "closing 5": ("link", manifest, Scene.close),
    "publish 1": ("link", statements, Scene.close),
    "publish 2": ("link", tile, Scene.close),
    "publish 4": ("rename", any_file, Scene.close),
    "timestamps 4": ("link", token, Scene.stamp),
}


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_in_the_midst_of_a_call(rig: Rig, strace: Path, tmp_path: Path, step: str, done: bool) -> None:
    call, files, act = STEPS[step]
    scene = Scene(rig, without_put=act is Scene.put)
    assert rig.vault.pid
    with (
        stalled(strace, rig.vault.pid, call, files(rig, scene), tmp_path / "calls", done=done) as stall,
        ThreadPoolExecutor(1) as pool,
        killed_when(rig, stall.waits, stall.let_go),
    ):
        begin(pool, act, scene)
    rig.vault.start()
    assert stall.done() is done
    scene.assert_nothing_is_lost_or_left(act)
    eventually(lambda: not list((root(rig) / "incoming").iterdir()), "nothing nameless is left", SOON)
    assert_statements_are_whole(rig)


def assert_statements_are_whole(rig: Rig) -> None:
    """From the first to the last that is public, the private log is among the evidence."""
    upto, public = 0, int(rig.sql("SELECT published_size FROM vault.log_head"))
    for path in sorted((root(rig) / "evidence/statements").iterdir()):
        begins, ends = map(int, re.findall(r"\d{12}", path.name)[:2])
        assert begins <= upto
        upto = max(upto, ends)
    assert upto >= public
