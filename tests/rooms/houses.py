"""Two units, so that there is always somebody who may not see something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import httpx

from services.api.identity.principal import Role
from tests.rooms.people import Terminal, new_person, new_terminal, new_unit, signed_in
from tests.system import System

_PEOPLE: dict[str, Role] = {
    "first": "officer",
    "second": "officer",
    "supervisor": "supervisor",
    "administrator": "administrator",
}


@dataclass
class House:
    """One unit: two officers with a recorder each, a supervisor, an administrator."""

    unit: UUID
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)
    people: dict[str, UUID] = field(default_factory=dict)
    terminals: dict[str, Terminal] = field(default_factory=dict)
    closed: dict[str, UUID] = field(default_factory=dict)
    open: dict[str, UUID] = field(default_factory=dict)
    recordings: dict[UUID, str] = field(default_factory=dict)
    """Every recording, with the officer whose recorder made it."""

    async def record(self, officer: str, segments: list[bytes], *, close: bool) -> UUID:
        recording = await self.terminals[officer].record(segments, close=close)
        self.recordings[recording] = officer
        return recording

    @classmethod
    async def build(cls, system: System, name: str) -> Self:
        stack = system.stack
        made = cls(await new_unit(stack, name))
        for person, role in _PEOPLE.items():
            login, made.people[person] = await new_person(stack, made.unit, role)
            made.clients[person] = await signed_in(stack, login)
        for officer in ("first", "second"):
            made.terminals[officer] = await new_terminal(stack, made.unit, made.people[officer])
            segments = [f"{name} {officer} {n}".encode() for n in range(3)]
            made.closed[officer] = await made.record(officer, segments, close=True)
            made.open[officer] = await made.record(officer, segments, close=False)
        return made


@dataclass
class Houses:
    system: System
    here: House
    there: House

    @classmethod
    async def build(cls, system: System) -> Self:
        return cls(system, await House.build(system, "甲局"), await House.build(system, "乙局"))

    async def leave(self) -> None:
        for client in (*self.here.clients.values(), *self.there.clients.values()):
            await client.aclose()
