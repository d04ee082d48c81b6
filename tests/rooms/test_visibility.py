"""Who sees what, in every door at once: what may not be seen is not there."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.terminal.api import Api, Refused
from services.vault.contract import wire
from tests.rooms.houses import House, Houses

USE = {"purpose": "spot-check", "note": "测试"}
VIEWERS = [
    ("here", "first"),
    ("here", "supervisor"),
    ("here", "administrator"),
    ("there", "first"),
    ("there", "supervisor"),
    ("there", "administrator"),
]


def _visible(houses: Houses, house: str, person: str) -> set[UUID]:
    """The whole rule, once more and in other words."""
    own: House = getattr(houses, house)
    if person == "supervisor":
        return set(own.recordings)
    return {recording for recording, officer in own.recordings.items() if officer == person}


def _client(houses: Houses, house: str, person: str) -> httpx.AsyncClient:
    own: House = getattr(houses, house)
    return own.clients[person]


def _all(houses: Houses) -> set[UUID]:
    return {*houses.here.recordings, *houses.there.recordings}


def _sha256(houses: Houses, recording: UUID) -> str:
    """The digest of its segment 1."""
    for name, house in (("甲局", houses.here), ("乙局", houses.there)):
        if recording in house.recordings:
            return hashlib.sha256(f"{name} {house.recordings[recording]} 1".encode()).hexdigest()
    return "0" * 64


def _doors(houses: Houses, recording: UUID) -> list[tuple[str, str]]:
    """Every address that leads to one recording by its id."""
    return [
        ("GET", f"/v1/recordings/{recording}"),
        ("GET", f"/v1/recordings/{recording}/segments"),
        ("GET", f"/v1/recordings/{recording}/timeline"),
        ("POST", f"/v1/recordings/{recording}/viewings"),
        ("GET", f"/recordings/{recording}"),
        ("GET", f"/recordings/{recording}/segments"),
        ("GET", f"/recordings/{recording}/receipts/1/{_sha256(houses, recording)}"),
    ]


async def _walk(client: httpx.AsyncClient, **query: str | int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    cursor: str | None = ""
    while cursor is not None:
        given = query | ({"cursor": cursor} if cursor else {})
        answer = await client.get("/v1/recordings", params=given)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        assert len(found) < 1000
    return found


@pytest.mark.parametrize(("house", "person"), VIEWERS)
async def test_a_list_holds_what_may_be_seen(houses: Houses, house: str, person: str) -> None:
    client, visible = _client(houses, house, person), _visible(houses, house, person)
    assert {UUID(str(item["id"])) for item in await _walk(client)} == visible
    page = (await client.get("/recordings")).text
    assert {each for each in _all(houses) if str(each) in page} == visible
    rows = (await client.get("/recordings", headers={"hx-request": "true"})).text
    assert {each for each in _all(houses) if str(each) in rows} == visible


@pytest.mark.parametrize(("house", "person"), VIEWERS)
async def test_every_door_shows_the_same(houses: Houses, house: str, person: str) -> None:
    client, visible = _client(houses, house, person), _visible(houses, house, person)
    for recording in _all(houses):
        for method, path in _doors(houses, recording):
            answer = await client.request(method, path, json=USE if method == "POST" else None)
            assert (answer.status_code == 404) == (recording not in visible), (path, answer.text)
            assert answer.status_code < 500


async def test_what_may_not_be_seen_answers_like_what_is_not_there(houses: Houses) -> None:
    client = houses.here.clients["first"]
    hidden, nothing = houses.there.closed["first"], uuid7()
    for (method, real), (_, made_up) in zip(_doors(houses, hidden), _doors(houses, nothing), strict=True):
        content = USE if method == "POST" else None
        one, other = (
            await client.request(method, real, json=content),
            await client.request(method, made_up, json=content),
        )
        assert (one.status_code, one.text) == (other.status_code, other.text) == (404, one.text)


async def test_a_viewing_is_the_persons_own(houses: Houses) -> None:
    recording = houses.here.closed["first"]
    viewing = (await houses.here.clients["first"].post(f"/v1/recordings/{recording}/viewings", json=USE)).json()
    playlist = await houses.here.clients["first"].get(viewing["playlist"])
    assert playlist.status_code == 200
    name = next(line for line in playlist.text.splitlines() if line.endswith(".m4s"))
    address = viewing["playlist"].replace("index.m3u8", name)
    assert (await houses.here.clients["first"].get(address)).content == "甲局 first 1".encode()
    for house, person in VIEWERS[1:]:
        for path in (viewing["playlist"], address):
            assert (await _client(houses, house, person).get(path)).status_code == 404


async def test_a_viewing_shows_its_own_recording_alone(houses: Houses) -> None:
    client = houses.here.clients["supervisor"]
    recording, other = houses.here.closed["first"], houses.here.closed["second"]
    viewing = (await client.post(f"/v1/recordings/{recording}/viewings", json=USE)).json()
    base = viewing["playlist"].removesuffix("index.m3u8")
    assert (await client.get(f"{base}segments/1-{_sha256(houses, other)}.m4s")).status_code == 404
    assert (await client.get(f"{base}segments/9999999999-{'0' * 64}.m4s")).status_code == 404


async def test_a_lapsed_viewing_shows_nothing_more(houses: Houses) -> None:
    client = houses.here.clients["first"]
    recording = houses.here.closed["first"]
    viewing = (await client.post(f"/v1/recordings/{recording}/viewings", json=USE)).json()
    houses.system.stack.postgres.run_sql(
        f"UPDATE api.viewings SET until = now() - interval '1 second' WHERE id = '{viewing['id']}'"
    )
    refused = await client.get(viewing["playlist"])
    assert (refused.status_code, refused.json()["slug"]) == (403, "viewing-lapsed")


async def test_a_terminal_works_on_its_own_recordings_alone(houses: Houses) -> None:
    terminal, other = houses.here.terminals["first"], houses.here.open["second"]
    async with Api(terminal.stack.api_url, terminal.key) as api:
        with pytest.raises(Refused, match="no-such-recording"):
            await api.exchange(other, wire.ExchangeRequest())
        with pytest.raises(Refused, match="recording-differs"):
            await api.open(other, datetime.now(UTC))


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
async def test_walking_pages_meets_everything_once(houses: Houses, limit: int) -> None:
    found = [UUID(str(item["id"])) for item in await _walk(houses.here.clients["supervisor"], limit=limit)]
    assert len(found) == len(set(found))
    assert set(found) == set(houses.here.recordings)
    states = [str(item["state"]) for item in await _walk(houses.here.clients["supervisor"], limit=limit)]
    assert states == sorted(states, reverse=True)


async def test_walking_pages_of_one_state_meets_that_state(houses: Houses) -> None:
    for state, expected in (("open", houses.here.open), ("closed", houses.here.closed)):
        found = await _walk(houses.here.clients["supervisor"], limit=1, state=state)
        assert {UUID(str(item["id"])) for item in found} == set(expected.values())


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 200])
async def test_walking_segments_meets_every_digest_once(houses: Houses, limit: int) -> None:
    """Two digests of one sequence lie beside each other; no page may part them and lose one."""
    client, data, others = houses.here.clients["first"], [b"init", b"1", b"2", b"3"], {1: b"other 1", 2: b"other 2"}
    recording = await houses.here.record("first", data, close=False)
    await houses.here.terminals["first"].add(recording, others)
    sealed = [*enumerate(data), *others.items()]
    found: list[tuple[int, str]] = []
    after: int | None = -1
    while after is not None and len(found) <= len(sealed):
        query = {"after": after, "limit": limit}
        page = (await client.get(f"/v1/recordings/{recording}/segments", params=query)).json()
        found += [(item["sequence"], item["sha256"]) for item in page["items"]]
        after = page["next_after"]
    assert sorted(found) == sorted((n, hashlib.sha256(each).hexdigest()) for n, each in sealed)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=-1", 422),
        ("limit=201", 422),
        ("limit=x", 422),
        ("limit=" + "9" * 50, 422),
        ("limit=200", 200),
        ("state=lost", 422),
        ("cursor=" + "x" * 201, 422),
    ],
)
async def test_the_bounds_of_a_page_hold(houses: Houses, query: str, status: int) -> None:
    assert (await houses.here.clients["supervisor"].get(f"/v1/recordings?{query}")).status_code == status


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


NOT_OURS = [
    *("garbage", "====", "AAAA", "\0", "é", _cursor("open:"), _cursor("open:x"), _cursor("lost:" + "0" * 32)),
    *(_cursor("op\0en:" + "0" * 32), _cursor("\0:" + "f" * 32), _cursor(":" + "f" * 32)),
]


@pytest.mark.parametrize("cursor", NOT_OURS)
async def test_a_cursor_that_is_not_ours_is_taken_as_none(houses: Houses, cursor: str) -> None:
    client = houses.here.clients["supervisor"]
    assert (await client.get("/recordings", params={"cursor": cursor})).status_code == 200
    answer = await client.get("/v1/recordings", params={"cursor": cursor, "limit": 200})
    assert {UUID(item["id"]) for item in answer.json()["items"]} == set(houses.here.recordings)


@pytest.mark.parametrize("after", ["-2", "x", str(2**31), "9" * 40, "1.5"])
async def test_the_bounds_of_a_place_among_segments_hold(houses: Houses, after: str) -> None:
    recording = houses.here.closed["first"]
    for path in (f"/v1/recordings/{recording}/segments", f"/recordings/{recording}/segments"):
        assert (await houses.here.clients["first"].get(path, params={"after": after})).status_code == 422
