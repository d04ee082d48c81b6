"""Bring one service's schema up to date: `QUANCHENG_OWNER_DSN=… python -m migrations.run api|vault`.

Runs as the owner role, which the services themselves never use. An advisory lock lets any number of
starts run this at once; each revision is one transaction, so a killed run is simply run again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

SERVICES = ("api", "vault")


def _upgrade(connection: Connection, service: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / service))
    config.attributes["connection"] = connection
    config.attributes["schema"] = service
    command.upgrade(config, "head")


async def upgrade(dsn: str, service: str) -> None:
    """Upgrade `service` ("api" or "vault") to its newest revision."""
    engine = create_async_engine(dsn)
    try:
        async with engine.connect() as connection:
            lock = {"service": f"quancheng-migrations-{service}"}
            await connection.execute(text("SELECT pg_advisory_lock(hashtext(:service))"), lock)
            await connection.commit()
            try:
                await connection.run_sync(_upgrade, service)
                await connection.commit()
            finally:
                await connection.rollback()
                await connection.execute(text("SELECT pg_advisory_unlock(hashtext(:service))"), lock)
    finally:
        await engine.dispose()


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES or "QUANCHENG_OWNER_DSN" not in os.environ:
        print(__doc__, file=sys.stderr)
        return 64
    asyncio.run(upgrade(os.environ["QUANCHENG_OWNER_DSN"], sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
