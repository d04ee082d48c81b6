"""The queue of the vault's jobs.

The tables are those of pgqueuer 1.6 (MIT licence, Copyright (c) 2023 JeyBee) as its own `pgq install` makes them in
the schema `vault`; `services.jobs.names` calls them the same.
"""

from alembic import op

from migrations.queue import STATEMENTS, of

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(of("vault", "quancheng_vault", statement))
