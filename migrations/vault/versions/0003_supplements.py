"""Conflicts told in the log."""

from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Another digest of the sequence was sealed already: the statement that tells so.
    "ALTER TABLE vault.segments ADD COLUMN conflict_act uuid",
    "GRANT UPDATE (conflict_act) ON vault.segments TO quancheng_vault",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
