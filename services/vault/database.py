"""The vault's connection pool. Every transaction is opened by the step that needs it and holds no network call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import exc, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.vault.settings import Settings

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


async def drift(engine: AsyncEngine) -> timedelta:
    """How far the database's clock surely is from ours: positive where it is ahead."""
    async with engine.connect() as db:
        asked = datetime.now(UTC)
        clock: datetime = (await db.execute(select(func.clock_timestamp()))).scalar_one()
        answered = datetime.now(UTC)
    return max(clock - answered, timedelta()) or -max(asked - clock, timedelta())
