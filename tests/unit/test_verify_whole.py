"""A manifest that has the digest of a whole file: the file enclosed is that one, and no other passes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from services.vault.contract import verify
from tests.unit.bundles import MANIFEST, MEDIA, SIZES, Json, Maker, refused

WHOLE = {"sha256": "", "size": sum(SIZES)}


def saying(**changes: Any) -> Maker:
    """Its manifest has these members too."""

    def alter(kind: str, payload: Json) -> None:
        if kind == "manifest":
            payload.update(changes)

    return Maker(alter, by_server="complete")


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The media are the same each time."""
    root = Maker().make(tmp_path_factory.mktemp("whole") / "bag")
    return hashlib.sha256((root / MEDIA).read_bytes()).hexdigest()


def test_an_honest_one_verifies(tmp_path: Path, digest: str) -> None:
    maker = saying(whole=WHOLE | {"sha256": digest})
    report = verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted, twice=True)
    assert report.code == 0, report
    assert any("uploaded in pieces" in english for _, _, english in report.steps)


def test_another_digest_is_not_its_own(tmp_path: Path) -> None:
    maker = saying(whole=WHOLE | {"sha256": "0" * 64})
    refused(verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted), 1, MEDIA)


def test_another_size_does_not_match_the_segments(tmp_path: Path, digest: str) -> None:
    maker = saying(whole={"sha256": digest, "size": sum(SIZES) + 1})
    refused(verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted), 1, MANIFEST)


@pytest.mark.parametrize("whole", [None, {}, {"sha256": "x", "size": 1}, {"sha256": "0" * 64}, []])
def test_what_no_vault_says_is_not_read(tmp_path: Path, whole: Any) -> None:
    maker = saying(whole=whole)
    refused(verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted), 4, MANIFEST)


def test_complete_and_whole_go_together(tmp_path: Path, digest: str) -> None:
    without = saying()
    refused(verify.verify_bundle(without.make(tmp_path / "without"), without.trusted), 4, MANIFEST)
    alone = saying(reason="idle", whole=WHOLE | {"sha256": digest})
    refused(verify.verify_bundle(alone.make(tmp_path / "alone"), alone.trusted), 4, MANIFEST)
