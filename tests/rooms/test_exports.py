"""An export as a job on both stores: what it holds, any range of it, what refuses it, what ends it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import secrets
import tarfile
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from deploy.local import folders
from services.vault.contract import wire
from services.vault.contract.client import VaultRefused
from services.vault.export.desk import Exports
from services.vault.export.lapsing import Lapsing
from services.vault.export.preparing import copy_key
from services.vault.stores import open_store
from services.vault.stores.staging import open_staging
from tests.flows.evidence import assert_plays
from tests.rooms.exported import asked, begun, fetched, ready, recorded, series_of, settled, unpacked, verified
from tests.rooms.movies import fragmented
from tests.rooms.sealed import Room, room_of, settings_of
from tests.system import System


@pytest.fixture
async def room(system: System) -> AsyncIterator[Room]:
    async with room_of(system, open_store(settings_of(system), b"x" * 32)) as made:
        yield made


def pieces(*sizes: int) -> list[bytes]:
    return [secrets.token_bytes(size) for size in sizes]


async def slug(awaited: object) -> str:
    with pytest.raises(VaultRefused) as told:
        await awaited  # type: ignore[misc]
    return told.value.problem.slug


# --- what it holds ---


async def test_it_holds_recordings_supplements_what_is_open_and_series_and_verifies(
    room: Room, tmp_path: Path
) -> None:
    client = room.client
    closed = await recorded(client, pieces(300, 70_000, 2_000_000))
    await closed.add(pieces(400, 500))
    await closed.close(number=1, asks=closed.asks[3:])
    await closed.add(pieces(600))
    still = await recorded(client, pieces(300, 1000), close=False)
    await still.add([b"another content of sequence 1"], at=1)
    series = await series_of(client, [(1, b"first"), (2, b"second"), (2, b"second, other content"), (4, b"fourth")])
    act = await begun(client, closed.id, still.id, series=[series])
    state = await ready(client, act)
    assert state.bytes_done == state.bytes_total > 2_070_000
    answer = await fetched(client, act)
    assert len(answer.content) == int(answer.headers["content-length"]) == state.size
    bag = unpacked(answer.content, tmp_path, act)
    report = await verified(client, bag)
    assert report.recordings == [str(closed.id), f"{closed.id}.1"]
    assert (report.open, report.series) == (sorted([str(closed.id), str(still.id)]), [str(series)])
    assert (bag / f"data/series/{series}/4").read_bytes() == b"fourth"
    assert len(list((bag / f"data/series/{series}").iterdir())) == 4
    assert len(list((bag / f"data/{still.id}.open.beside").iterdir())) == 1
    with tarfile.open(tmp_path / f"{act}.tar") as tar:
        assert len(tar.getnames()) == state.files


async def test_what_is_sealed_and_closed_after_it_was_asked_for_changes_nothing_of_it(
    room: Room, tmp_path: Path
) -> None:
    still = await recorded(room.client, pieces(300, 1000), close=False)
    act = await begun(room.client, still.id)
    await ready(room.client, act)
    before = (await fetched(room.client, act)).content
    await still.add(pieces(77))
    await still.close()
    assert (await fetched(room.client, act)).content == before
    report = await verified(room.client, unpacked(before, tmp_path, act))
    assert (report.open, report.recordings) == ([str(still.id)], [])


async def test_the_same_act_is_one_export_and_another_content_under_it_is_refused(room: Room) -> None:
    made = await recorded(room.client, pieces(10))
    request = await asked(room.client, [made.id])
    first = await room.client.begin_export(request)
    again = await room.client.begin_export(request)
    assert (first.act, first.requested_at) == (again.act, again.requested_at)
    await ready(room.client, request.act)
    other = request.model_copy(update={"copies": True})
    assert await slug(room.client.begin_export(other)) == "act-differs"
    listed = await room.client.exports(limit=200)
    assert [one.act for one in listed.exports if one.act == request.act] == [request.act]
    page = await room.client.exports(limit=1)
    assert page.next is not None
    following = await room.client.exports(after=page.next, limit=200)
    assert page.exports[0].act not in {one.act for one in following.exports}


# --- any range of it ---


@pytest.fixture
async def bag(room: Room) -> tuple[UUID, bytes, str]:
    made = await recorded(room.client, pieces(300, 70_000, 1_300_000, 5, 640_000))
    await made.add([secrets.token_bytes(9000)], at=1)
    series = await series_of(room.client, [(1, secrets.token_bytes(100_000))])
    act = await begun(room.client, made.id, series=[series])
    await ready(room.client, act)
    whole = await fetched(room.client, act)
    return act, whole.content, whole.headers["etag"]


async def test_ranges_stitched_at_random_points_equal_the_whole(room: Room, bag: tuple[UUID, bytes, str]) -> None:
    act, whole, etag = bag
    dice = random.Random(7)
    cuts = sorted({0, len(whole), *(dice.randrange(len(whole)) for _ in range(40)), len(whole) - 512, len(whole) - 1})
    stitched = b""
    for first, end in pairwise(cuts):
        part = await fetched(room.client, act, {"range": f"bytes={first}-{end - 1}", "if-range": etag})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{len(whole)}"
        assert (part.headers["etag"], part.headers["content-length"]) == (etag, str(end - first))
        stitched += part.content
    assert stitched == whole


async def test_every_block_of_it_can_be_the_beginning_or_the_end_of_a_range(
    room: Room, bag: tuple[UUID, bytes, str]
) -> None:
    act, whole, _ = bag
    for at in random.Random(8).sample(range(0, len(whole), 512), 60):
        for first, end in ((at, at + 3), (max(0, at - 2), at + 1)):
            part = await fetched(room.client, act, {"range": f"bytes={first}-{end - 1}"})
            assert part.content == whole[first:end]


async def test_ranges_are_answered_as_the_protocol_says(room: Room, bag: tuple[UUID, bytes, str]) -> None:
    act, whole, etag = bag
    size = len(whole)
    for header, expected in (
        ("bytes=0-0", whole[:1]),
        ("bytes=-700", whole[-700:]),
        (f"bytes=-{size + 10}", whole),
        (f"bytes={size - 1}-", whole[-1:]),
        (f"bytes=10-{size + 99}", whole[10:]),
    ):
        part = await fetched(room.client, act, {"range": header})
        assert (part.status_code, part.content) == (206, expected), header
    for header in ("bytes=5-4", "bytes=0-1,5-6", "items=0-1", "bytes=x-y", "bytes=-", "bytes=0-1-2"):
        part = await fetched(room.client, act, {"range": header})
        assert (part.status_code, len(part.content)) == (200, size), header
    for stale in ('"another"', f"W/{etag}", "Wed, 25 Nov 2026 00:00:00 GMT"):
        part = await fetched(room.client, act, {"range": "bytes=0-0", "if-range": stale})
        assert part.status_code == 200
    for header in (f"bytes={size}-", f"bytes={size}-{size + 5}", "bytes=-0"):
        assert await slug(fetched(room.client, act, {"range": header})) == "range-unsatisfiable"


# --- what refuses it ---


async def test_what_is_not_there_not_logged_or_empty_is_refused_and_changes_nothing(room: Room) -> None:
    made = await recorded(room.client, pieces(10))
    series = await series_of(room.client, [(1, b"one")])
    empty = await recorded(room.client, [], close=False)
    unlogged = wire.ExportRequest(act=uuid7(), recordings=[made.id], person=uuid7())
    assert await slug(room.client.begin_export(unlogged)) == "no-such-statement"
    for request, expected in (
        (await asked(room.client, [uuid7()]), "no-such-recording"),
        (await asked(room.client, [series]), "no-such-recording"),
        (await asked(room.client, [], [made.id]), "no-such-recording"),
        (await asked(room.client, [empty.id]), "nothing-sealed"),
    ):
        assert await slug(room.client.begin_export(request)) == expected
        assert await slug(room.client.export_state(request.act)) == "no-such-export"
        assert await slug(fetched(room.client, request.act)) == "no-such-export"


def test_an_export_is_of_something_and_of_no_more_than_a_thousand_recordings_or_of_a_case() -> None:
    many = [uuid7() for _ in range(1001)]
    wrong: list[dict[str, Any]] = [{}, {"recordings": many}, {"recordings": many[:1] * 2}, {"series": many}]
    for fields in wrong:
        with pytest.raises(ValueError, match=r"Value error|at most 1000|List should have"):
            wire.ExportRequest(act=uuid7(), person=uuid7(), **fields)
    case = wire.ExportRequest(act=uuid7(), person=uuid7(), recordings=many, case=uuid7())
    assert len(case.told()["recordings"]) == 1001
    with pytest.raises(ValueError, match="at most 5000"):
        wire.ExportRequest(act=uuid7(), person=uuid7(), recordings=[uuid7() for _ in range(5001)], case=uuid7())


async def test_a_thousand_and_one_recordings_need_a_case_and_their_request_fits_a_message(room: Room) -> None:
    made = await recorded(room.client, pieces(10))
    request = await asked(room.client, [made.id, *(uuid7() for _ in range(4999))], case=uuid7())
    assert await slug(room.client.begin_export(request)) == "no-such-recording"


@pytest.mark.parametrize("fault", ["altered", "gone"])
async def test_a_segment_that_is_not_what_was_sealed_fails_it_by_name_with_an_alarm_and_no_download(
    room: Room, fault: str
) -> None:
    made = await recorded(room.client, pieces(300, 300_000, 300_000))
    key = made.keys_in_store()[1]
    path = _on_disk(room.system, key)
    if fault == "altered":
        _flip(path)
    else:
        _take_away(path)
    act = await begun(room.client, made.id)
    state = await settled(room.client, act)
    assert (state.state, state.reason) == ("failed", "stored-differs"), state
    assert state.detail is not None and key in state.detail
    assert await room.told("object-differs", key)
    assert await slug(fetched(room.client, act)) == "export-failed"


async def test_a_segment_altered_after_it_was_prepared_ends_the_download_and_sounds_an_alarm(room: Room) -> None:
    made = await recorded(room.client, pieces(300, 300_000, 300_000))
    act = await begun(room.client, made.id)
    await ready(room.client, act)
    key = made.keys_in_store()[2]
    _flip(_on_disk(room.system, key))
    with pytest.raises(Exception, match=r"peer closed|incomplete"):
        await fetched(room.client, act)
    async with asyncio.timeout(10):
        while not await room.told("object-differs", key):
            await asyncio.sleep(0.1)


def _on_disk(system: System, key: str) -> Path:
    """The file that holds the object's bytes, wherever its store keeps them."""
    if system.stack.minio:
        folder = system.stack.minio.folder / settings_of(system).s3_evidence_bucket / key
        return next(folder.rglob("part.1"))
    return Path(str(settings_of(system).local_root)) / "evidence" / key


