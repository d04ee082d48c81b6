"""The tar that is told without being written, and which bytes of it a request means."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vault.contract import ranges
from services.vault.export import tar

ACT, MOMENT = UUID(int=7), datetime(2026, 11, 25, 12, tzinfo=UTC)
LONGEST = f"recordings/{UUID(int=9)}.9999/manifest.dsse.json"
BESIDE = f"data/{UUID(int=9)}.9999.beside/0000000001-{'a' * 64}"


@pytest.mark.parametrize("path", ["bagit.txt", LONGEST, BESIDE, f"data/series/{UUID(int=9)}/9999999999-{'a' * 64}"])
def test_a_member_is_read_by_its_name_whole(path: str) -> None:
    data = b"some bytes"
    head = tar.header(ACT, path, len(data), MOMENT)
    assert tar.span(head, len(data)) % 512 == 0
    made = head + data + bytes(tar.padding(len(data))) + tar.END
    with tarfile.open(fileobj=io.BytesIO(made)) as read:
        (member,) = read.getmembers()
        assert (member.name, member.size, member.mode) == (f"quancheng-{ACT}/{path}", 10, 0o644)
        assert member.mtime == MOMENT.timestamp()
        found = read.extractfile(member)
        assert found is not None and found.read() == data


@pytest.mark.parametrize("size", [8 * 1024**3 - 1, 8 * 1024**3, 5 * 1024**4])
def test_a_member_of_any_size_has_a_header_that_tells_it(size: int) -> None:
    head = tar.header(ACT, "data/large.mp4", size, MOMENT)
    with tarfile.open(fileobj=io.BytesIO(head)) as read:
        member = read.next()
        assert member is not None and member.size == size


SIZE, ETAG = 1000, '"tag"'


@given(st.integers(0, SIZE - 1), st.integers(0, 2 * SIZE))
def test_a_range_within_is_cut_to_the_size(first: int, more: int) -> None:
    found = ranges.asked(f"bytes={first}-{first + more}", None, ETAG, SIZE)
    assert found == (first, min(SIZE, first + more + 1))


@given(st.text(max_size=30))
def test_whatever_is_sent_is_all_a_part_or_refused(header: str) -> None:
    for prefix in ("", "bytes="):
        try:
            found = ranges.asked(prefix + header, None, ETAG, SIZE)
        except ranges.Unsatisfiable:
            continue
        assert found is None or 0 <= found[0] < found[1] <= SIZE


def test_a_range_of_another_representation_means_all_of_this_one() -> None:
    assert ranges.asked("bytes=0-1", ETAG, ETAG, SIZE) == (0, 2)
    for other in ('"other"', 'W/"tag"', "tag", "Wed, 25 Nov 2026 00:00:00 GMT"):
        assert ranges.asked("bytes=0-1", other, ETAG, SIZE) is None
