"""What every kind of test may ask for: real programs and one real PostgreSQL for the session."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres
from tests.system import System, running

# A test that needs what is absent fails: a skipped one would look like a passed one.
ABSENT = "没有 {what}:请用 ./dev test 运行测试,它会准备好;或设置环境变量 {variable}。"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `one_store` does not hang on which store it is, and is tried on the local folder alone."""
    twice = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and item.get_closest_marker("one_store")
        and "minio" in item.callspec.params.values()
    ]
    if twice:
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in set(twice)]


def _program(what: str, variable: str, access: int = os.X_OK) -> Path:
    path = os.environ.get(variable)
    if not path or not os.access(path, access):
        pytest.fail(ABSENT.format(what=what, variable=variable), pytrace=False)
    return Path(path)


@pytest.fixture(scope="session")
def minio_binary() -> Path:
    """A real MinIO server program."""
    return _program("MinIO", "QUANCHENG_MINIO")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """A real Chromium program."""
    return _program("Chromium", "QUANCHENG_CHROMIUM")


@pytest.fixture(scope="session")
def go() -> Path:
    """A real Go, for the programs in `tests/peers`."""
    return _program("Go", "QUANCHENG_GO")


@pytest.fixture(scope="session")
def caddy() -> Path:
    """A real Caddy, the TLS proxy of `docker-compose.yml`."""
    return _program("Caddy", "QUANCHENG_CADDY")


@pytest.fixture(scope="session")
def faketime() -> Path:
    """The library that steps the clock of a process it is preloaded into."""
    return _program("libfaketime", "QUANCHENG_FAKETIME", os.R_OK)


@pytest.fixture(scope="session")
def strace() -> Path:
    """Watches another process's system calls."""
    return _program("strace", "QUANCHENG_STRACE")


@pytest.fixture(scope="session")
def nft() -> Path:
    """What loses packets on purpose."""
    return _program("nft", "QUANCHENG_NFT")


@pytest.fixture(scope="session")
def tus_js() -> Path:
    """A folder with tus-js-client, and `upload.mjs` that uses it."""
    return _program("tus-js-client", "QUANCHENG_TUSJS", os.R_OK)


@pytest.fixture(scope="session")
def litewitness() -> Path:
    """A real witness program."""
    return _program("litewitness", "QUANCHENG_LITEWITNESS")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One real PostgreSQL with the roles and empty schemas of `deploy/postgres/roles.sql`."""
    with tempfile.TemporaryDirectory(prefix="quancheng-test-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def local_system() -> Iterator[System]:
    """The whole system, live, on the local write-once folder."""
    with running(None) as system:
        yield system


@pytest.fixture(scope="session")
def minio_system(minio_binary: Path) -> Iterator[System]:
    """The whole system, live, on a real MinIO."""
    with running(minio_binary) as system:
        yield system


@pytest.fixture(scope="session", params=["local", "minio"])
def system(request: pytest.FixtureRequest) -> System:
    """Once with each store."""
    found: System = request.getfixturevalue(f"{request.param}_system")
    return found
