"""One service at a time on real stores and a real database, attacked where it listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.rooms.houses import House, Houses
from tests.rooms.stores import LocalRoom, Room, S3Room, local_room
from tests.system import System


@pytest.fixture(scope="session")
def local_room_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRoom]:
    made = local_room(Path(tmp_path_factory.mktemp("rooms")))
    with made.serving():
        yield made


@pytest.fixture(scope="session")
def s3_room(minio_system: System) -> S3Room:
    assert minio_system.stack.minio
    return S3Room(minio_system.stack.minio, "room")


@pytest.fixture(scope="session", params=["local", "minio"])
def unstarted(request: pytest.FixtureRequest) -> Room:
    name = {"local": "local_room_served", "minio": "s3_room"}[request.param]
    found: Room = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="session")
async def room(unstarted: Room) -> AsyncIterator[Room]:
    """Each store, started."""
    await unstarted.store.start()
    yield unstarted
    await unstarted.store.stop()


@pytest.fixture(scope="session")
async def houses(local_system: System) -> AsyncIterator[Houses]:
    """Two units with people, recorders and recordings, everybody signed in."""
    made = await Houses.build(local_system)
    yield made
    await made.leave()


@pytest.fixture(scope="session")
async def apart(local_system: System) -> AsyncIterator[House]:
    """A unit of its own, for recordings that nobody counts."""
    made = await House.build(local_system, "丙局")
    yield made
    for client in made.clients.values():
        await client.aclose()
