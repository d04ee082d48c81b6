"""Where the source cannot sign or has gone, the server closes and says so; what comes later is a supplement."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from deploy.local.demo import unpack
from deploy.local.stack import run_apart
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused
from tests.flows.hand_terminal import HandRecording, HandTerminal, put, some_bytes
from tests.flows.test_closing import manifest_of, verified
from tests.rooms.people import service_key
from tests.system import System, running

T = TypeVar("T")


@pytest.fixture(scope="module", params=["local", "minio"])
def impatient(request: pytest.FixtureRequest) -> Iterator[System]:
    """A system that gives a silent terminal three seconds instead of a day."""
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    settings = {
        "QUANCHENG_VAULT_IDLE_SECONDS": "3",
        "QUANCHENG_API_LOST_AFTER_SECONDS": "3",
        "QUANCHENG_API_LOST_EVERY_SECONDS": "0.5",
    }
    with running(minio, settings=settings) as system:
        yield system


def ask_vault(system: System, what: Callable[[VaultClient], Coroutine[Any, Any, T]]) -> T:
    async def asking() -> T:
        async with VaultClient(system.stack.vault_url, service_key(system.stack)) as vault:
            return await what(vault)

    return run_apart(asking())


def detail_of(system: System, recording: UUID) -> dict[str, Any]:
    with system.sign_in("li") as client:
        found: dict[str, Any] = client.get(f"/v1/recordings/{recording}").json()
        return found


def until(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def numbers_of(system: System, recording: UUID) -> list[str]:
    """Who closed each manifest of a recording, by number."""
    who = "CASE WHEN closing IS NULL THEN 'server' ELSE 'terminal' END"
    query = f"SELECT {who} FROM vault.manifests WHERE recording_id = '{recording}' ORDER BY number"
    return system.stack.postgres.run_sql(query).split()


def exported(system: System, recordings: list[UUID], folder: Path) -> Path:
    """Straight from the vault, as the api asks for it."""
    act, person = uuid7(), uuid7()
    tar = folder / f"{act}.tar"

    async def fetch(vault: VaultClient) -> None:
        fields = {"recordings": [str(one) for one in recordings], "person": str(person), "purpose": "spot-check"}
        await vault.append(wire.Append(act=act, kind="export", fields=fields))
        await vault.begin_export(wire.ExportRequest(act=act, recordings=recordings, person=person))
        async with asyncio.timeout(60):
            while (await vault.export_state(act)).state != "ready":
                await asyncio.sleep(0.2)
        with tar.open("wb") as file:
            async with vault.bag(act) as answer:
                async for chunk in answer.aiter_raw():
                    file.write(chunk)

    ask_vault(system, fetch)
    unpack(tar, folder)
    return folder / f"quancheng-{act}"


async def seal(
    vault: VaultClient, recording: UUID, like: HandRecording, sequence: int, data: bytes
) -> wire.SegmentAsk:
    ask = like.segment(sequence, data)
    asked = await vault.exchange(recording, wire.ExchangeRequest(asks=[ask]))
    assert put(asked.tickets[0], data) == 200
    name = wire.SegmentName(sequence=sequence, sha256=ask.sha256)
    assert (await vault.exchange(recording, wire.ExchangeRequest(commits=[name]))).sealed
    return ask


def test_a_source_that_cannot_sign_is_closed_by_the_server(system: System, tmp_path: Path) -> None:
    recording = uuid7()
    pieces = [some_bytes() for _ in range(4)]
    with HandTerminal(system) as terminal:
        like = terminal.begin()

    async def run(vault: VaultClient) -> list[wire.ClosedRecording]:
        opening = wire.OpenRecording(source=uuid7(), key_id=None, started_at=datetime.now(UTC))
        await vault.open(recording, opening)
        with pytest.raises(VaultRefused, match="nothing-sealed"):
            await vault.close_by_server(recording, wire.CloseByServer(reason="idle"))
        for sequence, data in ((0, pieces[0]), (1, pieces[1]), (1, pieces[2]), (3, pieces[3])):
            await seal(vault, recording, like, sequence, data)
        signed = wire.CloseRecording(closing=wire.Envelope.model_validate(like.closing([])))
        with pytest.raises(VaultRefused, match="bad-closing"):
            await vault.close(recording, signed)
        closed = await vault.close_by_server(recording, wire.CloseByServer(reason="endless"))
        again = await vault.close_by_server(recording, wire.CloseByServer(reason="idle"))
        assert again == closed
        await seal(vault, recording, like, 4, pieces[0])
        late = await vault.close_by_server(recording, wire.CloseByServer(reason="idle"))
        return [closed, late]

    first, late = (closed.manifest.decoded() for closed in ask_vault(system, run))
    assert (first["closed_by"], first["reason"], first["missing"]) == ("server", "endless", [2])
    assert "closing" not in first
    # Of two digests the one that was sealed first.
    assert [each["sequence"] for each in first["segments"]] == [0, 1, 3]
    assert [each["of_sequence"] for each in first["beside"]] == [1]
    assert first["segments"][1]["sealed_at"] <= first["beside"][0]["sealed_at"]
    assert (late["number"], late["reason"], late["missing"]) == (1, "idle", [])

    bundle = exported(system, [recording], tmp_path)
    said = verified(bundle)
    assert f"{recording} 由服务器代为封存（endless），终端没有签名" in said
    assert f"{recording}.1 由服务器代为封存（idle）" in said
    assert not list((bundle / "keys").glob("terminal-*"))
    assert (bundle / f"data/{recording}.mp4").read_bytes() == pieces[0] + pieces[1] + pieces[3]
    assert '"closed_by":"server"' in (bundle / "README.md").read_text()


def test_a_terminal_that_is_not_silent_closes_for_itself(system: System) -> None:
    with HandTerminal(system) as terminal:
        recording = terminal.begin()
        ask = recording.seal(0, some_bytes())

        async def close(vault: VaultClient) -> wire.ClosedRecording:
            return await vault.close_by_server(recording.id, wire.CloseByServer(reason="lost"))

        with pytest.raises(VaultRefused, match="source-not-idle"):
            ask_vault(system, close)
        closed = manifest_of(recording.close(recording.closing([ask])))
        # What its terminal has closed stays as it is.
        assert ask_vault(system, close).manifest.decoded() == closed


def test_a_lost_terminal_s_recording_is_closed_and_its_return_is_a_supplement(impatient: System) -> None:
    with HandTerminal(impatient) as terminal:
        recording, data, unheard = terminal.begin(), some_bytes(), some_bytes()
        first, swept = recording.seal(0, some_bytes()), recording.segment(1, unheard)
        assert put(recording.ask(swept).tickets[0], unheard) == 200  # and then the terminal falls silent
        until(lambda: detail_of(impatient, recording.id)["row"]["state"] == "closed")
        detail = detail_of(impatient, recording.id)
        # The api learnt from the manifest of the segment that nobody committed.
        assert (detail["closed_by"], detail["row"]["segments"]) == ("server", 2)
        with impatient.sign_in("li") as client:
            assert "由服务器代为封存" in client.get(f"/recordings/{recording.id}").text

        late = recording.seal(2, data)
        refused = recording.close(recording.closing([first, swept, late]))
        assert (refused.status_code, refused.json()["slug"]) == (409, "closed-by-server")
        manifest = manifest_of(recording.manifest(0))
        assert (manifest["closed_by"], manifest["reason"]) == ("server", "lost")
        assert [each["sha256"] for each in manifest["segments"]] == [first.sha256, swept.sha256]
        assert manifest_of(recording.close(recording.closing([late], number=1)))["closed_by"] == "terminal"
        said = verified(impatient.export(str(recording.id)))
        assert "由服务器代为封存（lost）" in said
        assert "1 份是封存后补充的清单" in said


def test_a_supplement_that_nobody_closes_is_closed_by_the_vault_alone(impatient: System) -> None:
    with HandTerminal(impatient) as terminal:
        recording = terminal.begin()
        manifest_of(recording.close(recording.closing([recording.seal(0, some_bytes())])))
        recording.seal(1, some_bytes())
        until(lambda: numbers_of(impatient, recording.id) == ["terminal", "server"])
        assert manifest_of(recording.manifest(1))["reason"] == "idle"
        assert detail_of(impatient, recording.id)["supplements"] == 1


@pytest.mark.one_store
def test_the_reference_terminal_comes_back_to_a_recording_closed_without_it(impatient: System) -> None:
    """Killed with segments in its spool; by the time it resumes, the server has closed."""
    home = impatient.new_terminal("lost")
    with impatient.start_terminal("record", home, "--seconds", "60", "--segment-seconds", "1") as process:
        assert process.stdout
        sealed, recording = 0, ""
        for line in process.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            recording = event.get("recording", recording)
            sealed += event.get("event") == "sealed"
            if sealed == 4:
                assert impatient.stack.api
                impatient.stack.api.stop()  # what is recorded now stays in the spool
                break
        time.sleep(3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert impatient.stack.api
    impatient.stack.api.start()
    until(lambda: detail_of(impatient, UUID(recording))["row"]["state"] == "closed")
    events = impatient.terminal("resume", home)
    (closed,) = [event for event in events if event["event"] == "closed"]
    assert closed["closed_by"] == "terminal"
    assert numbers_of(impatient, UUID(recording)) == ["server", "terminal"]
    assert not list((home / "spool").iterdir())
    bundle = impatient.export(recording)
    verified(bundle)
    # Recording and supplement end to end are the whole: the terminal's picture went on without a gap.
    offsets = [(bundle / f"recordings/{name}/offsets.tsv").read_text() for name in (recording, f"{recording}.1")]
    sequences = [int(line.split("\t")[0]) for text in offsets for line in text.splitlines()[1:]]
    assert sequences == list(range(len(sequences)))
