"""One ticket, one object: what either store refuses, whoever holds a ticket and whatever is done to it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from services.vault.errors import StoredDiffers
from tests.rooms import raw
from tests.rooms.stores import Everything, Piece, Room, piece

_kept: dict[str, Everything] = {}
"""What each store has taken, by its kind."""

LOCK_HEADERS = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-quancheng-lock", "if-none-match")
REFUSED = (400, 403)


@pytest.fixture(autouse=True)
def _nothing_else_lies_in_the_store(room: Room) -> Iterator[None]:
    yield
    expected, found = _kept.get(room.kind, {}), room.everything()
    _kept[room.kind] = found
    assert found == expected


def _sealed(it: Piece) -> Piece:
    _kept.setdefault(it.room.kind, {})[it.key] = [it.data]
    return it


async def _put(
    it: Piece, headers: raw.Headers | None = None, body: bytes | None = None, target: str | None = None
) -> raw.Answer:
    ticket = it.ticket()
    return await raw.send(
        "PUT", ticket.url, headers or ticket.headers, it.data if body is None else body, target=target
    )


async def _stored(room: Room, data: bytes | None = None) -> Piece:
    it = piece(room, data)
    assert (await _put(it)).status == 200
    return _sealed(it)


async def _absent(it: Piece) -> None:
    assert await it.room.store.head(it.key) is None


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


async def test_the_right_bytes_are_stored_and_told_truly(room: Room) -> None:
    it = await _stored(room)
    found = await room.store.head(it.key)
    assert found is not None
    assert (found.key, found.size, found.sha256, found.lock) == (it.key, 70_000, it.sha256, room.store.lock)
    assert found.version
    assert found.retain_until == (it.retain_until if room.kind == "minio" else None)


async def test_nothing_is_told_of_what_is_not_there(room: Room) -> None:
    await _absent(piece(room))


async def test_other_bytes_of_the_same_length_are_refused(room: Room) -> None:
    it = piece(room)
    assert (await _put(it, body=bytes(len(it.data)))).status == 400
    await _absent(it)


@pytest.mark.parametrize("change", [-1, 1, -70_000])
async def test_another_length_is_refused(room: Room, change: int) -> None:
    it = piece(room)
    body = (it.data + b"x")[: len(it.data) + change]
    told = it.ticket().headers | {"content-length": str(len(body))}
    assert (await _put(it, told, body)).status in REFUSED
    told["x-amz-checksum-sha256"] = _checksum(body)
    assert (await _put(it, told, body)).status in REFUSED
    await _absent(it)


async def test_what_comes_after_the_promised_length_is_not_stored(room: Room) -> None:
    it = piece(room)
    assert (await _put(it, body=it.data + b"more")).status in (200, 400)
    found = await room.store.head(it.key)
    if found is not None:  # the promised bytes came whole, and the rest was taken for another request
        assert (found.size, found.sha256) == (len(it.data), it.sha256)
        _sealed(it)


@pytest.mark.parametrize("name", LOCK_HEADERS)
async def test_a_header_that_locks_cannot_be_left_out_or_changed(room: Room, name: str) -> None:
    it = piece(room)
    headers = it.ticket().headers
    if name not in headers:
        assert name not in ("if-none-match",)
        return
    others = {
        "x-amz-object-lock-mode": "GOVERNANCE",
        "x-amz-object-lock-retain-until-date": "2027-01-01T00:00:00Z",
        "x-quancheng-lock": "compliance",
        "if-none-match": '"etag"',
    }
    without = {key: value for key, value in headers.items() if key != name}
    for attempt in (without, headers | {name: others[name]}, [*headers.items(), (name, others[name])]):
        assert (await _put(it, attempt)).status in REFUSED
    await _absent(it)


async def test_a_copy_of_other_bytes_is_refused(room: Room) -> None:
    other = await _stored(room, b"other bytes")
    it = piece(room)
    source = f"/room-evidence/{other.key}"
    for body in (it.data, b""):
        told = it.ticket().headers | {"x-amz-copy-source": source, "content-length": str(len(body))}
        assert (await _put(it, told, body)).status in REFUSED
    await _absent(it)


async def test_a_tar_is_never_unpacked_into_the_store(room: Room) -> None:
    """Some stores unpack what is put with this header, into whatever keys the tar names."""
    packed, inside = io.BytesIO(), b"not asked for"
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("recordings/planted")
        info.size = len(inside)
        tar.addfile(info, io.BytesIO(inside))
    it = piece(room, packed.getvalue())
    name, headers = "x-amz-meta-snowball-auto-extract", it.ticket().headers
    assert (await _put(it, headers | {name: "true"})).status in REFUSED
    assert (await _put(it, [*headers.items(), (name, "true")])).status in REFUSED
    assert (await _put(it, [(name, "true"), *headers.items()])).status in REFUSED
    await _absent(it)


@pytest.mark.parametrize(
    "added",
    [
        {"x-amz-meta-officer": "somebody"},
        {"x-amz-tagging": "state=released"},
        {"x-amz-object-lock-legal-hold": "ON"},
        {"x-amz-bypass-governance-retention": "true"},
        {"x-amz-checksum-crc32": "AAAAAA=="},
        {"x-amz-bucket-replication-status": "REPLICA", "x-minio-source-replication-request": "true"},
        {"x-minio-source-mtime": "2020-01-01T00:00:00Z", "x-minio-source-etag": "0" * 32},
        {"x-minio-source-version-id": "00000000-0000-4000-8000-000000000000"},
        {"x-amz-write-offset-bytes": "0"},
        {"content-encoding": "gzip"},
    ],
    ids=lambda added: next(iter(added)),
)
async def test_an_added_header_changes_nothing_that_is_told(room: Room, added: dict[str, str]) -> None:
    """S3 may take headers that no ticket signed; what the check of step 4 relies on stays as it was."""
    it = piece(room)
    answer = await _put(it, it.ticket().headers | added)
    found = await room.store.head(it.key)
    assert answer.status == 200 or answer.status in (*REFUSED, 501), answer
    assert (found is not None) == (answer.status == 200)
    if found is not None:
        expected = it.retain_until if room.kind == "minio" else None
        assert (found.size, found.sha256, found.lock) == (len(it.data), it.sha256, room.store.lock)
        assert found.retain_until == expected
        _sealed(it)
        assert b"".join([chunk async for chunk in room.store.read(it.key, found.version)]) == it.data
    if room.kind == "local" and next(iter(added)).startswith("x-amz-"):
        assert answer.status == 403


async def test_a_ticket_is_good_for_one_put_alone(room: Room) -> None:
    it = piece(room)
    ticket = it.ticket()
    first = await raw.send("PUT", ticket.url, ticket.headers, it.data)
    before = await room.store.head(it.key)
    again = await raw.send("PUT", ticket.url, ticket.headers, it.data)
    other = await raw.send("PUT", ticket.url, ticket.headers, bytes(len(it.data)))
    assert (first.status, again.status) == (200, 412)
    assert other.status in (400, 412)
    _sealed(it)
    assert await room.store.head(it.key) == before


async def test_of_puts_at_the_same_time_one_is_stored(room: Room) -> None:
    it = piece(room)
    ticket = it.ticket()
    puts = [raw.send("PUT", ticket.url, ticket.headers, it.data) for _ in range(6)]
    statuses = sorted(answer.status for answer in await asyncio.gather(*puts))
    _sealed(it)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {409, 412}


@pytest.mark.parametrize("minutes", [-16, 16])
async def test_a_ticket_of_another_quarter_of_an_hour_is_refused(room: Room, minutes: int) -> None:
    if room.kind == "local" and minutes > 0:
        return  # the vault's own clock signs and reads these
    it = piece(room)
    ticket = it.ticket(now=datetime.now(UTC) + timedelta(minutes=minutes))
    assert (await raw.send("PUT", ticket.url, ticket.headers, it.data)).status == 403
    await _absent(it)


async def test_a_ticket_is_for_one_key(room: Room) -> None:
    it, other = piece(room), piece(room)
    ticket = it.ticket()
    url = ticket.url.replace(it.key, other.key)
    assert (await raw.send("PUT", url, ticket.headers, it.data)).status == 403
    await _absent(other)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST", "PATCH"])
async def test_a_ticket_is_for_one_method(room: Room, method: str) -> None:
    it = await _stored(room)
    ticket = it.ticket()
    answer = await raw.send(method, ticket.url, ticket.headers, b"" if method == "HEAD" else it.data)
    assert answer.status in (400, 403, 405, 501)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
async def test_a_read_ticket_only_reads(room: Room, method: str) -> None:
    it = await _stored(room)
    found = await room.store.head(it.key)
    assert found is not None
    ticket = room.store.get_ticket(it.key, found.version, datetime.now(UTC))
    headers = ticket.headers | ({"content-length": "0"} if method == "PUT" else {})
    assert (await raw.send(method, ticket.url, headers)).status == 403


@pytest.mark.parametrize("query", ["?uploads=", "?retention=", "?tagging=", "?partNumber=1&uploadId=x", "?x=1"])
async def test_a_ticket_is_for_one_verb_of_the_store(room: Room, query: str) -> None:
    it = piece(room)
    ticket = it.ticket()
    assert (await raw.send("PUT", ticket.url + query, ticket.headers, it.data)).status in (400, 403)
    await _absent(it)


async def test_a_body_cut_off_in_the_middle_leaves_nothing(room: Room) -> None:
    it = piece(room)
    ticket = it.ticket()
    await raw.send("PUT", ticket.url, ticket.headers, it.data[:40_000], hang_up=True)
    for _ in range(100):
        if not [key for key in room.everything() if key.startswith("incoming/")]:
            break
        await asyncio.sleep(0.02)
    await _absent(it)
    assert (await _put(it)).status == 200
    _sealed(it)


async def test_what_is_being_received_is_left_alone_by_a_start_beside_it(room: Room) -> None:
    """Each of the vault's commands starts the store while the vault serves."""
    it = piece(room)
    half, started = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield it.data[:40_000]
        half.set()
        await started.wait()
        yield it.data[40_000:]

    ticket = it.ticket()
    async with httpx.AsyncClient(trust_env=False) as client:
        putting = asyncio.create_task(client.put(ticket.url, headers=ticket.headers, content=body()))
        await half.wait()
        await asyncio.sleep(0.5)
        await room.store.start()
        started.set()
        assert (await putting).status_code == 200
    _sealed(it)


