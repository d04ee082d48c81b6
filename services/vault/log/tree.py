"""The Merkle tree of the log, held in tiles of height 8 (C2SP tlog-tiles, RFC 6962 hashes). Pure.

A tile is named by its place `(level, number)` and is up to 256 hashes of 32 bytes in a row: at level 0 those
of leaves, above those of full tiles one level down. Everything here reads O(log size) tiles by `read_tile`,
which answers with at least the hashes the tree of the size in question has there (a later, longer version of
the tile does as well) and with anything, such as empty bytes, where that tree has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache

from services.vault.contract.verify import node_hash

WIDTH = 256
HASH_SIZE = 32
LEVELS = 8
"""Levels that a tree of up to 2**63 entries can have."""

Place = tuple[int, int]
ReadTile = Callable[[Place], bytes]
ReadProof = Callable[[int], Awaitable[Sequence[bytes]]]
"""The consistency proof from an older size to the one in question, wherever its tiles lie."""


class TileShort(ValueError):
    """A tile that was read holds fewer hashes than its tree must have there."""


def right_edge(size: int) -> set[Place]:
    """The tiles that `root` of this size and `append` to this size read."""
    places = ((level, size >> 8 * level) for level in range(LEVELS))
    return {(level, count // WIDTH) for level, count in places if count % WIDTH}


def path(index: int) -> set[Place]:
    """The tiles above an entry: with `right_edge(size)` all that `inclusion_proof(index, size)` reads.

    `path(old - 1) | right_edge(new)` is all that `consistency_proof(old, new)` reads.
    """
    return {(level, index >> 8 * (level + 1)) for level in range(LEVELS)}


def append(size: int, leaf_hashes: Sequence[bytes], read_tile: ReadTile) -> dict[Place, bytes]:
    """Put leaf hashes to the right of a tree of `size`; returns every changed tile, whole."""
    changed: dict[Place, bytes] = {}
    new, count, level = list(leaf_hashes), size, 0
    while new:
        number, width = divmod(count, WIDTH)
        hashes = (_hashes(read_tile, (level, number), width) if width else b"") + b"".join(new)
        new = []
        for start in range(0, len(hashes), WIDTH * HASH_SIZE):
            tile = hashes[start : start + WIDTH * HASH_SIZE]
            changed[level, number] = tile
            number += 1
            if len(tile) == WIDTH * HASH_SIZE:
                new.append(_fold(tile))
        count, level = count // WIDTH, level + 1
    return changed


def changed_tiles(old: int, new: int) -> Iterator[tuple[int, int, int]]:
    """`(level, number, width)` of each tile that differs between the trees of these sizes, as in the new one."""
    for level in range(LEVELS):
        before, after = old >> 8 * level, new >> 8 * level
        if after > before:
            for number in range(before // WIDTH, (after - 1) // WIDTH + 1):
                yield level, number, min(WIDTH, after - number * WIDTH)


def root(size: int, read_tile: ReadTile) -> bytes:
    """RFC 6962 root of the first `size` entries. Raises TileShort, as do the proofs."""
    return _tree_hash(0, size, read_tile) if size else hashlib.sha256(b"").digest()


def inclusion_proof(index: int, size: int, read_tile: ReadTile) -> list[bytes]:
    """RFC 6962 section 2.1.1: siblings from the leaf up. Raises ValueError where there is no such index."""
    return inclusion_proofs([index], size, read_tile)[0]


def inclusion_proofs(indexes: Sequence[int], size: int, read_tile: ReadTile) -> list[list[bytes]]:
    """The proofs of several entries in one tree; neighbours share most subtrees, and each is hashed once."""

    @cache
    def subtree(start: int, end: int) -> bytes:
        return _tree_hash(start, end, read_tile)

    return [_siblings(index, size, subtree) for index in indexes]


def _siblings(index: int, size: int, subtree: Callable[[int, int], bytes]) -> list[bytes]:
    if not 0 <= index < size:
        raise ValueError(f"index {index} is not in a tree of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(subtree(middle, end))
            end = middle
        else:
            proof.append(subtree(start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, read_tile: ReadTile) -> list[bytes]:
    """RFC 6962 section 2.1.2: that the tree of `old` entries is a prefix of that of `new`.

    Raises ValueError unless 0 < old <= new: of the empty tree there is nothing to prove.
    """
    if not 0 < old <= new:
        raise ValueError(f"no consistency proof from {old} to {new}")
    proof: list[bytes] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_tree_hash(middle, end, read_tile))
            end = middle
        else:
            proof.append(_tree_hash(start, middle, read_tile))
            start = middle
    if start:
        proof.append(_tree_hash(start, end, read_tile))
    return proof[::-1]


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def _tree_hash(start: int, end: int, read_tile: ReadTile) -> bytes:
    """RFC 6962 hash over the entries from `start` to `end`, for a range that splitting by `_split` gives."""
    count = end - start
    if count & (count - 1):
        middle = start + _split(count)
        return node_hash(_tree_hash(start, middle, read_tile), _tree_hash(middle, end, read_tile))
    level, inner = divmod(count.bit_length() - 1, 8)
    number, first = divmod(start >> 8 * level, WIDTH)
    hashes = _hashes(read_tile, (level, number), first + (1 << inner))
    return _fold(hashes[first * HASH_SIZE :])


def _hashes(read_tile: ReadTile, place: Place, width: int) -> bytes:
    tile = read_tile(place)
    if len(tile) < width * HASH_SIZE:
        raise TileShort(f"tile {place} has {len(tile) // HASH_SIZE} hashes, not {width}")
    return tile[: width * HASH_SIZE]


def _fold(hashes: bytes) -> bytes:
    """Root over a power of two of hashes."""
    row = [hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)]
    while len(row) > 1:
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]