def _flip(path: Path) -> None:
    _unlock(path)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(150_000)
        was = file.read(1)
        file.seek(150_000)
        file.write(bytes([was[0] ^ 1]))


def _take_away(path: Path) -> None:
    _unlock(path)
    # MinIO tells of the object by the file beside its bytes.
    for each in [path, *path.parent.parent.glob("xl.meta")]:
        if each.exists():
            each.unlink()


def _unlock(path: Path) -> None:
    folders.release(os.fspath(path))


# --- what bounds it, and what ends it ---


async def test_a_person_has_three_underway_at_once_and_is_told_when_to_come_again(room: Room) -> None:
    made = await recorded(room.client, pieces(10))
    person = uuid7()
    requests = [await asked(room.client, [made.id], person=person) for _ in range(4)]
    async with room.engine.begin() as db:
        # As if nobody worked: what is asked for waits.
        await _waiting(db, requests[:3])
    with pytest.raises(VaultRefused) as told:
        await room.client.begin_export(requests[3])
    assert (told.value.problem.status, told.value.problem.slug) == (429, "too-many-exports")
    assert (told.value.problem.model_extra or {})["retry_after"] > 0
    assert await slug(room.client.export_state(requests[3].act)) == "no-such-export"
    another = await begun(room.client, made.id)
    await ready(room.client, another)
    async with room.engine.begin() as db:
        await db.execute(text("UPDATE vault.exports SET state = 'lapsed' WHERE person = :it"), {"it": person})
    await room.client.begin_export(requests[3])
    await ready(room.client, requests[3].act)


