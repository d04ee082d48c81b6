"""The original of a recording: byte for byte what was sealed, by range, for whom and as long as it was logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from services.vault.stores import disk
from tests.rooms.houses import House, Houses
from tests.rooms.lengthy import Piece, sealed
from tests.rooms.people import Terminal

SECOND = timedelta(seconds=1)
USE = {"purpose": "spot-check"}
SEGMENTS = [b"%d:" % n * (n + 3) for n in range(140)]
"""Three batches of tickets, each segment of another length."""
WHOLE = b"".join(SEGMENTS)


async def seal(terminal: Terminal, segments: list[bytes], *, close: bool = True) -> UUID:
    pieces = [Piece(n, data, n * SECOND, SECOND) for n, data in enumerate(segments)]
    return await sealed(terminal, pieces, datetime.now(UTC) - timedelta(hours=1), close=close)


@pytest.fixture(scope="module")
async def recording(apart: House) -> UUID:
    return await seal(apart.terminals["first"], SEGMENTS)


async def register(client: httpx.AsyncClient, recording: UUID, **more: Any) -> httpx.Response:
    return await client.post(f"/v1/recordings/{recording}/viewings", json=USE | more)


async def address(client: httpx.AsyncClient, recording: UUID) -> str:
    answer = await register(client, recording, original=True)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["original"])


@pytest.fixture(scope="module")
async def original(apart: House, recording: UUID) -> str:
    return await address(apart.clients["supervisor"], recording)


def refused(answer: httpx.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.json()["slug"]) == (status, slug), answer.text


async def test_it_is_the_sealed_segments_end_to_end(apart: House, recording: UUID, original: str) -> None:
    answer = await apart.clients["supervisor"].get(original)
    assert (answer.status_code, answer.content) == (200, WHOLE)
    assert answer.headers["content-length"] == str(len(WHOLE))
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-disposition"] == f'attachment; filename="quancheng-{recording}.mp4"'


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, len(WHOLE) - 1), length=st.integers(1, len(WHOLE)))
async def test_any_range_is_cut_across_the_borders_of_segments(
    apart: House, original: str, first: int, length: int
) -> None:
    headers = {"range": f"bytes={first}-{first + length - 1}"}
    answer = await apart.clients["supervisor"].get(original, headers=headers)
    wanted = WHOLE[first : first + length]
    assert (answer.status_code, answer.content) == (206, wanted)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(wanted) - 1}/{len(WHOLE)}"


async def test_a_suffix_and_an_open_end_and_several_at_once(apart: House, original: str) -> None:
    client = apart.clients["supervisor"]
    for header, status, wanted in (
        ("bytes=-5", 206, WHOLE[-5:]),
        (f"bytes={len(SEGMENTS[0])}-", 206, WHOLE[len(SEGMENTS[0]) :]),
        ("bytes=0-0", 206, WHOLE[:1]),
        ("bytes=0-1,5-9", 200, WHOLE),
        ("seconds=0-1", 200, WHOLE),
    ):
        answer = await client.get(original, headers={"range": header})
        assert (answer.status_code, answer.content) == (status, wanted)


async def test_behind_the_end_there_is_nothing(apart: House, original: str) -> None:
    answer = await apart.clients["supervisor"].get(original, headers={"range": f"bytes={len(WHOLE)}-"})
    refused(answer, 416, "range-unsatisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(WHOLE)}"


async def test_it_goes_on_under_another_viewing(apart: House, recording: UUID, original: str) -> None:
    client = apart.clients["supervisor"]
    begun = await client.get(original, headers={"range": "bytes=0-999"})
    goes_on = {"range": "bytes=1000-", "if-range": begun.headers["etag"]}
    rest = await client.get(await address(client, recording), headers=goes_on)
    assert (rest.status_code, begun.content + rest.content) == (206, WHOLE)
    other = await client.get(original, headers=goes_on | {"if-range": '"another"'})
    assert (other.status_code, other.content) == (200, WHOLE)


async def test_it_is_logged_as_taken_along_before_it_flows(apart: House, recording: UUID, original: str) -> None:
    act = original.split("/")[3]
    row = apart.terminals["first"].stack.postgres.run_sql(
        f"SELECT json_build_object('kind', kind, 'fields', fields, 'index', log_index) FROM api.outbox"
        f" WHERE act = '{act}'"
    )
    told = json.loads(row)
    assert told["index"] is not None
    assert (told["kind"], told["fields"]["takes"], told["fields"]["recording"]) == (
        *("viewing", "original"),
        str(recording),
    )


async def test_whoever_may_not_export_gets_no_original(apart: House, recording: UUID, original: str) -> None:
    refused(await register(apart.clients["first"], recording, original=True), 403, "not-permitted")
    refused(await register(apart.clients["second"], recording, original=True), 404, "no-such-recording")
    refused(await register(apart.clients["administrator"], recording, original=True), 404, "no-such-recording")
    viewing = (await register(apart.clients["first"], recording)).json()
    assert viewing["original"] is None
    refused(await apart.clients["first"].get(f"/v1/viewings/{viewing['id']}/original"), 403, "not-permitted")
    for person in ("first", "second", "administrator"):
        refused(await apart.clients[person].get(original), 404, "no-such-viewing")


async def test_another_units_supervisor_finds_nothing(houses: Houses, original: str) -> None:
    refused(await houses.here.clients["supervisor"].get(original), 404, "no-such-viewing")
    async with httpx.AsyncClient(base_url=houses.system.stack.api_url, trust_env=False) as nobody:
        refused(await nobody.get(original), 401, "not-signed-in")


async def test_a_viewing_for_watching_takes_nothing_along(apart: House, recording: UUID) -> None:
    client = apart.clients["supervisor"]
    viewing = (await register(client, recording)).json()
    assert (await client.get(viewing["playlist"])).status_code == 200
    refused(await client.get(f"/v1/viewings/{viewing['id']}/original"), 403, "viewing-only")
    refused(await client.get(f"/v1/viewings/{uuid7()}/original"), 404, "no-such-viewing")


async def test_a_recording_that_runs_has_no_original_yet(apart: House) -> None:
    refused(await register(apart.clients["supervisor"], apart.open["first"], original=True), 409, "recording-open")


async def test_a_lapsed_viewing_gives_nothing_more(apart: House, recording: UUID) -> None:
    client = apart.clients["supervisor"]
    path = await address(client, recording)
    lapse(apart, path)
    refused(await client.get(path), 403, "viewing-lapsed")


async def test_a_viewing_that_lapses_ends_what_flows_under_it(apart: House) -> None:
    client, size = apart.clients["supervisor"], 1024 * 1024
    recording = await seal(apart.terminals["first"], [b"%04d" % n * (size // 4) for n in range(80)])
    path, chunks = await address(client, recording), []
    async with client.stream("GET", path) as answer:
        assert answer.headers["content-length"] == str(80 * size)
        stream = answer.aiter_raw()
        chunks.append(await anext(stream))
        await asyncio.to_thread(lapse, apart, path)
        with pytest.raises(httpx.RemoteProtocolError):
            await drain(stream, chunks)
    assert sum(map(len, chunks)) == 64 * size


async def test_what_is_not_what_was_sealed_is_not_given_out_whole(apart: House) -> None:
    stack, client = apart.terminals["first"].stack, apart.clients["supervisor"]
    recording = await seal(apart.terminals["first"], [b"init", b"the first", b"the second"])
    (stored,) = (file for file in Path(stack.data).rglob(f"*{recording}*/*") if read(file) == b"the second")
    alter(stored, b"the secont")
    chunks: list[bytes] = []
    async with client.stream("GET", await address(client, recording)) as answer:
        with pytest.raises(httpx.RemoteProtocolError):
            await drain(answer.aiter_raw(), chunks)
    assert b"".join(chunks) == b"initthe first"


async def drain(stream: AsyncIterator[bytes], chunks: list[bytes]) -> None:
    async for chunk in stream:
        chunks.append(chunk)


def alter(stored: Path, data: bytes) -> None:
    """As the machine's owner can."""
    with stored.open("rb") as file:
        disk.set_immutable(file.fileno(), False)
    stored.chmod(0o644)
    stored.write_bytes(data)


def read(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def lapse(apart: House, path: str) -> None:
    apart.terminals["first"].stack.postgres.run_sql(
        f"UPDATE api.viewings SET until = now() - interval '1 second' WHERE id = '{path.split('/')[3]}'"
    )
