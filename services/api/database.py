"""The api's pool and the transaction of a request.

A session is given with function scope: it commits before the answer leaves. Where a verb must speak to the
vault it takes the maker instead and opens its own short transactions around the call, never across it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import DateTime, exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlmodel import MetaData, SQLModel

from services.api.settings import Settings

Time: Any = DateTime(timezone=True)
Sessions = async_sessionmaker[AsyncSession]
STORABLE = r"^[^\x00]*$"
"""The pattern of any text that is stored or looked up: PostgreSQL holds every character but NUL."""


class Table(SQLModel):
    metadata = MetaData(schema="api")


GONE: tuple[type[Exception], ...] = (OSError, exc.InterfaceError, exc.OperationalError, exc.TimeoutError)
"""What an absent or overwhelmed database looks like from here."""


def connect(settings: Settings) -> AsyncEngine:
    return create_async_engine(
        settings.dsn.get_secret_value(),
        pool_size=10,
        max_overflow=10,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={"timeout": 5, "command_timeout": 30, "server_settings": {"timezone": "UTC"}},
    )


def sessions_of(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)


def maker(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def engine_of(request: Request) -> AsyncEngine:
    engine: AsyncEngine = request.app.state.engine
    return engine


async def transaction(request: Request) -> AsyncIterator[AsyncSession]:
    async with maker(request).begin() as session:
        yield session


Db = Annotated[AsyncSession, Depends(transaction, scope="function")]
Maker = Annotated[Sessions, Depends(maker)]
Engine = Annotated[AsyncEngine, Depends(engine_of)]
