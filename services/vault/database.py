"""The vault's connection pool. Every transaction is opened by the step that needs it and holds no network call."""

from __future__ import annotations

from sqlalchemy import exc
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
