"""While the flag of a hold is being changed in the store, its row says neither."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE vault.segments ALTER COLUMN held DROP NOT NULL",
    "ALTER TABLE vault.manifests ALTER COLUMN held DROP NOT NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
