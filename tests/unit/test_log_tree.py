"""The tree in tiles, against golden vectors of another implementation and the definition in RFC 6962."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.vault.contract import verify
from services.vault.log import tiles, tree

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "log.json").read_text())
TOTAL = 70000
NOTHING: dict[tree.Place, bytes] = {}


def leaf(index: int) -> bytes:
    return verify.leaf_hash(hashlib.sha256(f"leaf {index}".encode()).digest())


def grow(sizes: Sequence[int]) -> dict[tuple[int, int], bytes]:
    """Append in steps to each of `sizes`; neither that nor the new root needs more than the right edge."""
    held: dict[tuple[int, int], bytes] = {}
    before = 0
    for size in sizes:
        edge = {place: held[place] for place in tree.right_edge(before)}
        edge |= tree.append(before, [leaf(i) for i in range(before, size)], edge.__getitem__)
        tree.root(size, edge.__getitem__)
        held |= edge
        before = size
    return held


@pytest.fixture(scope="module")
def held() -> dict[tuple[int, int], bytes]:
    return grow([1, 2, 255, 256, 257, 600, 65535, 65536, 65537, TOTAL])


def hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def test_roots_are_those_of_the_other_implementation(held: dict[tuple[int, int], bytes]) -> None:
    for size, root in VECTORS["roots"].items():
        assert tree.root(int(size), held.__getitem__) == base64.b64decode(root), size


def test_the_empty_tree_has_the_root_of_rfc_6962() -> None:
    assert tree.root(0, NOTHING.__getitem__) == hashlib.sha256(b"").digest() == verify.merkle_root([])


def test_inclusion_proofs_are_those_of_the_other_implementation(held: dict[tuple[int, int], bytes]) -> None:
    for one in VECTORS["inclusion"]:
        needed = tree.right_edge(one["size"]) | tree.path(one["index"])
        read = {place: held.get(place, b"") for place in needed}
        proof = tree.inclusion_proof(one["index"], one["size"], read.__getitem__)
        assert proof == hashes(one["proof"])
        root = base64.b64decode(one["root"])
        verify.verify_inclusion(one["index"], one["size"], base64.b64decode(one["leaf"]), proof, root)


def test_consistency_proofs_are_those_of_the_other_implementation(held: dict[tuple[int, int], bytes]) -> None:
    for one in VECTORS["consistency"]:
        needed = tree.right_edge(one["new"]) | tree.path(one["old"] - 1)
        read = {place: held.get(place, b"") for place in needed}
        proof = tree.consistency_proof(one["old"], one["new"], read.__getitem__)
        assert proof == hashes(one["proof"])
        old_root, new_root = base64.b64decode(one["old_root"]), base64.b64decode(one["new_root"])
        verify.verify_consistency(one["old"], one["new"], proof, old_root, new_root)


def test_tiles_lie_where_the_other_implementation_puts_them(held: dict[tuple[int, int], bytes]) -> None:
    expected = {(one["level"], one["number"], one["width"]): one for one in VECTORS["tiles"]}
    assert set(tree.changed_tiles(0, TOTAL)) == set(expected)
    assert set(held) == {(level, number) for level, number, _ in expected}
    for (level, number, width), one in expected.items():
        assert tiles.tile_path(level, number, width) == one["path"]
        assert hashlib.sha256(held[level, number]).hexdigest() == one["sha256"]


@pytest.mark.parametrize("one", VECTORS["must_reject"]["inclusion"], ids=lambda one: one["why"])
def test_a_false_inclusion_proof_is_refused(one: dict[str, Any]) -> None:
    leaf_, root = base64.b64decode(one["leaf"]), base64.b64decode(one["root"])
    with pytest.raises(verify.Altered):
        verify.verify_inclusion(one["index"], one["size"], leaf_, hashes(one["proof"]), root)


@pytest.mark.parametrize("one", VECTORS["must_reject"]["consistency"], ids=lambda one: one["why"])
def test_a_false_consistency_proof_is_refused(one: dict[str, Any]) -> None:
    old_root, new_root = base64.b64decode(one["old_root"]), base64.b64decode(one["new_root"])
    with pytest.raises(verify.Altered):
        verify.verify_consistency(one["old"], one["new"], hashes(one["proof"]), old_root, new_root)


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(leaves) <= 1:
        return hashlib.sha256(b"\x00" + leaves[0] if leaves else b"").digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_the_root_in_one_pass_is_the_root_by_definition(leaves: list[bytes]) -> None:
    assert verify.merkle_root(leaves) == by_definition(leaves)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=6), st.data())
def test_however_it_grew_every_proof_holds(steps: list[int], data: st.DataObject) -> None:
    sizes = [sum(steps[: i + 1]) for i in range(len(steps))]
    size = sizes[-1]
    held = grow(sizes)
    root = tree.root(size, held.__getitem__)
    assert root == verify.merkle_root(hashlib.sha256(f"leaf {i}".encode()).digest() for i in range(size))
    if size:
        index = data.draw(st.integers(0, size - 1))
        proof = tree.inclusion_proof(index, size, held.__getitem__)
        verify.verify_inclusion(index, size, leaf(index), proof, root)
        several = sorted({0, index, size - 1})
        together = tree.inclusion_proofs(several, size, held.__getitem__)
        assert together == [tree.inclusion_proof(one, size, held.__getitem__) for one in several]
        old = data.draw(st.integers(1, size))
        # A later version of a tile serves for the older tree too.
        old_root = tree.root(old, held.__getitem__)
        steps_ = tree.consistency_proof(old, size, held.__getitem__)
        verify.verify_consistency(old, size, steps_, old_root, root)


def test_growing_by_many_small_steps_changes_what_growing_at_once_does() -> None:
    assert grow(range(1, 600)) == grow([599])


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_what_changed_between_two_sizes_is_what_append_changes(old: int, more: int) -> None:
    edge = dict.fromkeys(tree.right_edge(old), bytes(tree.WIDTH * tree.HASH_SIZE))
    changed = tree.append(old, [bytes(32)] * more, edge.__getitem__)
    told = {(level, number): width for level, number, width in tree.changed_tiles(old, old + more)}
    assert {place: len(tile) // 32 for place, tile in changed.items()} == told


def test_reading_does_not_grow_with_the_history() -> None:
    size = 2**40 + 12345
    assert len(tree.right_edge(size) | tree.path(size // 3)) <= 2 * tree.LEVELS
    read: list[tuple[int, int]] = []

    def read_tile(place: tuple[int, int]) -> bytes:
        read.append(place)
        return bytes(tree.WIDTH * tree.HASH_SIZE)

    tree.append(size, [bytes(32)] * 10, read_tile)
    assert len(read) <= tree.LEVELS
    read.clear()
    tree.inclusion_proof(size // 3, size, read_tile)
    assert set(read) <= tree.right_edge(size) | tree.path(size // 3)
    assert len(read) <= 64


def test_a_tile_that_is_too_short_is_noticed() -> None:
    with pytest.raises(tree.TileShort):
        tree.root(3, {(0, 0): bytes(64)}.__getitem__)
    with pytest.raises(tree.TileShort):
        tree.append(3, [bytes(32)], {(0, 0): bytes(64)}.__getitem__)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (4, 4), (5, 4), (-1, 4)])
def test_there_is_no_proof_of_what_is_not_in_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="is not in a tree"):
        tree.inclusion_proof(index, size, grow([4]).__getitem__)


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4), (-1, 4), (0, 0)])
def test_there_is_no_consistency_with_nothing_or_with_the_future(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no consistency proof"):
        tree.consistency_proof(old, new, grow([4]).__getitem__)


@pytest.mark.parametrize(
    ("number", "width", "path"),
    [
        (0, 256, "tile/0/000"),
        (999, 256, "tile/0/999"),
        (1000, 256, "tile/0/x001/000"),
        (1234067, 256, "tile/0/x001/x234/067"),
        (1234067, 17, "tile/0/x001/x234/067.p/17"),
    ],
)
def test_paths_are_as_the_specification_shows_them(number: int, width: int, path: str) -> None:
    assert tiles.tile_path(0, number, width) == path
    assert tiles.entries_path(number, width) == path.replace("tile/0", "tile/entries")


@pytest.mark.parametrize("width", [0, 257, -1])
def test_there_is_no_tile_of_such_width(width: int) -> None:
    with pytest.raises(ValueError, match="no tile"):
        tiles.tile_path(0, 0, width)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_entries_come_out_of_a_bundle_as_they_went_in(entries: list[bytes]) -> None:
    bundle = tiles.encode_entries(entries)
    assert tiles.decode_entries(bundle) == entries
    with pytest.raises(ValueError, match="bundle"):
        tiles.decode_entries(bundle[:-1] if entries[-1] or len(entries) > 1 else b"\x00")


def test_an_entry_is_prefixed_by_its_length_in_two_bytes() -> None:
    assert tiles.encode_entries([b"ab", b""]) == b"\x00\x02ab\x00\x00"


@pytest.mark.parametrize("entries", [[], [b""] * 257, [bytes(65536)]])
def test_a_bundle_beyond_its_limits_is_refused(entries: list[bytes]) -> None:
    with pytest.raises(ValueError, match="bundle"):
        tiles.encode_entries(entries)
