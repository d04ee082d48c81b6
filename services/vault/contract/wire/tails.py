"""The tail of an upload: what came of it and is too short for a segment yet. Unlocked, thrown away, no evidence."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from services.vault.contract.wire.base import Message, Sha256

MAX_TAIL_BYTES = 8 * 1024 * 1024
TAIL_DAYS = 9
"""A tail lapses so long after its ticket."""
TailName = Annotated[str, StringConstraints(pattern=r"^[0-9]{12}-[0-9a-f]{16}$")]
"""Given by the vault: the second of its ticket, and a number that no other tail has."""


class PutTail(Message):
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=MAX_TAIL_BYTES)]


class TailTicket(Message):
    """A short-lived PUT of exactly these bytes, or a GET, which passes only between vault, api and store."""

    name: TailName
    method: Literal["PUT", "GET"]
    url: str
    headers: dict[str, str]