async def _waiting(db: object, requests: list[wire.ExportRequest]) -> None:
    row = text("""
        INSERT INTO vault.exports (act, person, recordings, series, copies, moment, state, requested_at, expires_at)
        VALUES (:act, :person, :recordings, '{}', false, now(), 'waiting', now(), now() + interval '1 day')
    """)
    for one in requests:
        values = {"act": one.act, "person": one.person, "recordings": one.recordings}
        await db.execute(row, values)  # type: ignore[attr-defined]


async def test_past_its_time_it_cannot_be_fetched_and_its_rows_and_copies_are_gone(room: Room) -> None:
    made = await recorded(room.client, fragmented(seconds=2))
    act = await begun(room.client, made.id, copies=True)
    await ready(room.client, act)
    staged = open_staging(settings_of(room.system))
    lapsing = Lapsing(room.engine, staged)
    try:
        assert b"".join([chunk async for chunk in staged.read(copy_key(act, str(made.id)), (0, 4))])
        room.system.stack.postgres.run_sql(
            f"UPDATE vault.exports SET expires_at = now() - interval '1 second' WHERE act = '{act}'"
        )
        # Also while nobody has come to let go of it.
        assert await slug(fetched(room.client, act)) == "export-lapsed"
        while (await room.client.export_state(act)).state != "lapsed":
            await lapsing.lapse()
        assert await slug(fetched(room.client, act)) == "export-lapsed"
        counts = " + ".join(
            f"(SELECT count(*) FROM vault.export_{part} WHERE act = :act)" for part in ("items", "files", "pieces")
        )
        async with asyncio.timeout(20):
            while True:
                async with room.engine.connect() as db:
                    if not await db.scalar(text(f"SELECT {counts}"), {"act": act}):
                        break
                await asyncio.sleep(0.1)
        with pytest.raises(Exception, match=str(made.id)):
            assert not [chunk async for chunk in staged.read(copy_key(act, str(made.id)), (0, 4))]
    finally:
        await staged.stop()


