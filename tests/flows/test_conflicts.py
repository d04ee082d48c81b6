"""One sequence sealed with different content: four at most, told in the log at once, shown, settled at closing."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.vault.contract import wire
from tests.flows.hand_terminal import HandRecording, HandTerminal, put, some_bytes
from tests.system import System

RACERS = 8


@pytest.fixture(scope="module")
def terminal(system: System) -> Iterator[HandTerminal]:
    with HandTerminal(system) as terminal:
        yield terminal


def conflicts_of(system: System, recording: HandRecording) -> list[dict[str, Any]]:
    """The conflict statements of a recording, sequenced or waiting, in the order in which they were entered."""
    of = f'%"kind":"conflict"%"recording":"{recording.id}"%'
    lines = system.stack.postgres.run_sql(
        "SELECT said FROM (SELECT 0, position, convert_from(statement, 'utf8') FROM vault.log_entries UNION ALL"
        " SELECT 1, place, convert_from(statement, 'utf8') FROM vault.log_pending) AS log(part, place, said)"
        f" WHERE said LIKE '{of}' ORDER BY part, place"
    )
    return [json.loads(line) for line in lines.splitlines() if line]


def results(answers: list[Any]) -> list[wire.ExchangeResult]:
    for answer in answers:
        assert answer.status_code == 200, answer.text
    return [wire.ExchangeResult.model_validate_json(answer.content) for answer in answers]


def test_a_second_digest_is_kept_and_the_log_tells_of_it(system: System, terminal: HandTerminal) -> None:
    recording = terminal.begin()
    first = recording.seal(1, some_bytes())
    assert conflicts_of(system, recording) == []
    digests = [first.sha256]
    for _ in range(2):
        digests.append(recording.seal(1, some_bytes()).sha256)
        told = conflicts_of(system, recording)[-1]
        assert (told["sequence"], told["sha256"]) == (1, sorted(digests))
    assert len(conflicts_of(system, recording)) == 2
    # Committing again tells nothing again.
    assert recording.commit(first).sealed
    assert len(conflicts_of(system, recording)) == 2


def test_racing_exchanges_keep_four_digests_of_a_sequence_and_no_more(terminal: HandTerminal) -> None:
    """Eight exchanges at once, each asking for digests of its own under the same three sequences."""
    recordings = [terminal.begin() for _ in range(5)]
    for recording in recordings:
        asks = [[recording.segment(n, some_bytes(64)) for n in (1, 2, 3)] for _ in range(RACERS)]
        for each in asks:
            random.shuffle(each)
        with ThreadPoolExecutor(RACERS) as pool:
            answers = results(list(pool.map(recording.exchange, asks)))
        taken = [ticket.sequence for answer in answers for ticket in answer.tickets]
        assert {n: taken.count(n) for n in (1, 2, 3)} == dict.fromkeys((1, 2, 3), wire.MAX_DIGESTS_PER_SEQUENCE)
        refused = [problem.slug for answer in answers for problem in answer.problems]
        assert refused == ["too-many-digests"] * (3 * (RACERS - wire.MAX_DIGESTS_PER_SEQUENCE))


def test_racing_commits_of_different_digests_leave_no_conflict_untold(system: System, terminal: HandTerminal) -> None:
    recordings = [terminal.begin() for _ in range(5)]
    for recording in recordings:
        pieces = [some_bytes(64) for _ in range(wire.MAX_DIGESTS_PER_SEQUENCE)]
        asks = [recording.segment(7, piece) for piece in pieces]
        (asked,) = results([recording.exchange(asks=asks)])
        for ticket, piece in zip(asked.tickets, pieces, strict=True):
            assert put(ticket, piece) == 200
        with ThreadPoolExecutor(len(asks)) as pool:
            answers = list(pool.map(recording.commit, asks))
        assert all(len(answer.sealed) == 1 for answer in answers)
        told = conflicts_of(system, recording)
        assert [len(each["sha256"]) for each in told] == [2, 3, 4]
        assert told[-1]["sha256"] == sorted(ask.sha256 for ask in asks)


def test_a_conflict_is_shown_and_its_statement_is_in_the_export(system: System, terminal: HandTerminal) -> None:
    recording = terminal.begin()
    init, lonely = recording.seal(0, some_bytes()), recording.seal(2, some_bytes())
    rivals = [recording.seal(1, some_bytes()) for _ in range(2)]
    with system.sign_in("li") as client:

        def shown() -> dict[str, tuple[bool, bool]]:
            items = client.get(f"/v1/recordings/{recording.id}/segments").json()["items"]
            return {item["sha256"]: (item["conflicting"], item["beside"]) for item in items}

        alone = {init.sha256: (False, False), lonely.sha256: (False, False)}
        assert shown() == alone | {ask.sha256: (True, False) for ask in rivals}
        page = client.get(f"/recordings/{recording.id}").text
        assert len(re.findall(r"badge conflict", page)) == 2
        assert recording.close(recording.closing([init, rivals[1], lonely])).status_code == 200
        assert shown() == alone | {rivals[0].sha256: (True, True), rivals[1].sha256: (True, False)}
        page = client.get(f"/recordings/{recording.id}").text
        assert len(re.findall(r"badge beside", page)) == len(re.findall(r"badge conflict", page)) == 1
    proofs = "".join(path.read_text() for path in (system.export(str(recording.id)) / "proofs").iterdir())
    (told,) = conflicts_of(system, recording)
    assert any(told["act"] in line for line in _extras(proofs))


def test_of_too_many_conflicts_a_root_decides_what_can_be_tried_and_says_so(terminal: HandTerminal) -> None:
    def conflicting(count: int) -> tuple[HandRecording, list[wire.SegmentAsk], list[wire.SegmentAsk]]:
        recording = terminal.begin()
        first = [recording.seal(n, some_bytes(64)) for n in range(count)]
        return recording, first, [recording.seal(n, some_bytes(64)) for n in range(count)]

    recording, _, last = conflicting(6)
    assert recording.close(recording.closing(last)).status_code == 200
    recording, first, last = conflicting(7)
    refused = recording.close(recording.closing(last))
    assert (refused.status_code, refused.json()["slug"]) == (409, "conflicts-undecided")
    assert refused.headers["retry-after"] == "60"
    assert refused.json()["conflicting"] == [{"sequence": n} for n in range(7)]
    assert recording.close(recording.closing(first)).status_code == 200


def _extras(proofs: str) -> list[str]:
    lines = re.findall(r"^extra (\S+)$", proofs, re.MULTILINE)
    return [base64.b64decode(line)[32:].decode() for line in lines]
