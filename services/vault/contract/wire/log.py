"""The transparency log: acts to append, proofs, and how far it is signed, witnessed and stamped."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from services.vault.contract.wire.base import MAX_APPENDS, Message, Moment, Problem, Slug


class Append(Message):
    """An act of the api for the log. `act` makes it idempotent; the statement's other fields are free.

    With `proof` the answer carries its C2SP proof in the checkpoint that was just signed."""

    act: UUID
    kind: Literal["viewing", "export"]
    fields: dict[str, Any]
    proof: bool = False


class AppendMany(Message):
    """Any number of acts, each with its own outcome; one bad act spoils no other."""

    items: Annotated[list[Append], Field(min_length=1, max_length=MAX_APPENDS)]


class Appended(Message):
    act: UUID
    index: int
    tree_size: int
    proof: str | None = None


class ActProblem(Message):
    act: UUID
    problem: Problem


class AppendedMany(Message):
    """One entry for each act, in whichever list says what became of it."""

    appended: list[Appended]
    problems: list[ActProblem]


class LogProof(Message):
    act: UUID
    index: int
    statement: dict[str, Any]
    proof: str


class WitnessState(Message):
    """One witness of the log: what it cosigned last, and if it is away since when and why."""

    name: str
    vkey: str
    url: str
    cosigned_size: int
    away_since: Moment | None
    reason: Slug | None


class StampState(Message):
    """Trusted time: the newest stamped checkpoint, the authority's time and ours when it came, and since when a
    checkpoint waits for a token (None: none waits). Without authorities nobody is asked."""

    authorities: list[str]
    size: int | None
    stamped_at: Moment | None
    got_at: Moment | None
    waiting_since: Moment | None


class RebuildTold(Message):
    """The vault's database was made anew at `at`: what had an index from `size` on before then is lost, and whoever
    appended it appends it again."""

    at: Moment
    size: int


class LogState(Message):
    """How far the log is signed and published, and whether its witnesses keep up.

    `needed` of `witnesses` must cosign (0: none are asked). `cosigned` is how many cosigned the newest
    published checkpoint, `meets_policy` whether that is enough, `met_size` the newest size that had enough.
    """

    size: int
    published_size: int
    needed: int
    cosigned: int
    meets_policy: bool
    met_size: int | None
    witnesses: list[WitnessState]
    stamps: StampState
    rebuilds: list[RebuildTold] = []
    """The last of them first, at most twenty."""
