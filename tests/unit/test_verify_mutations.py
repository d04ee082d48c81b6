"""Exports of several recordings, with supplements and earlier keys: files changed, removed, put for one another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.vault.contract import verify
from tests.unit.bundles import FOLDER, ID, MANIFEST, MEDIA, Maker, one, refused, relist
from tests.unit.test_verify_keys import Keeper, new

OTHER = ID[:-1] + "1"
LATER = f"{FOLDER}.1"
FILES = (
    f"{LATER}/manifest.dsse.json",
    f"{LATER}/manifest.pae",
    f"{LATER}/manifest.sig",
    f"{LATER}/receipts.jsonl",
    f"{LATER}/offsets.tsv",
    f"data/{ID}.1.mp4",
    "keys/vault-*.pem",
)
PARTS = ("manifest.dsse.json", "manifest.pae", "manifest.sig", "receipts.jsonl", "offsets.tsv")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def keeper() -> Keeper:
    return Keeper(vaults=[new(), new()], recordings=2, supplements=((700, 800),))


@pytest.fixture(scope="module")
def whole(keeper: Keeper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = keeper.make(tmp_path_factory.mktemp("exports") / "whole")
    assert verify.verify_bundle(made, keeper.trusted).code == 0
    return made


@pytest.fixture
def bag(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bag"))


@pytest.mark.parametrize("pattern", FILES)
def test_a_changed_byte_is_noticed_and_the_file_named(bag: Path, keeper: Maker, pattern: str) -> None:
    path = one(bag, pattern)
    flip(path)
    refused(verify.verify_bundle(bag, keeper.trusted), 1, path.relative_to(bag).as_posix())


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("relisted", [False, True])
def test_a_removed_file_is_missed_by_name(bag: Path, keeper: Maker, pattern: str, relisted: bool) -> None:
    path = one(bag, pattern)
    path.unlink()
    if relisted:
        relist(bag)
    report = verify.verify_bundle(bag, keeper.trusted)
    if relisted and path.parent.name == "keys":
        refused(report, 3, MANIFEST)  # which key it was nobody can tell any more: a signature lacks it
    else:
        refused(report, 2, path.relative_to(bag).as_posix())


@pytest.mark.parametrize("pattern", FILES)
def test_new_digests_do_not_hide_a_change(bag: Path, keeper: Maker, pattern: str) -> None:
    path = one(bag, pattern)
    flip(path)
    relist(bag)
    report = verify.verify_bundle(bag, keeper.trusted)
    assert report.code in (1, 3, 4), report
    assert report.subject == path.relative_to(bag).as_posix()


def swap(bag: Path, one: str, other: str) -> None:
    kept = (bag / one).read_bytes()
    (bag / one).write_bytes((bag / other).read_bytes())
    (bag / other).write_bytes(kept)


@pytest.mark.parametrize("relisted", [False, True])
@pytest.mark.parametrize(("mine", "its"), [(MEDIA, f"data/{OTHER}.mp4"), (MEDIA, f"data/{ID}.1.mp4")])
def test_media_of_two_recordings_that_change_places_are_noticed(
    bag: Path, keeper: Maker, mine: str, its: str, relisted: bool
) -> None:
    swap(bag, mine, its)
    if relisted:
        relist(bag)
    report = verify.verify_bundle(bag, keeper.trusted)
    assert report.code in (1, 2), report
    assert report.subject in (mine, its)


@pytest.mark.parametrize("whole_folder", [False, True], ids=["the manifest", "all that is told of it"])
@pytest.mark.parametrize("its", [f"recordings/{OTHER}", LATER])
@pytest.mark.parametrize("relisted", [False, True])
def test_manifests_of_two_recordings_that_change_places_are_noticed(
    bag: Path, keeper: Maker, its: str, whole_folder: bool, relisted: bool
) -> None:
    for part in PARTS if whole_folder else PARTS[:1]:
        swap(bag, f"{FOLDER}/{part}", f"{its}/{part}")
    if relisted:
        relist(bag)
    report = verify.verify_bundle(bag, keeper.trusted)
    assert report.code == 1, report
    assert report.subject.startswith((FOLDER, its))
