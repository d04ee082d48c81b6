"""Who is asking, and what each role may do: one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from services.api.errors import NotPermitted

Role = Literal["officer", "supervisor", "administrator"]
Verb = Literal["see-recordings", "view", "export", "bring-files", "ask-footage", "manage-recorders", "tend-jobs"]

MAY: dict[str, frozenset[Verb]] = {
    "officer": frozenset({"see-recordings", "view", "bring-files", "ask-footage"}),
    "supervisor": frozenset({"see-recordings", "view", "export", "ask-footage"}),
    "administrator": frozenset({"manage-recorders", "tend-jobs"}),
}
"""A role that is not here may do nothing. An administrator reads no recording by that role."""


@dataclass(frozen=True)
class Principal:
    person_id: UUID
    unit_id: UUID
    unit_name: str
    name: str
    role: str
    session_id: bytes
    csrf: str

    def may(self, verb: Verb) -> bool:
        return verb in MAY.get(self.role, frozenset())

    def require(self, verb: Verb) -> None:
        """Raises NotPermitted."""
        if not self.may(verb):
            raise NotPermitted
