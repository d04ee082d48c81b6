"""Exports of other formats than MP4: the extension of a media file is what was signed, and no other passes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from services.vault.contract import verify, wire
from tests.unit.bundles import ID, MANIFEST, RECEIPTS, Json, Maker, refused
from tests.unit.wide_bundles import GONE, OPEN, RECEIPTS_OF_OPEN, Wide

GATEWAY = "MediaMTX 1.15.3"


def saying(**told: Any) -> Any:
    """Every manifest and every receipt of a segment says this of the media."""

    def alter(kind: str, payload: Json) -> None:
        if kind == "manifest" or (kind == "receipt" and payload["media"] != "file"):
            payload.update(told)

    return alter


def named(bag: Path, extension: str) -> None:
    for path in (bag / "data").glob("*.mp4"):
        path.rename(path.with_suffix(f".{extension}"))


class Other(Wide):
    """As an honest vault lays it out."""

    extension = "ts"

    def list_and_sign(self, root: Path) -> None:
        named(root, self.extension)
        super().list_and_sign(root)


@pytest.fixture(scope="module")
def maker() -> Other:
    return Other(saying(format="ts", remuxed_by=GATEWAY), beside=(700,), supplements=((900,),))


@pytest.fixture(scope="module")
def whole(maker: Other, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maker.make(tmp_path_factory.mktemp("formats") / "whole")


@pytest.fixture
def bag(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bag"))


def test_an_honest_one_verifies_and_names_the_gateway(whole: Path, maker: Other) -> None:
    report = verify.verify_bundle(whole, maker.trusted, twice=True)
    assert (report.code, report.subject) == (0, ""), report
    assert {path.name for path in (whole / "data").glob("*.ts")} == {f"{ID}.ts", f"{ID}.1.ts", f"{OPEN}.open.ts"}
    told = [english for _, _, english in report.steps if "took the media of" in english]
    assert len(told) == 4 and all(GATEWAY in each for each in told)


@pytest.mark.parametrize("kind", verify.FORMATS)
def test_every_format_has_its_extension(kind: str, tmp_path: Path) -> None:
    maker = Other(saying(format=kind))
    maker.extension = kind
    assert verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted).code == 0


@pytest.mark.parametrize("name", [ID, f"{ID}.1", f"{OPEN}.open"])
@pytest.mark.parametrize("extension", ["mp4", "avi"])
def test_under_another_extension_it_does_not_pass_even_if_the_vault_listed_it(
    bag: Path, maker: Other, name: str, extension: str
) -> None:
    (bag / f"data/{name}.ts").rename(bag / f"data/{name}.{extension}")
    Maker.list_and_sign(maker, bag)
    refused(verify.verify_bundle(bag, maker.trusted), 2, f"data/{name}.ts")


@pytest.mark.parametrize("name", [ID, f"{OPEN}.open", GONE])
def test_another_file_beside_it_is_refused(bag: Path, maker: Other, name: str) -> None:
    (bag / f"data/{name}.mkv").write_bytes(b"another")
    Maker.list_and_sign(maker, bag)
    refused(verify.verify_bundle(bag, maker.trusted), 1, f"data/{name}.mkv")


def test_what_is_no_format_has_no_place(bag: Path, maker: Other) -> None:
    (bag / f"data/{ID}.ts").rename(bag / f"data/{ID}.exe")
    Maker.list_and_sign(maker, bag)
    refused(verify.verify_bundle(bag, maker.trusted), 1, "manifest-sha256.txt")


@pytest.mark.parametrize(
    ("told", "member"),
    [
        ({"format": "exe"}, "format"),
        ({"format": "../x"}, "format"),
        ({"format": None}, "format"),
        ({"remuxed_by": "\x1b[2J"}, "remuxed_by"),
        ({"remuxed_by": "a\u202eb"}, "remuxed_by"),
        ({"remuxed_by": "a" * 65}, "remuxed_by"),
    ],
)
def test_what_no_vault_says_is_not_read(tmp_path: Path, told: Json, member: str) -> None:
    maker = Maker(saying(**told))
    report = verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted)
    refused(report, 4, MANIFEST)
    assert member in report.english


@pytest.mark.parametrize("name", ["format", "remuxed_by"])
@pytest.mark.parametrize("said", ["manifest", "receipt"])
def test_a_manifest_and_its_receipts_say_the_same(tmp_path: Path, name: str, said: str) -> None:
    def alter(kind: str, payload: Json) -> None:
        if kind == said:
            payload[name] = "ts"

    maker = Maker(alter)
    root = maker.make(tmp_path / "bag")
    if (name, said) == ("format", "manifest"):
        named(root, "ts")
        maker.list_and_sign(root)
    refused(verify.verify_bundle(root, maker.trusted), 1, RECEIPTS)


@pytest.mark.parametrize("name", ["format", "remuxed_by"])
def test_the_receipts_of_what_is_open_say_the_same(tmp_path: Path, name: str) -> None:
    def alter(kind: str, payload: Json) -> None:
        if kind == "receipt" and payload["recording"] == OPEN and payload["sequence"] == 1:
            payload[name] = "ts"

    maker = Wide(alter)
    refused(verify.verify_bundle(maker.make(tmp_path / "bag"), maker.trusted), 1, RECEIPTS_OF_OPEN)


def test_the_verifier_knows_the_formats_that_the_vault_knows() -> None:
    assert get_args(wire.Format) == verify.FORMATS
    pattern = next(one.pattern for one in get_args(wire.Remuxer) if hasattr(one, "pattern"))
    assert pattern == f"^{verify.REMUXER.pattern}$"
