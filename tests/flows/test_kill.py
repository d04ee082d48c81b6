"""Each process and each link is pulled in the middle of a stream; nothing receipted is lost, nobody helps.

Only where the terminal itself dies is something started again by hand: its `resume`, as at its next power-on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.evidence import assert_nothing_lost, assert_plays, eventually
from tests.flows.link import Link
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal, asks_of
from tests.system import System, free_ports, running

SECONDS = 5


@dataclass(frozen=True)
class Rig:
    """A system of its own, since what is killed here would disturb other tests; its terminals reach api and
    store by links that can fail."""

    system: System
    api: Link
    store: Link

    def terminal(self, name: str) -> Path:
        return self.system.new_terminal(name, self.api.url)


@pytest.fixture(scope="module", params=["local", "minio"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    port = free_ports()
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with Link(port) as api, Link(port + 2 if minio else port + 1) as store:
        addresses = {
            "QUANCHENG_VAULT_LOCAL_PUBLIC_URL": store.url,
            "QUANCHENG_VAULT_S3_ENDPOINT": f"127.0.0.1:{store.port}",
        }
        with running(minio, port=port, **addresses) as system:
            yield Rig(system, api, store)


def record_through(rig: Rig, name: str, fault: Callable[[], None], seconds: int = SECONDS) -> LiveTerminal:
    """A recording during which `fault` happens once two segments are sealed; finished by the terminal alone."""
    home = rig.terminal(name)
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, "--seconds", str(seconds)) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 3)  # the init segment and two more
        before = sealed_in(terminal)
        fault()
        assert terminal.finish() == 0, terminal.said[-20:]
    assert len(terminal.of("closed")) == 1
    asks = asks_of(home / "done" / recording)
    assert len(asks) == seconds + 1, "capture never waited for the fault to pass"
    bundle = assert_nothing_lost(rig.system, home, recording, before)
    assert bundle.closing()["missing"] == []
    assert [s["sha256"] for s in bundle.manifest()["segments"]] == [ask["sha256"] for ask in asks]
    assert not bundle.closing()["interrupted"]
    assert_plays(bundle.media)
    return terminal


def sealed_in(terminal: LiveTerminal) -> set[int]:
    return {int(event["sequence"]) for event in terminal.of("sealed")}


def test_a_killed_terminal_resumes_and_the_recording_is_finished_as_interrupted(rig: Rig) -> None:
    home = rig.terminal("killed")
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 4)
        before = sealed_in(terminal)
        terminal.kill()
    # A segment exists once its ask is on disk: from there on it may not be lost.
    spooled = asks_of(home / "spool" / recording)
    with LiveTerminal(rig.system, home, "resume") as resumed:
        assert resumed.finish() == 0, resumed.said
    bundle = assert_nothing_lost(rig.system, home, recording, before)
    assert bundle.closing()["interrupted"]
    assert bundle.closing()["missing"] == []
    assert [s["sha256"] for s in bundle.manifest()["segments"]] == [ask["sha256"] for ask in spooled]
    assert_plays(bundle.media)


@pytest.mark.parametrize("rig", ["local"], indirect=True)
def test_a_terminal_killed_while_the_link_is_down_loses_nothing_of_its_spool(rig: Rig) -> None:
    home = rig.terminal("offline")
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 2)
        rig.api.cut()
        rig.store.cut()
        try:
            spool = home / "spool" / recording
            eventually(lambda: len(asks_of(spool)) >= len(sealed_in(terminal)) + 3, "three segments wait")
            before = sealed_in(terminal)
            terminal.kill()
        finally:
            rig.api.mend()
            rig.store.mend()
    spooled = asks_of(spool)
    assert len(spooled) > len(before)
    # The next recording begins at once, and what was left is sent beside it.
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, "--seconds", "2") as next_one:
        assert next_one.finish() == 0, next_one.said
    assert {event["recording"] for event in next_one.of("closed")} == {recording, next_one.recording}
    bundle = assert_nothing_lost(rig.system, home, recording, before)
    assert [s["sha256"] for s in bundle.manifest()["segments"]] == [ask["sha256"] for ask in spooled]
    assert bundle.closing()["interrupted"]


def test_a_killed_api_is_back_and_the_terminal_finishes_by_itself(rig: Rig) -> None:
    assert rig.system.stack.api
    restarts = rig.system.stack.api.restarts
    record_through(rig, "api", rig.system.stack.api.kill)
    assert rig.system.stack.api.restarts > restarts


def test_a_killed_vault_is_back_and_the_terminal_finishes_by_itself(rig: Rig) -> None:
    assert rig.system.stack.vault
    restarts = rig.system.stack.vault.restarts
    record_through(rig, "vault", rig.system.stack.vault.kill)
    assert rig.system.stack.vault.restarts > restarts


# The local folder is the vault's own, which is killed above.
@pytest.mark.parametrize("rig", ["minio"], indirect=True)
def test_a_killed_store_is_back_and_the_terminal_finishes_by_itself(rig: Rig) -> None:
    minio = rig.system.stack.minio
    assert minio
    old = minio.pid
    record_through(rig, "minio", minio.kill)
    assert minio.pid != old


def test_a_killed_database_recovers_and_the_terminal_finishes_by_itself(rig: Rig) -> None:
    def power_cut() -> None:
        rig.system.stack.postgres.kill()
        try:
            refused = li.get("/v1/recordings")
        finally:
            rig.system.stack.postgres.start()
        assert refused.status_code >= 500
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["slug"]

    with rig.system.sign_in("li") as li:
        record_through(rig, "postgres", power_cut)


def test_everything_killed_at_once_loses_nothing(rig: Rig) -> None:
    """The server's power goes; the terminal's does not."""
    stack = rig.system.stack

    def power_cut() -> None:
        assert stack.api and stack.vault
        for program in (stack.api, stack.vault, stack.minio, stack.postgres):
            if program is not None:
                program.kill()
        stack.postgres.start()

    record_through(rig, "everything", power_cut)


def test_a_cut_link_is_caught_up_with(rig: Rig) -> None:
    """Every connection to api and store is reset, and new ones are too, for three seconds' worth of segments."""

    def fault() -> None:
        rig.api.cut()
        rig.store.cut()
        try:
            eventually(lambda: rig.api.refused >= refused + 3, "the terminal keeps trying")
        finally:
            rig.api.mend()
            rig.store.mend()

    refused = rig.api.refused
    terminal = record_through(rig, "cut", fault)
    assert terminal.of("retry"), "the terminal says so"


@pytest.mark.parametrize("rig", ["minio"], indirect=True)
def test_a_link_that_accepts_and_never_answers_is_given_up_and_caught_up_with(rig: Rig) -> None:
    """What was sent into the silence is never answered, not even when the link is whole again."""

    def fault() -> None:
        rig.api.silence()
        rig.store.silence()
        try:
            eventually(lambda: rig.api.swallowed > swallowed, "something was sent into the silence")
        finally:
            rig.api.mend()
            rig.store.mend()

    swallowed = rig.api.swallowed
    record_through(rig, "silent", fault)
