"""The demo bureau: a made-up unit with a few people and one recorder, so that there is something to try."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlmodel import col

from deploy.local.processes import read_secrets
from deploy.local.stack import Stack, run_apart
from services.api.database import sessions_of
from services.api.identity import service as identity
from services.api.identity.models import Person
from services.api.identity.principal import Role
from services.api.recorders import service as recorders
from services.api.recorders.models import Recorder

UNIT = "示例市交通运输局"
PEOPLE: dict[str, tuple[str, Role]] = {
    "wang": ("王执法", "officer"),
    "li": ("李监督", "supervisor"),
    "admin": ("赵管理", "administrator"),
}
RECORDER = "执法记录仪 01"


@dataclass(frozen=True)
class Bureau:
    """The logins with their passwords, and the recorder that the demo's terminal enrols as."""

    passwords: dict[str, str]
    unit: UUID
    recorder: UUID


def found(stack: Stack) -> Bureau:
    """The demo bureau, made at the first call and found again later."""
    return run_apart(_found(stack))


def enrolment_code(stack: Stack, bureau: Bureau) -> str:
    """A fresh one-time code for the bureau's recorder."""
    return run_apart(_code(stack, bureau))


def _passwords(data: Path) -> dict[str, str]:
    return read_secrets(data / "secrets" / "demo-people.json", lambda: {n: secrets.token_urlsafe(9) for n in PEOPLE})


async def _found(stack: Stack) -> Bureau:
    passwords = _passwords(stack.data)
    engine = create_async_engine(stack.postgres.dsn("quancheng_api"))
    try:
        async with sessions_of(engine).begin() as db:
            officer = await db.scalar(select(Person).where(col(Person.login) == "wang"))
            if officer is None:
                await _make(db, passwords)
                officer = (await db.scalars(select(Person).where(col(Person.login) == "wang"))).one()
            recorder = (await db.scalars(select(Recorder).where(col(Recorder.officer_id) == officer.id))).one()
            return Bureau(passwords, officer.unit_id, recorder.id)
    finally:
        await engine.dispose()


async def _make(db: AsyncSession, passwords: dict[str, str]) -> None:
    unit = await identity.add_unit(db, UNIT)
    ids = {
        login: await identity.add_person(db, unit, login, name, role, passwords[login])
        for login, (name, role) in PEOPLE.items()
    }
    await recorders.register(db, unit, RECORDER, ids["wang"])


async def _code(stack: Stack, bureau: Bureau) -> str:
    engine = create_async_engine(stack.postgres.dsn("quancheng_api"))
    try:
        async with sessions_of(engine).begin() as db:
            code, _ = await recorders.issue_code(db, bureau.unit, bureau.recorder)
            return code
    finally:
        await engine.dispose()
