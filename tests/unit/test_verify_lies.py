"""What the holders of the keys must not get away with: lies that are rightly signed and logged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.vault.contract import verify
from tests.unit.bundles import (
    MANIFEST,
    RECEIPTS,
    Json,
    Maker,
    b64,
    refused,
)

# --- What the keys' own holders must not get away with ----------------------------------------------


def setting(name: str, value: object) -> Callable[[Json], None]:
    return lambda payload: payload.__setitem__(name, value)


def in_segment(name: str, value: object) -> Callable[[Json], None]:
    return lambda payload: payload["segments"][1].__setitem__(name, value)


def in_store(name: str, value: object) -> Callable[[Json], None]:
    return lambda payload: payload["store"].__setitem__(name, value)


LIES: list[tuple[str, Callable[[Json], None], int, str]] = [
    ("manifest", setting("recording", "0193570c-0000-7000-8000-00000000ffff"), 1, MANIFEST),
    ("manifest", setting("number", 1), 1, MANIFEST),
    ("manifest", setting("count", 3), 1, MANIFEST),
    ("manifest", setting("root", "0" * 64), 1, MANIFEST),
    ("manifest", setting("missing", [9]), 1, MANIFEST),
    ("manifest", lambda payload: payload["segments"].pop(), 1, MANIFEST),
    ("manifest", lambda payload: payload["segments"].reverse(), 4, MANIFEST),
    ("manifest", lambda payload: payload["closing"].update(signatures=[]), 3, MANIFEST),
    ("manifest", lambda payload: payload["source"].update(key_id="0" * 64), 2, MANIFEST),
    ("manifest", in_segment("sha256", "0" * 64), 1, MANIFEST),
    ("manifest", in_segment("size", 0), 4, MANIFEST),
    ("manifest", in_segment("size", 2001), 1, MANIFEST),
    ("manifest", in_segment("started_at", "2020-01-01T00:00:00.000Z"), 1, RECEIPTS),
    ("manifest", in_segment("asked_at", "2020-01-01T00:00:00.000Z"), 1, RECEIPTS),
    ("manifest", in_segment("version", "another"), 1, RECEIPTS),
    ("closing", setting("recording", "0193570c-0000-7000-8000-00000000ffff"), 1, MANIFEST),
    ("closing", setting("count", 5), 1, MANIFEST),
    ("closing", setting("root", "0" * 64), 1, MANIFEST),
    ("closing", setting("missing", [4]), 1, MANIFEST),
    ("receipt", setting("sha256", "0" * 64), 1, RECEIPTS),
    ("receipt", setting("size", 1), 1, RECEIPTS),
    ("receipt", setting("recording", "another"), 1, RECEIPTS),
    ("receipt", setting("sealed_at", "2020-01-01T00:00:00.000Z"), 1, RECEIPTS),
    ("receipt", in_store("key", "another"), 1, RECEIPTS),
    ("receipt", in_store("lock", "none"), 1, RECEIPTS),
    ("receipt", setting("store", None), 4, RECEIPTS),
    ("segments", in_segment("sha256", "0" * 64), 2, MANIFEST),
    ("segments", in_segment("sequence", 77), 2, MANIFEST),
    ("segments", setting("recording", "another"), 2, MANIFEST),
    ("manifest-statement", setting("sha256", "0" * 64), 1, MANIFEST),
    ("manifest-statement", setting("recording", "another"), 2, MANIFEST),
    ("enrolment", setting("recorder", "another"), 1, "keys/terminal-"),
    ("enrolment", setting("public_key", b64(bytes(32))), 1, "keys/terminal-"),
    ("enrolment", setting("key_id", "0" * 64), 2, "keys/terminal-"),
    ("export", setting("recordings", []), 2, "proofs"),
]


@pytest.mark.parametrize(("kind", "lie", "code", "subject"), LIES)
def test_a_lie_that_is_signed_and_logged_is_found_all_the_same(
    tmp_path: Path, kind: str, lie: Callable[[Json], None], code: int, subject: str
) -> None:
    lying = Maker(alter=altering(kind, lie))
    report = verify.verify_bundle(lying.make(tmp_path / "lying"), lying.trusted)
    assert report.code == code, report
    assert report.subject.startswith(subject), report


def altering(kind: str, change: Callable[[Json], None]) -> Callable[[str, Json], None]:
    """Alter what is of this kind; of manifests, the payload and the statement have the same name."""

    def alter(of: str, payload: Json) -> None:
        if of == "manifest" and "segments" not in payload:
            of = "manifest-statement"
        if of == kind:
            change(payload)

    return alter


def test_an_undeclared_gap_is_incomplete(tmp_path: Path) -> None:
    lying = Maker(missing=(2,), alter=lambda kind, p: p.update(missing=[]) if "missing" in p else None)
    refused(verify.verify_bundle(lying.make(tmp_path / "gap"), lying.trusted), 2, MANIFEST)


@pytest.mark.parametrize(
    "lie", [setting("sequence", 2), setting("recording", "another"), lambda payload: payload["sha256"].pop()]
)
def test_a_conflict_that_the_log_does_not_tell_of_is_incomplete(tmp_path: Path, lie: Callable[[Json], None]) -> None:
    lying = Maker(beside=(700,), alter=altering("conflict", lie))
    refused(verify.verify_bundle(lying.make(tmp_path / "hushed"), lying.trusted), 2, MANIFEST)


@pytest.mark.parametrize("size", [None, 0])
def test_a_segment_beside_has_a_size(tmp_path: Path, size: int | None) -> None:
    lie = altering("manifest", lambda payload: payload["beside"][0].update(size=size))
    lying = Maker(beside=(700,), alter=lie)
    refused(verify.verify_bundle(lying.make(tmp_path / "sizeless"), lying.trusted), 4, MANIFEST)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["manifest", "closing", "receipt", "segments", "enrolment", "export", "manifest-statement"]),
    VALUES,
    st.data(),
)
def test_no_signed_nonsense_makes_the_verifier_fall_over(
    tmp_path: Path, kind: str, value: object, data: st.DataObject
) -> None:
    def nonsense(payload: Json) -> None:
        inner = [payload, *payload.get("segments", []), *(v for v in payload.values() if isinstance(v, dict))]
        target = inner[data.draw(st.integers(0, len(inner) - 1))]
        target[data.draw(st.sampled_from(sorted(target)))] = value

    maker = Maker(sizes=(5, 6), others=1, alter=altering(kind, nonsense))
    path = tmp_path / "nonsense"
    shutil.rmtree(path, ignore_errors=True)
    try:
        maker.make(path)
    except (TypeError, AttributeError, KeyError, OSError, ValueError):
        return  # too absurd even to be written down
    assert verify.verify_bundle(path, maker.trusted).code in {0, 1, 2, 3, 4}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_anywhere_can_be_changed_unnoticed(genuine: Path, maker: Maker, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in genuine.rglob("*") if path.is_file())))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(changed)
        assert verify.verify_bundle(genuine, maker.trusted).code in {1, 2, 4}
    finally:
        path.write_bytes(content)
