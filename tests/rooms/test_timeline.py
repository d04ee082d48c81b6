"""The timeline: where a recording has pictures and where it has none, in few rows however long it is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from tests.rooms.houses import House
from tests.rooms.lengthy import Piece, sealed

BEGAN = datetime(2026, 11, 25, 1, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


async def record(apart: House, at: dict[int, float], *, close: bool = True) -> UUID:
    """A recording with one-second segments: sequence -> seconds after the beginning."""
    pieces = [Piece(0, b"init", timedelta(), timedelta())]
    pieces += [Piece(n, b"segment %d" % n, seconds * SECOND, SECOND) for n, seconds in at.items()]
    return await sealed(apart.terminals["first"], pieces, BEGAN, close=close)


def evenly(sequences: Iterable[int]) -> dict[int, float]:
    return {n: n - 1.0 for n in sequences}


def clock(seconds: float) -> str:
    return (BEGAN + seconds * SECOND).isoformat().replace("+00:00", "Z")


async def timeline(client: httpx.AsyncClient, recording: UUID) -> dict[str, Any]:
    answer = await client.get(f"/v1/recordings/{recording}/timeline")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def note_gap(apart: House, recording: UUID, kind: str, before: int, from_at: float, to_at: float) -> None:
    apart.terminals["first"].stack.postgres.run_sql(
        "INSERT INTO api.gaps (id, recording_id, kind, before_sequence, from_at, to_at, noted_at) VALUES"
        f" ('{uuid7()}', '{recording}', '{kind}', {before}, '{clock(from_at)}', '{clock(to_at)}', now())"
    )


async def test_segments_that_follow_one_another_are_one_span(apart: House) -> None:
    jitter = {n: n - 1 + (n % 3) * 0.2 for n in range(1, 40)}
    told = await timeline(apart.clients["first"], await record(apart, jitter))
    assert (told["state"], told["gaps"], told["unnamed_gaps"]) == ("closed", [], 0)
    assert [(span["first_sequence"], span["last_sequence"]) for span in told["spans"]] == [(1, 39)]
    assert (told["from_at"], told["to_at"]) == (clock(0.2), clock(39))


async def test_a_hole_a_pause_and_a_missing_beginning_are_gaps(apart: House) -> None:
    at = evenly(range(3, 10)) | evenly(range(13, 20)) | {n: n + 59.0 for n in range(20, 25)}
    told = await timeline(apart.clients["first"], await record(apart, at))
    spans = [(span["first_sequence"], span["last_sequence"]) for span in told["spans"]]
    assert spans == [(3, 9), (13, 19), (20, 24)]
    assert told["gaps"] == [
        {"from_at": clock(0), "to_at": clock(2), "kinds": [], "first_missing": 1, "last_missing": 2},
        {"from_at": clock(9), "to_at": clock(12), "kinds": [], "first_missing": 10, "last_missing": 12},
        {"from_at": clock(19), "to_at": clock(79), "kinds": [], "first_missing": None, "last_missing": None},
    ]
    assert (told["from_at"], told["to_at"]) == (clock(0), clock(84))


async def test_a_gap_on_record_says_why(apart: House) -> None:
    recording = await record(apart, evenly(range(1, 5)) | {n: n + 9.0 for n in range(6, 9)}, close=False)
    note_gap(apart, recording, "not-sealed", 5, 4, 5)
    note_gap(apart, recording, "disconnected", 6, 5, 15)
    note_gap(apart, recording, "not-sealed", 9, 18, 19)
    told = await timeline(apart.clients["first"], recording)
    both, at_the_end = told["gaps"]
    assert both["kinds"] == ["not-sealed", "disconnected"]
    assert (both["from_at"], both["to_at"], both["first_missing"], both["last_missing"]) == (
        *(clock(4), clock(15)),
        *(5, 5),
    )
    assert (at_the_end["kinds"], at_the_end["from_at"], at_the_end["to_at"]) == (["not-sealed"], clock(18), clock(19))
    assert (told["state"], told["to_at"]) == ("open", clock(19))


async def test_a_clock_that_is_set_back_begins_another_span(apart: House) -> None:
    at = evenly(range(1, 6)) | {n: n - 60.0 for n in range(6, 9)}
    told = await timeline(apart.clients["first"], await record(apart, at))
    assert [(span["first_sequence"], span["from_at"]) for span in told["spans"]] == [(1, clock(0)), (6, clock(-54))]
    assert (told["gaps"], told["from_at"], told["to_at"]) == ([], clock(-54), clock(5))


async def test_it_stays_small_however_often_a_recording_broke_off(apart: House) -> None:
    at = {n: n * 3.0 + 10 * (n // 50) for n in range(1, 501)}
    told = await timeline(apart.clients["first"], await record(apart, at))
    assert len(told["spans"]) <= 200
    assert len(told["gaps"]) <= 200
    assert len(told["gaps"]) + told["unnamed_gaps"] == 499
    assert (told["spans"][0]["first_sequence"], told["spans"][-1]["last_sequence"]) == (1, 500)
    lengths = [datetime.fromisoformat(g["to_at"]) - datetime.fromisoformat(g["from_at"]) for g in told["gaps"]]
    assert lengths.count(12 * SECOND) == 10, "the longest are all named"


async def test_what_the_closing_does_not_speak_of_is_no_part_of_it(apart: House) -> None:
    client, terminal = apart.clients["first"], apart.terminals["first"]
    recording = await record(apart, evenly(range(1, 4)), close=False)
    await terminal.add(recording, {2: b"another 2"})
    told = await timeline(client, recording)
    assert [(span["first_sequence"], span["last_sequence"]) for span in told["spans"]] == [(1, 3)]


async def test_an_empty_recording_has_an_empty_timeline(apart: House) -> None:
    recording = await record(apart, {}, close=False)
    told = await timeline(apart.clients["first"], recording)
    assert (told["spans"], told["gaps"]) == ([], [])
    assert told["from_at"] == told["to_at"] == clock(0)


async def test_who_knows_it_already_is_told_so(apart: House) -> None:
    client = apart.clients["first"]
    recording = await record(apart, evenly(range(1, 4)), close=False)
    path = f"/v1/recordings/{recording}/timeline"
    first = await client.get(path)
    known = {"if-none-match": first.headers["etag"]}
    again = await client.get(path, headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert first.headers["cache-control"] == "private, no-cache"
    note_gap(apart, recording, "disconnected", 3, 2, 2)
    assert (await client.get(path, headers=known)).status_code == 200
    await apart.terminals["first"].add(recording, {9: b"later"})
    assert (await client.get(path, headers=known)).status_code == 200
