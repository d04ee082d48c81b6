"""Scenes in which the vault is killed in the midst of a numbered step, and what must hold once it is back: what was
receipted stays, what was begun is finished, the log is one and public, and nothing is left in between for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

import httpx

from deploy.local.processes import LocalError, Supervised
from services.vault.contract import verify, wire
from services.vault.log import tiles
from tests.flows.evidence import assert_log_is_whole, eventually, log_vkey
from tests.flows.hand_terminal import HandTerminal, put, some_bytes
from tests.peers.authority import Authority
from tests.rooms.liar import Gateway
from tests.system import System, next_minute

SOON = 60.0


@dataclass
class Rig:
    """`gate` stands before a store that is another process."""

    system: System
    terminal: HandTerminal
    authority: Authority
    gate: Gateway | None = None

    @property
    def vault(self) -> Supervised:
        assert self.system.stack.vault
        return self.system.stack.vault

    def sql(self, query: str) -> str:
        return self.system.stack.postgres.run_sql(query).strip()


class Scene:
    """A recording with one segment sealed, and one asked for, put unless it is told otherwise, and not committed."""

    def __init__(self, rig: Rig, *, without_put: bool = False):
        self._rig, self.recording, self._data = rig, rig.terminal.begin(), some_bytes()
        self.first, self.second = self.recording.seal(0, some_bytes()), self.recording.segment(1, self._data)
        self._kept = self.recording.receipt(self.recording.ask(self.first), self.first)
        self._ticket = self.recording.ask(self.second).tickets[0]
        if not without_put:
            self.put()
        self._closing = self.recording.closing([self.first, self.second])
        self._this = f"recording_id = '{self.recording.id}'"

    def put(self) -> None:
        assert put(self._ticket, self._data) in (200, 412)

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

    def queue(self) -> None:
        """A newer checkpoint, to be stamped in a minute of its own."""
        self.close_alone()

    def stamp(self) -> None:
        """Another minute's checkpoint, and time to try again what was queued."""
        next_minute(self._rig.system)
        self._rig.sql("UPDATE vault.timestamps SET next_try_at = now() WHERE next_try_at IS NOT NULL")
        self.close()

    def assert_nothing_is_lost_or_left(self, again: Callable[[Scene], None]) -> None:
        manifest = f"SELECT count(*) FROM vault.manifests WHERE {self._this}"
        self._eventually_none("a manifest without its place", f"{manifest} AND version IS NULL")
        self._assert_published()
        if again in (Scene.sweep, Scene.look):
            # What the dead one had claimed is nobody's until its lease is over, and then anybody's.
            leased = f"sweep_at BETWEEN now() AND now() + interval '2 min' FROM vault.segments WHERE {self._this}"
            assert self._rig.sql(f"SELECT {leased} AND state = 'asked'") in ("t", "")
        if again is Scene.queue:
            eventually(self._queued, "the newest checkpoint is queued unasked", SOON)
        if again is Scene.stamp:
            self._assert_stamped()
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
        self._assert_published()

    def _assert_published(self) -> None:
        self._eventually_none("an act without an index", "SELECT count(*) FROM vault.log_pending")
        self._eventually_none("what is not public", "SELECT size - published_size FROM vault.log_head")
        assert_log_is_whole(self._rig.system)
        assert_public_log_is_whole(self._rig.system)

    def _assert_stamped(self) -> None:
        """A token that was had is sealed unasked; a checkpoint that waits for one is nobody's until its lease is
        over, and then anybody's."""
        had = "SELECT count(*) FROM vault.timestamps WHERE token IS NOT NULL"
        self._eventually_none("a token that is not sealed", f"{had} AND sealed_at IS NULL")
        waiting = (
            "SELECT max(size) FROM vault.timestamps WHERE next_try_at BETWEEN now() AND now() + interval '2 min'"
        )
        last = "SELECT max(size) FROM vault.timestamps"
        size = self._rig.sql(last)
        if self._rig.sql(f"{had} AND size = {size}") == "0":
            assert self._rig.sql(waiting) == size
            self._rig.sql(f"UPDATE vault.timestamps SET next_try_at = now() WHERE size = {size}")
            sealed = f"{had} AND size = {size} AND sealed_at IS NOT NULL"
            eventually(lambda: self._rig.sql(sealed) == "1", "it is stamped", SOON)

    def _queued(self) -> bool:
        next_minute(self._rig.system)
        return self._rig.sql("SELECT max(size) = (SELECT size FROM vault.log_head) FROM vault.timestamps") == "t"

    def _states(self) -> str:
        return self._rig.sql(f"SELECT DISTINCT state FROM vault.segments WHERE {self._this}")

    def _eventually_none(self, what: str, counted: str) -> None:
        eventually(lambda: self._rig.sql(counted) == "0", f"none is left: {what}", SOON)


def assert_public_log_is_whole(system: System) -> None:
    """Whoever reads the public checkpoint finds every entry and hash it stands for."""
    with httpx.Client(base_url=f"{system.stack.vault_url}/log", timeout=10, trust_env=False) as http:
        checkpoint = verify.verify_note(http.get("/checkpoint").text, log_vkey(system))
        entries: list[bytes] = []
        while len(entries) < checkpoint.size:
            number, width = len(entries) // tiles.WIDTH, min(tiles.WIDTH, checkpoint.size - len(entries))
            bundle, hashes = (
                http.get(f"/{path}")
                for path in (tiles.entries_path(number, width), tiles.tile_path(0, number, width))
            )
            assert (bundle.status_code, hashes.status_code) == (200, 200)
            found = tiles.decode_entries(bundle.content)
            assert hashes.content == b"".join(map(verify.leaf_hash, found))
            entries += found
    assert verify.merkle_root(entries) == checkpoint.root


@contextmanager
def killed_when(rig: Rig, waits: Callable[[], bool], then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """What is begun inside is cut off by a kill of the vault once it `waits`, and `then` is done; it is not started
    again yet."""
    yield
    vault = rig.vault
    eventually(waits, "the vault waits there", SOON)
    vault.kill()
    then()
    vault.stop()


def begin(pool: ThreadPoolExecutor, act: Callable[[Scene], None], scene: Scene) -> None:
    """Its answer never comes."""

    def do() -> None:
        with suppress(httpx.HTTPError):
            act(scene)

    pool.submit(do)


def waiting_for_a_lock(system: System, statement: str = "%") -> bool:
    """Whether a statement like this one of the vault's waits for another transaction."""
    waits = "wait_event_type = 'Lock' AND usename = 'quancheng_vault'"
    query = f"SELECT count(*) > 0 FROM pg_stat_activity WHERE {waits} AND query LIKE '{statement}'"
    return system.stack.postgres.run_sql(query).strip() == "t"


@contextmanager
def locked(system: System, lock: str) -> Iterator[None]:
    """Another transaction has it meanwhile."""
    mark, sql = uuid4().hex, system.stack.postgres.run_sql

    def hold() -> None:
        with suppress(LocalError):
            sql(f"BEGIN; {lock}; SELECT pg_sleep(120) /* {mark} */;")

    thread = threading.Thread(target=hold)
    thread.start()
    this = f"query LIKE '%pg_sleep%{mark}%' AND wait_event = 'PgSleep'"
    try:
        eventually(lambda: sql(f"SELECT count(*) FROM pg_stat_activity WHERE {this}").strip() == "1", "it is locked")
        yield
    finally:
        sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {this}")
        thread.join()
