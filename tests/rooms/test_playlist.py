"""The playlist of a long recording is cheap to make and small on the wire."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta

from tests.rooms.houses import House
from tests.rooms.lengthy import Piece, sealed


async def test_a_long_playlist_is_packed_for_whoever_unpacks_it(apart: House) -> None:
    second = timedelta(seconds=1)
    pieces = [Piece(n, b"segment %d" % n, n * second, second) for n in range(600)]
    terminal, client = apart.terminals["first"], apart.clients["first"]
    recording = await sealed(terminal, pieces, datetime.now(UTC) - timedelta(hours=1))
    viewing = await client.post(f"/v1/recordings/{recording}/viewings", json={"purpose": "spot-check"})
    path = viewing.json()["playlist"]
    plain = await client.get(path, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text.count("#EXTINF:1.000,") == 599
    async with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "accept-encoding"
        body = b"".join([chunk async for chunk in packed.aiter_raw()])
    assert gzip.decompress(body) == plain.content
    assert len(body) < len(plain.content) / 2
