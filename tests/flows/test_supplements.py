"""What comes after a closing is sealed too, in numbered supplements; nothing receipted is in no manifest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.vault.contract import wire
from tests.flows.hand_terminal import HandRecording, HandTerminal, put, some_bytes
from tests.flows.test_closing import manifest_of, verified
from tests.system import System


@pytest.fixture(scope="module")
def terminal(system: System) -> Iterator[HandTerminal]:
    with HandTerminal(system) as terminal:
        yield terminal


def listed(manifest: dict[str, Any]) -> set[tuple[int, str]]:
    """All that a manifest stands for, chosen or beside."""
    chosen = {(each["sequence"], each["sha256"]) for each in manifest["segments"]}
    return chosen | {(each["of_sequence"], each["sha256"]) for each in manifest["beside"]}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["slug"]


def test_what_comes_after_the_closing_is_sealed_in_supplements_of_its_own(
    system: System, terminal: HandTerminal
) -> None:
    recording = terminal.begin()
    pieces = [some_bytes() for _ in range(6)]
    asks = [recording.segment(n, piece) for n, piece in enumerate(pieces)]
    for n in (0, 1, 3):
        recording.seal_as(asks[n], pieces[n])
    first = recording.close(recording.closing([asks[0], asks[1], asks[3]], missing=[2]))
    before = manifest_of(first)

    # Supplement 1 fills the hole and goes on; supplement 2 comes later still.
    recording.seal_as(asks[4], pieces[4])
    recording.seal_as(asks[2], pieces[2])
    closing = recording.closing([asks[2], asks[4]], number=1)
    second = recording.close(closing)
    assert [each["sequence"] for each in manifest_of(second)["segments"]] == [2, 4]
    assert (manifest_of(second)["number"], manifest_of(second)["missing"]) == (1, [])
    assert recording.close(closing).json() == second.json()
    recording.seal_as(asks[5], pieces[5])
    assert manifest_of(recording.close(recording.closing([asks[5]], number=2)))["number"] == 2
    keys = system.stack.postgres.run_sql(
        f"SELECT key FROM vault.manifests WHERE recording_id = '{recording.id}' AND version > '' ORDER BY number"
    ).split()
    assert keys == [f"recordings/{recording.id}/manifest-{n:04d}" for n in range(3)]
    assert manifest_of(recording.manifest(0)) == before

    with system.sign_in("li") as client:
        detail = client.get(f"/v1/recordings/{recording.id}").json()
        assert (detail["supplements"], detail["closed_by"]) == (2, "terminal")
        assert "封存后另有 2 份补充清单" in client.get(f"/recordings/{recording.id}").text
    bundle = system.export(str(recording.id))
    assert "2 份是封存后补充的清单" in verified(bundle)
    assert (bundle / f"data/{recording.id}.mp4").read_bytes() == pieces[0] + pieces[1] + pieces[3]
    assert (bundle / f"data/{recording.id}.1.mp4").read_bytes() == pieces[2] + pieces[4]
    assert (bundle / f"data/{recording.id}.2.mp4").read_bytes() == pieces[5]


def test_a_closing_of_a_supplement_that_is_not_there_is_refused_and_changes_nothing(terminal: HandTerminal) -> None:
    recording = terminal.begin()
    data = some_bytes()
    first, late = recording.seal(0, some_bytes()), recording.segment(1, data)
    assert refusal(recording.close(recording.closing([first], number=1))) == (422, "bad-closing")
    manifest_of(recording.close(recording.closing([first])))
    outstanding = recording.close(recording.closing([late], number=1))
    assert refusal(outstanding) == (409, "segments-outstanding")
    assert outstanding.json()["outstanding"] == [{"sequence": 1}]
    assert refusal(recording.close(recording.closing([late], number=2))) == (422, "bad-closing")
    assert refusal(recording.manifest(1)) == (404, "no-such-manifest")
    recording.seal_as(late, data)
    # The second number is not open, and the first manifest's segments are not this one's.
    assert refusal(recording.close(recording.closing([late], number=2))) == (422, "bad-closing")
    assert refusal(recording.close(recording.closing([first, late], number=1))) == (409, "segments-outstanding")
    assert listed(manifest_of(recording.close(recording.closing([late], number=1)))) == {(1, late.sha256)}


def test_another_digest_of_a_closed_sequence_is_a_conflict_and_changes_neither_manifest_nor_playback(
    system: System, terminal: HandTerminal
) -> None:
    recording = terminal.begin()
    init, chosen = recording.seal(0, some_bytes()), recording.seal(1, some_bytes())
    manifest_of(recording.close(recording.closing([init, chosen])))
    late = recording.seal(1, some_bytes())
    assert [each["sha256"] for each in manifest_of(recording.manifest(0))["segments"]] == [init.sha256, chosen.sha256]
    manifest_of(recording.close(recording.closing([late], number=1)))
    with system.sign_in("li") as client:
        viewing = client.post(f"/v1/recordings/{recording.id}/viewings", json={"purpose": "spot-check"})
        playlist = client.get(viewing.json()["playlist"]).text
        items = client.get(f"/v1/recordings/{recording.id}/segments").json()["items"]
    assert f"segments/1-{chosen.sha256}.m4s" in playlist
    assert late.sha256 not in playlist
    assert {item["sha256"]: item["conflicting"] for item in items} == {
        init.sha256: False,
        chosen.sha256: True,
        late.sha256: True,
    }
    verified(system.export(str(recording.id)))


@pytest.mark.one_store
@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "killed"])
@pytest.mark.parametrize("after", [2, 6, 10])
def test_commits_that_race_a_closing_end_in_one_manifest_each(
    system: System, terminal: HandTerminal, killed: bool, after: int
) -> None:
    """Sixteen segments are put and committed, four at a time, and once `after` of them are through the recording is
    closed over four others, while the rest goes on; once with a kill -9 in the midst of it."""
    vault, recording = system.stack.vault, terminal.begin()
    assert vault
    base = [recording.seal(n, some_bytes(64)) for n in range(4)]
    pieces = {n: some_bytes(64) for n in range(4, 20)}
    late = [recording.segment(n, piece) for n, piece in pieces.items()]
    asked = wire.ExchangeResult.model_validate_json(recording.exchange(asks=late).content)
    tickets = {ticket.sequence: ticket for ticket in asked.tickets}
    closing = recording.closing(base)
    through, closes = threading.Semaphore(0), threading.Event()

    def close() -> int:
        for _ in range(after):
            through.acquire()
        closes.set()
        return recording.close(closing).status_code

    def put_and_commit(ask: wire.SegmentAsk) -> int:
        try:
            put(tickets[ask.sequence], pieces[ask.sequence])
            return int(recording.exchange(commits=[ask]).status_code)
        finally:
            through.release()

    with ThreadPoolExecutor(5) as pool:
        racing = [pool.submit(close), *(pool.submit(put_and_commit, ask) for ask in late)]
        if killed:
            assert closes.wait(60)
            time.sleep(after / 50)  # at another place of the closing each time
            vault.kill()
    if killed:
        vault.wait_ready()
        for ask in late:
            # The local folder is served by the vault, so what was being put may have to be put again.
            assert put(tickets[ask.sequence], pieces[ask.sequence]) in (200, 412)
    else:
        assert {each.result() for each in racing} == {200}
    assert_each_receipt_is_in_one_manifest(recording, base, late, closing)


def assert_each_receipt_is_in_one_manifest(
    recording: HandRecording, base: list[wire.SegmentAsk], late: list[wire.SegmentAsk], closing: dict[str, Any]
) -> None:
    """Everything is asked for once more, as a terminal does that got no answer."""
    receipts = wire.ExchangeResult.model_validate_json(recording.exchange(commits=late).content)
    assert not receipts.problems
    assert {(one.sequence, one.sha256) for one in receipts.sealed} == {(ask.sequence, ask.sha256) for ask in late}
    first = listed(manifest_of(recording.close(closing)))
    left = [ask for ask in late if (ask.sequence, ask.sha256) not in first]
    second = listed(manifest_of(recording.close(recording.closing(left, number=1)))) if left else set()
    assert not first & second
    assert first | second == {(ask.sequence, ask.sha256) for ask in base + late}
