"""A genuine export for the tests of the verifier, made once, and a copy for each test that alters it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.bundles import Maker


@pytest.fixture(scope="session")
def maker() -> Maker:
    return Maker()


@pytest.fixture(scope="session")
def genuine(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maker.make(tmp_path_factory.mktemp("exports") / "genuine")


@pytest.fixture
def bundle(genuine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(genuine, tmp_path / "bundle"))
