"""Signing in with a password, sessions, and the demo bureau."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.api.database import Sessions
from services.api.errors import NotSignedIn, SignInFailed, TooManyFailures
from services.api.identity.models import Person, SignIn, SignInFailure, Unit
from services.api.identity.principal import Principal, Role

_FAILURES, _FAILURES_OF_ALL, _WINDOW = 10, 100, timedelta(minutes=15)
_HASHES_AT_ONCE = 2
MAX_PASSWORD = 256

_hasher = PasswordHasher()
_hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
_NOBODY = _hasher.hash(secrets.token_hex(16))


@dataclass(frozen=True)
class SignedIn:
    """A fresh session: `token` goes into the cookie and is not kept."""

    token: str
    expires_at: datetime
    principal: Principal


async def sign_in(sessions: Sessions, login: str, password: str, address: str, *, hours: int) -> SignedIn:
    """Raises SignInFailed, alike and equally slow whether the login or the password is wrong, and
    TooManyFailures after ten failures of one login from one address within fifteen minutes, so that nobody
    can lock out a person by failing in their name from elsewhere; or after a hundred of any login from it."""
    now, name, attempt = datetime.now(UTC), _login_digest(login), uuid7()
    async with sessions.begin() as db:
        # Counted as a failure until it succeeds: attempts made all at once are counted like any others.
        await db.execute(select(func.pg_advisory_xact_lock(int.from_bytes(name[:8], "big", signed=True))))
        ours = col(SignInFailure.login_sha256) == name
        counts = select(func.count(), func.count().filter(ours)).select_from(SignInFailure)
        counts = counts.where(col(SignInFailure.address) == address, col(SignInFailure.at) > now - _WINDOW)
        of_all, of_login = (await db.execute(counts)).one()
        if of_all >= _FAILURES_OF_ALL or of_login >= _FAILURES:
            raise TooManyFailures
        db.add(SignInFailure(id=attempt, login_sha256=name, address=address, at=now))
        person = await db.scalar(select(Person).where(col(Person.login) == login))
    if not await _matches(person.password_hash if person else _NOBODY, password) or person is None:
        raise SignInFailed
    token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
    session = SignIn(
        token_sha256=_token_digest(token),
        person_id=person.id,
        csrf=csrf,
        created_at=now,
        expires_at=now + timedelta(hours=hours),
    )
    async with sessions.begin() as db:
        await db.execute(delete(SignIn).where(col(SignIn.person_id) == person.id, col(SignIn.expires_at) < now))
        outlived = col(SignInFailure.at) < now - _WINDOW
        await db.execute(delete(SignInFailure).where(outlived | (col(SignInFailure.id) == attempt)))
        db.add(session)
    async with sessions() as db:
        return SignedIn(token, session.expires_at, await principal(db, token))


async def sign_out(db: AsyncSession, who: Principal) -> None:
    await db.execute(delete(SignIn).where(col(SignIn.token_sha256) == who.session_id))


async def principal(db: AsyncSession, token: str) -> Principal:
    """Raises NotSignedIn."""
    query: Select[*tuple[Any, ...]] = (
        select(
            col(Person.id),
            col(Person.unit_id),
            col(Unit.name).label("unit"),
            col(Person.name),
            col(Person.role),
            col(SignIn.csrf),
        )
        .join(SignIn, col(SignIn.person_id) == col(Person.id))
        .join(Unit, col(Unit.id) == col(Person.unit_id))
        .where(col(SignIn.token_sha256) == _token_digest(token), col(SignIn.expires_at) > datetime.now(UTC))
    )
    row = (await db.execute(query)).one_or_none()
    if row is None:
        raise NotSignedIn
    return Principal(row.id, row.unit_id, row.unit, row.name, row.role, _token_digest(token), row.csrf)


async def add_unit(db: AsyncSession, name: str) -> UUID:
    unit = Unit(id=uuid7(), name=name)
    db.add(unit)
    await db.flush()
    return unit.id


async def add_person(db: AsyncSession, unit: UUID, login: str, name: str, role: Role, password: str) -> UUID:
    person = Person(id=uuid7(), unit_id=unit, login=login, name=name, role=role, password_hash=_hasher.hash(password))
    db.add(person)
    await db.flush()
    return person.id


async def _matches(hashed: str, password: str) -> bool:
    def check() -> bool:
        try:
            return _hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    async with _hashing:
        return await asyncio.to_thread(check)


def _token_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _login_digest(login: str) -> bytes:
    return hashlib.sha256(b"login\n" + login.encode()).digest()
