"""The vault is killed in the midst of numbered steps, where it waits for the store or for a row, and started again:
what was receipted stays, what was begun is finished, the log is one, and nothing is left in between for good."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from deploy.local.processes import LocalError
from services.vault.contract import wire
from tests.flows.evidence import assert_log_is_whole, eventually
from tests.flows.hand_terminal import HandTerminal, put, some_bytes
from tests.peers.authority import Authority
from tests.rooms.liar import Answer, Gateway, Request, gated, truthful
from tests.system import System, running

SOON = 60.0


@dataclass
class Rig:
    """`gate` stands before a store that is another process."""

    system: System
    terminal: HandTerminal
    gate: Gateway | None = None

    def sql(self, query: str) -> str:
        return self.system.stack.postgres.run_sql(query).strip()


@pytest.fixture(scope="module")
def on_minio(minio_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Authority(tmp_path_factory.mktemp("tsa") / "one") as authority:
        tsas = json.dumps([{"url": authority.url, "certificate": str(authority.certificate)}])
        made = gated(minio_binary, sweep_every_seconds="0.2", tsas=tsas)
        with made as (system, gate), HandTerminal(system) as terminal:
            yield Rig(system, terminal, gate)


@pytest.fixture(scope="module")
def on_folder() -> Iterator[Rig]:
    made = running(None, settings={"QUANCHENG_VAULT_SWEEP_EVERY_SECONDS": "0.2"})
    with made as system, HandTerminal(system) as terminal:
        yield Rig(system, terminal)


class Scene:
    """A recording with one segment sealed, and one put and not committed."""

    def __init__(self, rig: Rig):
        self._rig, self.recording, data = rig, rig.terminal.begin(), some_bytes()
        self.first, self.second = self.recording.seal(0, some_bytes()), self.recording.segment(1, data)
        self._kept = self.recording.receipt(self.recording.ask(self.first), self.first)
        assert put(self.recording.ask(self.second).tickets[0], data) == 200
        self._closing = self.recording.closing([self.first, self.second])
        self._this = f"recording_id = '{self.recording.id}'"

    def commit(self) -> None:
        self.recording.exchange(commits=[self.second])

    def sweep(self) -> None:
        """It is time to look for what nobody committed, and for whatever else waits for its time."""
        self._rig.sql(f"UPDATE vault.segments SET sweep_at = now() WHERE {self._this} AND state = 'asked'")

    def close(self) -> None:
        self.commit()
        self.close_alone()

    def close_alone(self) -> None:
        self.recording.close(self._closing)

    def look(self) -> None:
        """For what was asked for and never put."""
        if not self._rig.sql(f"SELECT 1 FROM vault.segments WHERE {self._this} AND sequence = 2"):
            self.recording.ask(self.recording.segment(2, some_bytes()))
        self.sweep()

    def stamp(self) -> None:
        """Another minute's checkpoint, and time to try again what was queued."""
        self._rig.sql("UPDATE vault.timestamps SET minute = '2000-01-01Z'::timestamptz + size * interval '1 min'")
        self._rig.sql("UPDATE vault.timestamps SET next_try_at = now() WHERE next_try_at IS NOT NULL")
        self.close()

    def assert_nothing_is_lost_or_left(self, again: Callable[[Scene], None]) -> None:
        manifest = f"SELECT count(*) FROM vault.manifests WHERE {self._this}"
        self._eventually_none("a manifest without its place", f"{manifest} AND version IS NULL")
        if again in (Scene.sweep, Scene.look):
            # What the dead one had claimed is nobody's until its lease is over, and then anybody's.
            leased = f"sweep_at BETWEEN now() AND now() + interval '2 min' FROM vault.segments WHERE {self._this}"
            assert self._rig.sql(f"SELECT {leased} AND state = 'asked'") in ("t", "")
        again(self)
        if again is Scene.sweep:
            eventually(lambda: self._states() == "sealed", "the sweeper seals by itself", SOON)
        if again is Scene.look:
            later = f"sweep_at < now() + interval '1 min' FROM vault.segments WHERE {self._this} AND state = 'asked'"
            eventually(lambda: self._rig.sql(f"SELECT sweep_at > now() AND {later}") == "t", "a next look", SOON)
        for ask in (self.first, self.second):
            receipt = self.recording.receipt(self.recording.commit(ask), ask)
            assert ask is self.second or receipt == self._kept
        closed = self.recording.close(self._closing)
        assert closed.status_code == 200, closed.text
        told = wire.ClosedRecording.model_validate_json(closed.content).manifest.decoded()
        assert [one["sha256"] for one in told["segments"]] == [self.first.sha256, self.second.sha256]
        assert self._rig.sql(manifest) == "1"
        self._eventually_none("a manifest without its place", f"{manifest} AND version IS NULL")
        self._eventually_none("a stray", f"SELECT count(*) FROM vault.strays WHERE {self._this}")
        self._eventually_none("an act without an index", "SELECT count(*) FROM vault.log_pending")
        self._eventually_none("what is not public", "SELECT size - published_size FROM vault.log_head")
        had = "SELECT count(*) FROM vault.timestamps WHERE token IS NOT NULL"
        self._eventually_none("a token that is not sealed", f"{had} AND sealed_at IS NULL")
        assert_log_is_whole(self._rig.system)

    def _states(self) -> str:
        return self._rig.sql(f"SELECT DISTINCT state FROM vault.segments WHERE {self._this}")

    def _eventually_none(self, what: str, counted: str) -> None:
        eventually(lambda: self._rig.sql(counted) == "0", f"none is left: {what}", SOON)


