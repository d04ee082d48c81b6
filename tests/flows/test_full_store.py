"""The disk under the store fills up while it is written to: everybody is told, and nothing receipted is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import bureau
from deploy.local.folders import discard
from deploy.local.stack import Stack
from services.vault.contract import wire
from tests.flows.disks import SmallDisk
from tests.flows.evidence import assert_log_is_whole, assert_nothing_lost, eventually
from tests.flows.hand_terminal import HandTerminal, some_bytes
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal
from tests.system import System, free_ports

SOON = 60.0


@dataclass
class Rig:
    system: System
    disk: SmallDisk
    evidence: Path

    def sql(self, query: str) -> str:
        return self.system.stack.postgres.run_sql(query).strip()

    def alarms(self) -> dict[str, str]:
        """The standing alarms of the vault's own writes: subject and detail."""
        told = self.sql("SELECT subject, detail FROM vault.alarms WHERE kind = 'store-full' AND cleared_at IS NULL")
        return dict(line.split("|", 1) for line in told.splitlines())


@pytest.fixture(scope="module", params=["local", "minio"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    folder = Path(tempfile.mkdtemp(prefix="quancheng-test-"))
    on = folder / "data" / ("minio" if minio else "evidence")
    said: list[str] = []
    try:
        with (
            SmallDisk(on, 1400) as disk,
            Stack(folder / "data", port=free_ports(), minio=minio, report=said.append) as stack,
        ):
            yield Rig(System(stack, bureau.found(stack), folder, said), disk, on)
    finally:
        discard(folder)


def put(ticket: wire.Ticket, data: bytes) -> httpx.Response:
    return httpx.put(ticket.url, headers=ticket.headers, content=data, timeout=30, trust_env=False)


def test_a_full_store_refuses_plainly_and_everything_is_finished_once_there_is_room(rig: Rig) -> None:
    with HandTerminal(rig.system) as terminal:
        recording, other = terminal.begin(), terminal.begin()
        sealed = recording.seal(0, some_bytes())
        kept = recording.receipt(recording.ask(sealed), sealed)
        late, data = recording.segment(1, b"later"), b"later"
        big = some_bytes(3_000_000)
        asked = other.segment(0, big)
        rig.disk.fill()

        # 1. The holder of the bytes is refused by the store itself, with 507, and no half of them stays.
        ticket = other.ask(asked).tickets[0]
        eventually(lambda: put(ticket, big).status_code == 507, "507: a store knows its disk to the second")
        assert put(recording.ask(late).tickets[0], data).status_code == 507
        assert other.commit(asked).problems[0].slug == "not-stored"
        if rig.system.stack.minio is None:
            assert not list((rig.evidence / "incoming").iterdir())
        # 2. A closing is settled, and its manifest waits: the terminal is told why and asks again.
        closing = recording.closing([sealed])
        answer = recording.close(closing)
        assert (answer.status_code, answer.json()["slug"]) == (503, "store-full"), answer.text
        assert "空间不足" in answer.json()["title"]
        manifest = f"SELECT version FROM vault.manifests WHERE recording_id = '{recording.id}'"
        assert rig.sql(manifest) == ""
        # 3. An alarm says so, and stands.
        eventually(lambda: {"log", "manifests"} <= rig.alarms().keys(), "the alarm", SOON)
        assert "空间不足" in rig.alarms()["log"]
        # 4. What is receipted is read, and the log goes on in the rows.
        assert recording.receipt(recording.ask(sealed), sealed) == kept
        size, published = rig.sql("SELECT size, published_size FROM vault.log_head").split("|")
        assert int(size) > int(published)

        rig.disk.make_room()
        # 5. By itself.
        eventually(lambda: rig.sql(manifest), "the manifest is sealed", SOON)
        eventually(lambda: not rig.alarms(), "the alarm is cleared", SOON)
        assert_log_is_whole(rig.system)
        assert put(other.ask(asked).tickets[0], big).status_code == 200
        other.receipt(other.commit(asked), asked)
        assert recording.close(closing).status_code == 200


def test_a_terminal_keeps_what_a_full_store_refuses_and_brings_it_once_there_is_room(rig: Rig) -> None:
    home = rig.system.new_terminal("full")
    with LiveTerminal(rig.system, home, "record", *SECOND_BY_SECOND, "--seconds", "6") as terminal:
        terminal.wait_for("sealed", 3)
        before = {int(event["sequence"]) for event in terminal.of("sealed")}
        rig.disk.fill()
        try:
            terminal.wait_for("retry", 2)
            assert any("507" in told_by(event) for event in terminal.of("retry")), terminal.said
        finally:
            rig.disk.make_room()
        assert terminal.finish() == 0, terminal.said[-20:]
        assert_nothing_lost(rig.system, home, terminal.recording, before)


def told_by(event: dict[str, Any]) -> str:
    return " ".join(str(value) for value in event.values())
