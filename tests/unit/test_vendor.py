"""What others wrote and we carry: exactly the bytes we reviewed, and never without its licence."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from services.api.console.pages import STATIC

VENDOR = STATIC / "vendor"
MANIFEST: dict[str, dict[str, Any]] = json.loads((VENDOR / "MANIFEST.json").read_text("utf-8"))


def digest(name: str) -> str:
    return hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", MANIFEST)
def test_a_vendored_file_has_the_digest_in_the_manifest(name: str) -> None:
    assert digest(name) == MANIFEST[name]["sha256"]


@pytest.mark.parametrize("name", MANIFEST)
def test_a_vendored_file_names_its_package_version_and_licence(name: str) -> None:
    entry = MANIFEST[name]
    assert entry["package"] and entry["licence"]
    assert entry["version"] in (VENDOR / name).read_text("utf-8")


@pytest.mark.parametrize("name", MANIFEST)
def test_the_licence_texts_of_a_vendored_file_are_beside_it(name: str) -> None:
    texts: dict[str, str] = MANIFEST[name]["licence_texts"]
    assert texts
    for text, expected in texts.items():
        assert len((VENDOR / text).read_text("utf-8")) > 200
        assert digest(text) == expected


def test_nothing_lies_in_the_folder_that_the_manifest_does_not_list() -> None:
    listed = {"MANIFEST.json", *MANIFEST}
    for entry in MANIFEST.values():
        listed |= set(entry["licence_texts"])
    assert {path.name for path in VENDOR.iterdir()} == listed