@contextmanager
def killed_when(rig: Rig, waits: Callable[[], bool]) -> Iterator[None]:
    """What is begun inside is cut off by a kill of the vault once it `waits`."""
    vault = rig.system.stack.vault
    assert vault
    pid = vault.pid
    yield
    eventually(waits, "the vault waits there", SOON)
    vault.kill()
    eventually(lambda: vault.pid != pid, "the vault is gone")


def begin(pool: ThreadPoolExecutor, act: Callable[[Scene], None], scene: Scene) -> None:
    """Its answer never comes."""

    def do() -> None:
        with suppress(httpx.HTTPError):
            act(scene)

    pool.submit(do)


REQUESTS: dict[str, tuple[str, str, Callable[[Scene], None]]] = {
    "sealing 4": ("HEAD", "/recordings/.*/0000000001-", Scene.commit),
    "sweeping 2": ("HEAD", "/recordings/.*/0000000001-", Scene.sweep),
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
    assert rig.system.stack.vault
    rig.system.stack.vault.wait_ready(SOON)
    scene.assert_nothing_is_lost_or_left(act)


ROW = "SELECT 1 FROM vault.recordings WHERE id = '{recording}' FOR UPDATE"
ROWS: dict[str, tuple[str, Callable[[Scene], None]]] = {
    "sealing 5": (ROW, Scene.commit),
    "sweeping 2, to its receipt": (ROW, Scene.sweep),
    "sweeping 3": (ROW, Scene.look),
    "closing 3": (ROW, Scene.close_alone),
    "closing 4": ("LOCK TABLE vault.log_pending IN EXCLUSIVE MODE", Scene.close_alone),
    "timestamps 3": ("LOCK TABLE vault.authorities IN EXCLUSIVE MODE", Scene.stamp),
}


@pytest.mark.parametrize(
    ("store", "step"),
    [("on_minio", step) for step in ROWS] + [("on_folder", step) for step in ROWS if step != "timestamps 3"],
)
def test_killed_while_a_transaction_waits(request: pytest.FixtureRequest, store: str, step: str) -> None:
    rig: Rig = request.getfixturevalue(store)
    lock, act = ROWS[step]
    scene = Scene(rig)
    if act in (Scene.close_alone, Scene.look):
        scene.commit()
    other = locked(rig, lock.format(recording=scene.recording.id))
    waits = killed_when(rig, lambda: "t" in rig.sql(_WAITS))
    with ThreadPoolExecutor(1) as pool, other, waits:
        begin(pool, act, scene)
    assert rig.system.stack.vault
    rig.system.stack.vault.wait_ready(SOON)
    scene.assert_nothing_is_lost_or_left(act)


_WAITS = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE usename = 'quancheng_vault'"


@contextmanager
def locked(rig: Rig, lock: str) -> Iterator[None]:
    """Another transaction has it meanwhile."""
    mark = uuid4().hex

    def hold() -> None:
        with suppress(LocalError):
            rig.sql(f"BEGIN; {lock}; SELECT pg_sleep(120) /* {mark} */;")

    thread = threading.Thread(target=hold)
    thread.start()
    this = f"query LIKE '%pg_sleep%{mark}%' AND pid <> pg_backend_pid()"
    try:
        eventually(lambda: rig.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {this}") == "1", "it is locked")
        yield
    finally:
        rig.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {this}")
        thread.join()
