"""How long recordings are kept: terms, legal holds, and what is left of the disposed."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from services.vault.contract.wire.base import MAX_HELD_AT_ONCE, Envelope, Message, Moment, Sha256

Basis = Annotated[str, StringConstraints(min_length=2, max_length=500, pattern=r"^[^\x00-\x1f]*$")]


class SetTerm(Message):
    """Until when a recording is kept (None: for good), by which rule (`basis`), and the version of the bureau's
    schedule 保管期限表 that it was read from."""

    keep_until: Moment | None
    basis: Basis
    schedule: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")] | None = None


class Term(SetTerm):
    at: Moment


class RetentionState(Message):
    """`ends_at` is when the term ends (None: never), `terms` what was set, the last first, at most a hundred.
    `locked_until` is the earliest date that the store was asked for among its objects (None: there are none).
    `holds` are the active ones."""

    ends_at: Moment | None
    locked_until: Moment | None
    holds: list[UUID]
    terms: list[Term]


class PlaceHold(Message):
    """A legal hold 复议诉讼留存 over these recordings for a case; the same again may bring more of them."""

    case: UUID
    reason: Annotated[str, StringConstraints(min_length=2, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
    recordings: Annotated[list[UUID], Field(min_length=1, max_length=MAX_HELD_AT_ONCE)]


class Hold(Message):
    """`objects` of its recordings are sealed, and `settled` of them are flagged in the store as they should be: a
    hold is placed, or its release done, where the two are equal."""

    id: UUID
    case: UUID
    reason: str
    state: Literal["active", "released"]
    recordings: int
    objects: int
    settled: int
    placed_at: Moment
    released_at: Moment | None


class Holds(Message):
    """Newest first; `next` is the `after` of the following page. Without the counts, which cost a look at each."""

    holds: list[Hold]
    next: UUID | None


class Tombstone(Message):
    """What is left of a disposed recording: signed by the vault, and sealed in its place."""

    tombstone: Envelope
    sha256: Sha256
    act: UUID
