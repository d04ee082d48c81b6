"""What a closing says, and which of the sealed segments it settles on. No row is changed here."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, ValidationError

from services.vault import errors
from services.vault.contract import wire
from services.vault.contract.verify import VerificationError, merkle_root, segment_leaf, verify_envelope

_MAX_COMBINATIONS = 64
"""Of conflicting digests that are tried for the root; fewer where a recording is so long that they would cost more
than `_MAX_HASHES`."""
_MAX_HASHES = 1_000_000
_UNDECIDED_SECONDS = 60
_MAX_OUTSTANDING = 1000
_Sequences = Annotated[list[Annotated[int, Field(ge=0, le=wire.MAX_SEQUENCE)]], Field(max_length=100_000)]


class Closing(wire.Message):
    """The payload a terminal signs; `root` is over its segments in order, those `missing` left out.

    A supplement's has its `number` and, in place of holes, the `sequences` it speaks of."""

    recording: UUID
    number: Annotated[int, Field(ge=0, le=wire.MAX_SUPPLEMENTS)] = 0
    sequences: _Sequences | None = None
    count: Annotated[int, Field(ge=1, le=1_000_000)]
    root: wire.Sha256
    missing: _Sequences
    started_at: wire.Moment
    ended_at: wire.Moment
    interrupted: bool
    taken_over: wire.TakenOver | None = None

    def expected(self) -> list[int]:
        """The sequences that this closing speaks of, in order. Raises BadClosing."""
        if self.number == 0:
            missing = set(self.missing)
            expected = [n for n in range(self.count + len(missing)) if n not in missing]
            good = self.sequences is None and self.missing == sorted(missing)
        else:
            expected = self.sequences or []
            good = not self.missing and expected == sorted(set(expected)) and self.taken_over is None
        if not good or len(expected) != self.count:
            raise errors.BadClosing
        return expected


def checked(envelope: wire.Envelope, recording: UUID, source: Any) -> Closing:
    if source.public_key is None:
        raise errors.BadClosing
    keys = {source.key_id: Ed25519PublicKey.from_public_bytes(source.public_key)}
    try:
        payload = verify_envelope(envelope.model_dump(), keys, wire.CLOSING_TYPE)
        closing = Closing.model_validate_json(json.dumps(payload))
    except (VerificationError, ValidationError) as error:
        raise errors.BadClosing from error
    if closing.recording != recording:
        raise errors.BadClosing
    return closing


def settle(closing: Closing, expected: list[int], sealed: list[Any]) -> tuple[list[Any], list[Any]]:
    """The sealed segments that the closing speaks of, in order, and those it does not. Raises SegmentsOutstanding,
    BadClosing, and ConflictsUndecided where not every combination of digests could be tried."""
    choices = _choices(sealed)
    if outstanding := [n for n in expected if n not in choices]:
        raise errors.SegmentsOutstanding(outstanding=outstanding_of(outstanding))
    chosen, tries = _by_root([choices[n] for n in expected], closing.root)
    if chosen is not None:
        return chosen, _others(sealed, chosen)
    if math.prod(len(choices[n]) for n in expected) > tries:
        conflicting = [n for n in expected if len(choices[n]) > 1]
        raise errors.ConflictsUndecided(conflicting=outstanding_of(conflicting), retry_after=_UNDECIDED_SECONDS)
    raise errors.BadClosing


def whole_of(closing: Closing, kind: str, chosen: Sequence[Any]) -> dict[str, Any]:
    """What a manifest says of a file that was taken over and is all there: its whole, which whoever passed the
    closing on has compared with what is sealed. Raises WholeDiffers."""
    told = closing.taken_over
    if told is None or closing.missing:
        return {}
    alone = chosen[0].sha256 if len(chosen) == 1 else told.sha256
    if (told.format, told.size, told.sha256) != (kind, sum(row.size for row in chosen), alone):
        raise errors.WholeDiffers
    return {"whole": {"sha256": told.sha256, "size": told.size}}


def settle_alone(
    closing: wire.CloseByServer, number: int, sealed: list[Any]
) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """What a manifest says that nobody but the vault stands for: of each sequence the digest sealed first, or those
    that make up the whole. Raises WholeDiffers."""
    choices = _choices(sealed)
    chosen = [rows[0] for _, rows in sorted(choices.items())]
    if closing.whole is not None:
        found, _ = _by_root([rows for _, rows in sorted(choices.items())], closing.whole.root)
        if found is None or sum(row.size for row in found) != closing.whole.size or number:
            raise errors.WholeDiffers
        chosen = found
    ended_at = max(row.started_at + timedelta(milliseconds=row.duration_ms) for row in chosen)
    told: dict[str, Any] = {
        "closed_by": "server",
        "reason": closing.reason,
        "root": _root(chosen),
        "missing": [] if number else [n for n in range(chosen[-1].sequence) if n not in choices],
        "started_at": wire.rfc3339(min(row.started_at for row in chosen)),
        "ended_at": wire.rfc3339(ended_at),
    }
    if closing.whole is not None:
        told["whole"] = closing.whole.model_dump(include={"sha256", "size"})
    return told, chosen, _others(sealed, chosen)


def _by_root(choices: list[list[Any]], root: str) -> tuple[list[Any] | None, int]:
    """Of each sequence the one with which they have this root, where a bounded number of tries finds them; and how
    many tries that were at most."""
    tries = max(1, min(_MAX_COMBINATIONS, _MAX_HASHES // len(choices)))
    for chosen in itertools.islice(itertools.product(*choices), tries):
        if _root(chosen) == root:
            return list(chosen), tries
    return None, tries


def _choices(sealed: list[Any]) -> dict[int, list[Any]]:
    choices: dict[int, list[Any]] = defaultdict(list)
    for row in sealed:
        choices[row.sequence].append(row)
    return choices


def _root(rows: Sequence[Any]) -> str:
    return merkle_root(segment_leaf(row.sequence, row.sha256, row.size) for row in rows).hex()


def _others(sealed: list[Any], chosen: Sequence[Any]) -> list[Any]:
    named = {(row.sequence, row.sha256) for row in chosen}
    return [row for row in sealed if (row.sequence, row.sha256) not in named]


def outstanding_of(sequences: list[int]) -> list[dict[str, int]]:
    return [{"sequence": n} for n in sequences[:_MAX_OUTSTANDING]]
