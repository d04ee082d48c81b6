"""An upload meets what may happen: a killed api, another replica, a stuck request, a store that is away or forgets.
Whatever it was told had come is there, and the file is sealed whole."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from deploy.local.processes import Supervised
from deploy.local.stack import run_apart
from tests.flows.evidence import assert_log_is_whole, eventually
from tests.flows.pushing import Source
from tests.flows.uploading import (
    MIB,
    TUS,
    assert_sealed_whole,
    call,
    created,
    ended,
    offset_of,
    patched,
    row,
    some,
)
from tests.system import System, free_ports, running


@dataclass
class Pair:
    """Two replicas of the api; `other` gives an address of the first as it is on the second."""

    system: System
    second: Supervised
    port: int

    def other(self, url: str) -> str:
        return url.replace(self.system.stack.api_url, f"http://127.0.0.1:{self.port}")


@pytest.fixture(scope="module", params=["local", "minio"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio) as system:
        port = free_ports(1)
        environment = system.stack.api_environment() | {"QUANCHENG_API_PORT": str(port)}
        second = system.stack._service("另一接口服务", "api", environment, f"http://127.0.0.1:{port}")
        second.start()
        try:
            yield Pair(system, second, port)
        finally:
            second.stop()
        assert_log_is_whole(system)


@pytest.fixture
def source(pair: Pair) -> Source:
    return Source(pair.system)


def begun(url: str, offset: int, data: bytes, promised: int) -> socket.socket:
    """A PATCH that has sent so much of its body, and waits."""
    place = httpx.URL(url)
    connection = socket.create_connection((place.host, place.port or 80))
    head = f"PATCH {place.path} HTTP/1.1\r\nhost: x\r\ntus-resumable: 1.0.0\r\nupload-offset: {offset}\r\n"
    head += f"content-type: application/offset+octet-stream\r\ncontent-length: {promised}\r\n\r\n"
    connection.sendall(head.encode() + data)
    connection.settimeout(30)
    return connection


def test_any_replica_goes_on(pair: Pair, source: Source) -> None:
    data = some(19 * MIB)
    url = created(source, len(data), data[: 3 * MIB])
    places = [pair.other(url), url]
    at = 3 * MIB
    for turn in range(4):
        assert offset_of(places[turn % 2]) == at
        piece = data[at : at + 4 * MIB]
        assert patched(places[turn % 2], at, piece).status_code == 204
        at += len(piece)
    assert at == len(data)
    assert_sealed_whole(pair.system, url, data)


@pytest.mark.one_store
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
def test_whoever_comes_ends_who_is_stuck(pair: Pair, source: Source, elsewhere: bool, method: str) -> None:
    data = some(12 * MIB)
    url = created(source, len(data))
    stuck = begun(url, 0, data[: 9 * MIB], len(data))
    eventually(lambda: row(pair.system, url)["received"] == 9 * MIB, "what came before the pause counts")
    place = pair.other(url) if elsewhere else url
    if method == "HEAD":
        assert offset_of(place) == 9 * MIB
    else:
        assert patched(place, 9 * MIB, data[9 * MIB : 10 * MIB]).status_code == 204
    assert stuck.recv(4096).split(b"\r\n")[0] == b"HTTP/1.1 409 Conflict"
    stuck.close()
    at = offset_of(url)
    assert patched(place, at, data[at:]).status_code == 204
    assert_sealed_whole(pair.system, url, data)


def test_who_was_superseded_adds_nothing_any_more(pair: Pair, source: Source) -> None:
    data = some(20 * MIB)
    url = created(source, len(data))
    stuck = begun(url, 0, data[: 2 * MIB], len(data))
    eventually(lambda: row(pair.system, url)["received"] == 2 * MIB, "what came before the pause counts")
    assert offset_of(pair.other(url)) == 2 * MIB
    stuck.sendall(some(7 * MIB, 99))
    assert stuck.recv(4096).split(b"\r\n")[0] == b"HTTP/1.1 409 Conflict"
    assert offset_of(url) == 2 * MIB
    assert patched(url, 2 * MIB, data[2 * MIB :]).status_code == 204
    assert_sealed_whole(pair.system, url, data)


def test_a_connection_that_breaks_off_counts_as_far_as_it_came(pair: Pair, source: Source) -> None:
    data = some(12 * MIB)
    url = created(source, len(data))
    begun(url, 0, data[: 9 * MIB + 5], len(data)).close()
    eventually(lambda: row(pair.system, url)["received"] == 9 * MIB + 5, "all that came counts")
    assert patched(url, 9 * MIB + 5, data[9 * MIB + 5 :]).status_code == 204
    assert_sealed_whole(pair.system, url, data)


def test_a_killed_api_is_gone_on_without(pair: Pair, source: Source) -> None:
    """Killed at moments that vary; what it said had come is there, on the other replica at once."""
    data = some(40 * MIB)
    url, at = created(source, len(data)), 0
    other, api = pair.other(url), pair.system.stack.api
    assert api is not None

    def is_back() -> bool:
        return httpx.get(f"{pair.system.stack.api_url}/healthz", trust_env=False).is_success

    for turn in range(4):
        connection = begun(url, at, data[at : at + 9 * MIB], len(data) - at)
        time.sleep(0.05 + 0.12 * turn)
        told = row(pair.system, url)["received"]
        api.kill()
        connection.close()
        at = offset_of(other)
        assert at >= told
        eventually(is_back, "it is back")
    assert patched(other, at, data[at:]).status_code == 204
    assert_sealed_whole(pair.system, url, data)


def test_while_the_vault_is_away_nothing_counts(pair: Pair, source: Source) -> None:
    data = some(2 * MIB)
    url = created(source, len(data), data[:MIB])
    vault = pair.system.stack.vault
    assert vault is not None
    vault.stop()
    try:
        answer = patched(url, MIB, data[MIB : MIB + 1000])
        assert (answer.status_code, answer.json()["slug"]) == (503, "vault-unavailable")
        assert row(pair.system, url)["received"] == MIB
    finally:
        vault.start()
    assert offset_of(url) == MIB
    assert patched(url, MIB, data[MIB:]).status_code == 204
    assert_sealed_whole(pair.system, url, data)


def test_a_tail_that_is_lost_ends_the_upload(pair: Pair, source: Source) -> None:
    """An offset never goes back: its client may have let go of what lies below."""
    url = created(source, 20 * MIB, some(9 * MIB))
    upload_id, name = UUID(url.rpartition("/")[2]), row(pair.system, url)["tail"]

    async def forget() -> None:
        async with pair.system.vault() as vault:
            await vault.remove_tail(upload_id, name)

    run_apart(forget())
    answer = patched(url, 9 * MIB, b"x")
    assert (answer.status_code, answer.json()["slug"]) == (410, "upload-gone")
    assert call("HEAD", url, TUS).status_code == 410
    upload = ended(pair.system, url)
    assert (upload["state"], upload["received"]) == ("lost", 8 * MIB)
    (recording,) = source.closed()
    assert (recording["bytes"], recording["closed_by"]) == (8 * MIB, "server")
