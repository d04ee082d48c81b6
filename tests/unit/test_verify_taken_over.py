"""A file that a terminal took over from a recorder: its closing says so, and the manifest's whole is that file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from services.vault.contract import verify
from tests.unit.bundles import MANIFEST, MEDIA, SIZES, TIME, Json, Maker, refused

TOLD = {"size": sum(SIZES), "format": "mp4", "at": TIME, "reason": "no-link", "modified_at": None, "created_at": None}


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = Maker().make(tmp_path_factory.mktemp("taken") / "bag")
    return hashlib.sha256((root / MEDIA).read_bytes()).hexdigest()


def saying(whole: Json | None, taken_over: Any, **parts: Any) -> Maker:
    def alter(kind: str, payload: Json) -> None:
        if kind == "closing" and taken_over is not None:
            payload["taken_over"] = taken_over
        if kind == "manifest" and whole is not None:
            payload["whole"] = whole

    return Maker(alter, **parts)


def test_an_honest_one_verifies_and_is_said_not_to_be_live(tmp_path: Path, digest: str) -> None:
    maker = saying({"sha256": digest, "size": sum(SIZES)}, TOLD | {"sha256": digest})
    report = verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted, twice=True)
    assert report.code == 0, report
    assert any("was not streamed" in english and "no-link" in english for _, _, english in report.steps)


def test_one_that_did_not_come_whole_has_no_whole(tmp_path: Path) -> None:
    told = TOLD | {"sha256": "0" * 64}
    maker = saying(None, told, missing=(2,))
    report = verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted)
    assert report.code == 0, report
    assert any("not all of it came" in english for _, _, english in report.steps)
    claimed = saying({"sha256": "0" * 64, "size": sum(SIZES)}, told, missing=(2,))
    refused(verify.verify_bundle(claimed.make(tmp_path / "claimed"), claimed.trusted), 4, MANIFEST)


def test_the_file_enclosed_is_the_one_that_the_terminal_signed(tmp_path: Path, digest: str) -> None:
    other = saying({"sha256": "0" * 64, "size": sum(SIZES)}, TOLD | {"sha256": "0" * 64})
    refused(verify.verify_bundle(other.make(tmp_path / "other"), other.trusted), 1, MEDIA)
    lied = saying({"sha256": digest, "size": sum(SIZES)}, TOLD | {"sha256": "0" * 64})
    refused(verify.verify_bundle(lied.make(tmp_path / "lied"), lied.trusted), 1, MANIFEST)
    renamed = saying({"sha256": digest, "size": sum(SIZES)}, TOLD | {"sha256": digest, "format": "avi"})
    refused(verify.verify_bundle(renamed.make(tmp_path / "renamed"), renamed.trusted), 1, MANIFEST)


def test_a_whole_needs_somebody_who_says_so(tmp_path: Path, digest: str) -> None:
    alone = saying({"sha256": digest, "size": sum(SIZES)}, None)
    refused(verify.verify_bundle(alone.make(tmp_path / "alone"), alone.trusted), 4, MANIFEST)
    silent = saying(None, TOLD | {"sha256": digest})
    refused(verify.verify_bundle(silent.make(tmp_path / "silent"), silent.trusted), 4, MANIFEST)


@pytest.mark.parametrize("told", [[], {}, TOLD, TOLD | {"sha256": "x"}, TOLD | {"sha256": "0" * 64, "at": 1}])
def test_what_no_terminal_says_is_not_read(tmp_path: Path, told: Any) -> None:
    maker = saying({"sha256": "0" * 64, "size": sum(SIZES)}, told)
    refused(verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted), 4, MANIFEST)