async def test_a_body_without_a_length_is_refused(room: Room) -> None:
    it = piece(room)
    headers = {k: v for k, v in it.ticket().headers.items() if k != "content-length"}
    body = raw.chunked(it.data)
    assert (await _put(it, headers | {"transfer-encoding": "chunked"}, body)).status in (400, 403, 411)
    assert (await _put(it, it.ticket().headers | {"transfer-encoding": "chunked"}, body)).status in (400, 403, 411)
    assert (await _put(it, headers, b"")).status in (400, 403, 411)
    await _absent(it)


@pytest.mark.parametrize(
    "change",
    ["../{}", "recordings/../../{}", "%2e%2e/%2e%2e/{}", "..%2f..%2f{}", "%2fetc/{}", "./{}", "/{}", "{}/", "{}%00"],
)
async def test_a_path_is_taken_as_it_was_signed(room: Room, change: str) -> None:
    it = piece(room)
    target = it.ticket().url.removeprefix("http://").partition("/")[2]
    prefix = "/" + target.removesuffix(it.key)
    assert (await _put(it, target=prefix + change.format(it.key))).status in (400, 403, 404)
    await _absent(it)


async def test_a_ticket_for_a_path_outside_is_worth_nothing(room: Room) -> None:
    """Even where the vault itself were brought to sign one."""
    for key in ("../log/checkpoint", "recordings/../../escaped", "a//b", "a/./b"):
        it = piece(room)
        it.key = key
        assert (await _put(it)).status in (400, 403, 404)