async def test_copies_that_no_export_stands_for_are_removed(room: Room, tmp_path: Path) -> None:
    """As after a lost database, or where a copy was made while its export lapsed."""
    made = await recorded(room.client, fragmented(seconds=2))
    act = await begun(room.client, made.id, copies=True)
    await ready(room.client, act)
    staged, own = open_staging(settings_of(room.system)), copy_key(act, str(made.id))
    strays = [copy_key(uuid7(), str(made.id)), "exports/of-nobody/left.mp4"]
    (tmp_path / "copy").write_bytes(b"a copy")
    try:
        for key in strays:
            await staged.keep(key, tmp_path / "copy", hashlib.sha256(b"a copy").hexdigest())
        assert {own, *strays} <= set(await staged.names("exports/"))
        assert await staged.names("exports/", max(await staged.names("exports/"))) == []
        assert await Lapsing(room.engine, staged).forget_strays() >= 2
        assert own in (left := await staged.names("exports/")) and not {*strays} & {*left}
    finally:
        await staged.stop()


# --- copies ---


async def test_copies_are_plain_and_play_and_what_cannot_be_remuxed_is_said(room: Room, tmp_path: Path) -> None:
    film, noise = fragmented(seconds=3), pieces(300, 9000)
    plays, other = await recorded(room.client, film[:3]), await recorded(room.client, noise)
    await plays.add(film[3:])
    await plays.close(number=1, asks=plays.asks[3:])
    act = await begun(room.client, plays.id, other.id, copies=True)
    await ready(room.client, act)
    whole = (await fetched(room.client, act)).content
    bag = unpacked(whole, tmp_path, act)
    report = await verified(room.client, bag)
    assert report.copies == [f"data/copies/{name}.mp4" for name in (f"{plays.id}.1", str(plays.id))]
    for name in (str(plays.id), f"{plays.id}.1"):
        copy = bag / f"data/copies/{name}.mp4"
        assert_plays(copy)
        data = copy.read_bytes()
        assert b"moof" not in data and data.index(b"moov") < data.index(b"mdat")
    assert str(other.id) in (bag / "README.md").read_text()
    part = await fetched(room.client, act, {"range": f"bytes={len(whole) // 3}-{len(whole) // 2}"})
    assert part.content == whole[len(whole) // 3 : len(whole) // 2 + 1]


async def test_copies_are_refused_where_the_machine_has_no_ffmpeg(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.media import ffmpeg
    from services.vault import errors

    made = await recorded(room.client, pieces(10))
    request = await asked(room.client, [made.id], copies=True)
    monkeypatch.setattr(ffmpeg, "version", lambda: None)
    desk = Exports(room.engine, lifetime=timedelta(days=7))
    with pytest.raises(errors.CopiesUnavailable):
        await desk.begin(request)
    assert await slug(room.client.export_state(request.act)) == "no-such-export"
