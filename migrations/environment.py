"""What both services' Alembic environments do."""

from __future__ import annotations

from alembic import context


def run() -> None:
    config = context.config
    context.configure(
        connection=config.attributes["connection"],
        version_table_schema=config.attributes["schema"],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