@pytest.mark.parametrize(
    "change", ["", "0", "QC-HMAC-SHA256 Expires=1,SignedHeaders=,Signature=", "AWS4-HMAC-SHA256 x"]
)
async def test_without_a_good_signature_nothing_goes(room: Room, change: str) -> None:
    it = piece(room)
    name = next(each for each in it.ticket().headers if each.lower() == "authorization")
    assert (await _put(it, it.ticket().headers | {name: change})).status in REFUSED
    unsigned = {k: v for k, v in it.ticket().headers.items() if k != name}
    assert (await _put(it, unsigned)).status in REFUSED
    await _absent(it)


async def test_the_vaults_own_bytes_are_sealed_once(room: Room) -> None:
    it = piece(room)
    first = await room.store.put(it.key, it.data, it.retain_until)
    _sealed(it)
    assert await room.store.put(it.key, it.data, it.retain_until) == first
    assert first.sha256 == it.sha256
    with pytest.raises(StoredDiffers):
        await room.store.put(it.key, b"other", it.retain_until)
    assert b"".join([chunk async for chunk in room.store.read(it.key, first.version)]) == it.data


async def test_what_is_published_as_immutable_stays(room: Room) -> None:
    await room.store.publish("tile/0/000", b"first", immutable=True)
    await room.store.publish("tile/0/000", b"first", immutable=True)
    with pytest.raises(StoredDiffers):
        await room.store.publish("tile/0/000", b"second", immutable=True)
    assert await room.store.published("tile/0/000") == b"first"


async def test_the_checkpoint_is_replaced(room: Room) -> None:
    assert await room.store.published("checkpoint") is None
    for note in (b"one", b"two"):
        await room.store.publish("checkpoint", note, immutable=False)
        assert await room.store.published("checkpoint") == note


@pytest.mark.parametrize("path", ["tile", "tile/0/000/x", "tile/9/999", "absent"])
async def test_what_was_never_published_is_none(room: Room, path: str) -> None:
    await room.store.publish("tile/0/000", b"first", immutable=True)
    assert await room.store.published(path) is None


async def test_a_read_ticket_reads_that_version(room: Room) -> None:
    it = await _stored(room)
    found = await room.store.head(it.key)
    assert found is not None
    ticket = room.store.get_ticket(it.key, found.version, datetime.now(UTC))
    answer = await raw.send("GET", ticket.url, ticket.headers)
    assert (answer.status, answer.body) == (200, it.data)


async def test_an_altered_read_ticket_reads_nothing(room: Room) -> None:
    it, other = await _stored(room), await _stored(room)
    found = await room.store.head(it.key)
    assert found is not None
    ticket = room.store.get_ticket(it.key, found.version, datetime.now(UTC))
    assert (await raw.send("GET", ticket.url.replace(it.key, other.key), ticket.headers)).status == 403
    assert (await raw.send("GET", ticket.url + "&x=1", ticket.headers)).status in (403, 404)
    late = room.store.get_ticket(it.key, found.version, datetime.now(UTC) - timedelta(minutes=16))
    assert (await raw.send("GET", late.url, late.headers)).status == 403
    if "versionId=" in ticket.url:
        unversioned = ticket.url.partition("?")[0]
        assert (await raw.send("GET", unversioned, ticket.headers)).status == 403
