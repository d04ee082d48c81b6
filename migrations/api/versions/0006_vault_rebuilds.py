"""Rebuilds of the vault's database that the api has answered to."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE TABLE api.vault_rebuilds (at timestamptz PRIMARY KEY, size bigint NOT NULL CHECK (size >= 0))",
    "GRANT SELECT, INSERT ON api.vault_rebuilds TO quancheng_api",
    # What a rebuild lost is found without a look at what it kept.
    "CREATE INDEX outbox_by_index ON api.outbox (log_index)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
