"""The vault is killed in the midst of numbered steps, where it waits for the store, for a row or for a peer, and is
started again (`scenes`)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.evidence import eventually
from tests.flows.hand_terminal import HandTerminal
from tests.flows.scenes import SOON, Rig, Scene, begin, killed_when, locked, waiting_for_a_lock
from tests.peers.authority import Authority
from tests.rooms.liar import Answer, Gateway, Request, gated, truthful
from tests.system import running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with Authority(tmp_path_factory.mktemp("tsa") / "one") as made:
        yield made


@pytest.fixture(scope="module")
def on_minio(minio_binary: Path, authority: Authority) -> Iterator[Rig]:
    made = gated(minio_binary, sweep_every_seconds="0.2", tsas=json.dumps([authority.listed]))
    with made as (system, gate), HandTerminal(system) as terminal:
        yield Rig(system, terminal, authority, gate)


@pytest.fixture(scope="module")
def on_folder(authority: Authority) -> Iterator[Rig]:
    told = {"SWEEP_EVERY_SECONDS": "0.2", "TSAS": json.dumps([authority.listed])}
    made = running(None, settings={f"QUANCHENG_VAULT_{name}": value for name, value in told.items()})
    with made as system, HandTerminal(system) as terminal:
        yield Rig(system, terminal, authority)


REQUESTS: dict[str, tuple[str, str, Callable[[Scene], None]]] = {
    "sealing 4": ("HEAD", "/recordings/.*/0000000001-", Scene.commit),
    "sweeping 2": ("HEAD", "/recordings/.*/0000000001-", Scene.sweep),
    "closing 2": ("GET", "prefix=recordings", Scene.close_alone),
    "closing 5": ("PUT", "/recordings/.*/manifest-", Scene.close),
    "publish 1": ("PUT", "/log/statements/|/statements/", Scene.close),
    "publish 2": ("PUT", "-log/tile/", Scene.close),
    "publish 4": ("PUT", "-log/checkpoint", Scene.close),
    "timestamps 4": ("PUT", "/timestamps/", Scene.stamp),
}


@pytest.mark.parametrize("done", [False, True], ids=["never arrives", "is done and not answered"])
@pytest.mark.parametrize("step", REQUESTS)
def test_killed_while_a_request_to_the_store_stalls(on_minio: Rig, step: str, done: bool) -> None:
    rig, gate = on_minio, on_minio.gate
    assert gate
    method, part, act = REQUESTS[step]
    stalled, lifted = threading.Event(), threading.Event()

    def stall(gate: Gateway, request: Request) -> Answer:
        if stalled.is_set() or request.method != method or not re.search(part, request.target):
            return gate.forward(request)
        stalled.set()
        answer = gate.forward(request) if done else Answer(503)
        lifted.wait(SOON)
        return answer

    scene = Scene(rig)
    with ThreadPoolExecutor(1) as pool:
        gate.lie = stall
        try:
            with killed_when(rig, stalled.is_set):
                begin(pool, act, scene)
        finally:
            gate.lie = truthful
            lifted.set()
    rig.vault.start()
    scene.assert_nothing_is_lost_or_left(act)


ROW = "SELECT 1 FROM vault.recordings WHERE id = '{recording}' FOR UPDATE"
ROWS: dict[str, tuple[str, str, Callable[[Scene], None]]] = {
    "sealing 5": (ROW, "%", Scene.commit),
    "sweeping 2, to its receipt": (ROW, "%", Scene.sweep),
    "sweeping 3": (ROW, "%", Scene.look),
    "closing 3": (ROW, "%", Scene.close_alone),
    "closing 4": ("LOCK TABLE vault.log_pending IN EXCLUSIVE MODE", "%", Scene.close_alone),
    "publish 3": ("LOCK TABLE vault.checkpoints IN EXCLUSIVE MODE", "INSERT%checkpoints%", Scene.close_alone),
    "timestamps 1": ("LOCK TABLE vault.timestamps IN SHARE MODE", "INSERT%timestamps%", Scene.queue),
    "timestamps 3": ("LOCK TABLE vault.authorities IN EXCLUSIVE MODE", "%", Scene.stamp),
}


@pytest.mark.parametrize("store", ["on_minio", "on_folder"])
@pytest.mark.parametrize("step", ROWS)
def test_killed_while_a_transaction_waits(request: pytest.FixtureRequest, store: str, step: str) -> None:
    rig: Rig = request.getfixturevalue(store)
    lock, statement, act = ROWS[step]
    scene = Scene(rig)
    if act in (Scene.close_alone, Scene.queue, Scene.look):
        scene.commit()
    other = locked(rig.system, lock.format(recording=scene.recording.id))
    waits = killed_when(rig, lambda: waiting_for_a_lock(rig.system, statement))
    with ThreadPoolExecutor(1) as pool, other, waits:
        begin(pool, act, scene)
    rig.vault.start()
    scene.assert_nothing_is_lost_or_left(act)


@pytest.mark.parametrize("store", ["on_minio", "on_folder"])
def test_killed_before_the_published_size_moves(request: pytest.FixtureRequest, store: str) -> None:
    """Publishing 5: the checkpoint is public, and the row does not say so yet."""
    rig: Rig = request.getfixturevalue(store)
    scene = Scene(rig)
    with ExitStack() as held:
        with locked(rig.system, "SELECT pg_advisory_lock(hashtext('quancheng-log-publish'))"):
            scene.close()
            eventually(lambda: rig.sql("SELECT count(*) FROM vault.log_pending") == "0", "all has its index")
            held.enter_context(locked(rig.system, "SELECT 1 FROM vault.log_head FOR UPDATE"))
        with killed_when(rig, lambda: waiting_for_a_lock(rig.system, "UPDATE%published_size%")):
            assert rig.sql("SELECT size > published_size FROM vault.log_head") == "t"
    rig.vault.start()
    scene.assert_nothing_is_lost_or_left(Scene.close_alone)


@pytest.mark.parametrize("store", ["on_minio", "on_folder"])
def test_killed_while_an_authority_is_asked(request: pytest.FixtureRequest, store: str) -> None:
    """Timestamps 2."""
    rig: Rig = request.getfixturevalue(store)
    scene, asked = Scene(rig), rig.authority.asked
    rig.authority.mood = "silent"
    try:
        with killed_when(rig, lambda: rig.authority.asked > asked):
            scene.stamp()
    finally:
        rig.authority.mood = "well"
    rig.vault.start()
    scene.assert_nothing_is_lost_or_left(Scene.stamp)
