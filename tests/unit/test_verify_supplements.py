"""What came after a closing, and what nobody but the server closed: checked like the rest, and plainly said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.vault.contract import verify
from tests.unit.bundles import FOLDER, ID, MANIFEST, Json, Maker, refused
from tests.unit.test_verify_lies import altering, setting

LATER = f"recordings/{ID}.1/manifest.dsse.json"


def only_in(number: int, change: Callable[[Json], None]) -> Callable[[Json], None]:
    return lambda payload: change(payload) if payload.get("number", 0) == number else None


def test_supplements_are_verified_and_counted(tmp_path: Path) -> None:
    maker = Maker(recordings=2, missing=(2,), supplements=((700, 800), (900,)))
    bundle = maker.make(tmp_path / "late")
    report = verify.verify_bundle(bundle, maker.trusted)
    assert (report.code, report.segments) == (0, 14), report
    assert (bundle / f"data/{ID}.1.mp4").stat().st_size == 1500
    said = [chinese for _, chinese, _ in report.steps]
    assert any("2 条记录" in each for each in said)
    assert any("4 份是封存后补充的清单" in each for each in said)


def test_a_recording_that_the_server_closed_is_verified_and_the_report_says_so(tmp_path: Path) -> None:
    maker = Maker(by_server="lost", supplements=((700,),))
    report = verify.verify_bundle(maker.make(tmp_path / "lost"), maker.trusted)
    assert report.code == 0, report
    (note,) = [(chinese, english) for _, chinese, english in report.steps if ID in english]
    assert "由服务器代为封存（lost），终端没有签名" in note[0]
    assert "closed by the server (lost) and the terminal did not sign" in note[1]


def test_a_source_without_a_key_needs_no_enrolment(tmp_path: Path) -> None:
    maker = Maker(by_server="endless", alter=altering("manifest", lambda p: p["source"].update(key_id=None)))
    bundle = maker.make(tmp_path / "keyless")
    for key in (bundle / "keys").glob("terminal-*.pem"):
        key.unlink()
    maker.list_and_sign(bundle)
    assert verify.verify_bundle(bundle, maker.trusted).code == 0


LIES: list[tuple[str, Callable[[Json], None], int]] = [
    ("manifest", only_in(1, setting("number", 2)), 1),
    ("manifest", only_in(1, setting("closed_by", "server")), 4),
    ("manifest", only_in(1, setting("root", "0" * 64)), 1),
    ("manifest", only_in(1, lambda payload: payload["segments"].pop()), 1),
    ("closing", only_in(1, setting("number", 2)), 1),
    ("closing", only_in(1, setting("sequences", [4])), 1),
    ("closing", only_in(1, setting("sequences", None)), 1),
    ("closing", only_in(1, setting("count", 1)), 1),
    ("manifest-statement", only_in(1, setting("number", 0)), 1),
    ("manifest-statement", only_in(1, setting("number", 2)), 2),
]


@pytest.mark.parametrize(("kind", "lie", "code"), LIES)
def test_a_lie_about_a_supplement_is_found(tmp_path: Path, kind: str, lie: Callable[[Json], None], code: int) -> None:
    lying = Maker(supplements=((700, 800),), alter=altering(kind, lie))
    report = verify.verify_bundle(lying.make(tmp_path / "lying"), lying.trusted)
    assert report.code == code, report
    assert report.subject in (LATER, MANIFEST), report


@pytest.mark.parametrize("lie", [setting("reason", "because"), setting("closing", None), setting("closed_by", "me")])
def test_a_closing_by_the_server_without_a_reason_or_with_more_is_refused(
    tmp_path: Path, lie: Callable[[Json], None]
) -> None:
    lying = Maker(by_server="idle", alter=altering("manifest", lie))
    refused(verify.verify_bundle(lying.make(tmp_path / "lying"), lying.trusted), 4, MANIFEST)


def test_a_supplement_without_the_one_before_it_is_incomplete(tmp_path: Path) -> None:
    maker = Maker(supplements=((700,), (800,)))
    bundle = maker.make(tmp_path / "gap")
    shutil.rmtree(bundle / f"{FOLDER}.1")
    (bundle / f"data/{ID}.1.mp4").unlink()
    maker.list_and_sign(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 2, f"{FOLDER}.2/manifest.dsse.json")


def test_one_segment_in_two_manifests_is_refused(tmp_path: Path) -> None:
    """A supplement that gives what the recording has already would show two stories of one moment."""
    first: list[Json] = []

    def repeat(kind: str, payload: Json) -> None:
        if kind == "manifest" and "segments" in payload and payload["number"] == 0:
            first.append(payload["segments"][0])
        if kind == "manifest" and "segments" in payload and payload["number"] == 1:
            payload["beside"] = [{**first[0], "of_sequence": 0}]

    lying = Maker(supplements=((700,),), alter=repeat)
    refused(verify.verify_bundle(lying.make(tmp_path / "twice"), lying.trusted), 1, LATER)


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_token_that_covers_the_manifest_alone_covers_no_supplement_that_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real tokens are verified in tests/flows/test_timestamps.py; here they are taken as verified."""
    maker = Maker(recordings=2, supplements=((700,),))
    bundle = maker.make(tmp_path / "late")
    places = {}
    for path in (bundle / "proofs").iterdir():
        proof = verify.parse_proof(path.read_text())
        said = verify.parse_json(proof.extra[verify.SALT_SIZE :])
        if said["kind"] == "manifest":
            places[said["recording"], said["number"]] = proof.index
    stamps = [(places[ID, 0] + 1, MOMENT)]
    monkeypatch.setattr(verify, "_check_timestamps", lambda *_: stamps)
    report = verify.verify_bundle(bundle, maker.trusted)
    assert (report.code, report.stamped) == (0, {})
    refused(verify.verify_bundle(bundle, maker.trusted, authorities={}), 2, f"recordings/{ID}.1")
    # With one on the supplement too it is the later of the two that holds for the recording.
    stamps.append((places[ID, 1] + 1, MOMENT + timedelta(days=90)))
    assert verify.verify_bundle(bundle, maker.trusted).stamped == {ID: MOMENT + timedelta(days=90)}
