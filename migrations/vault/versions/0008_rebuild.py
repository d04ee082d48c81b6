"""What a rebuild from the bucket leaves on record, and by what it finds a term that it has told before."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE vault.terms ADD COLUMN act uuid UNIQUE",
    # What the log had signed beyond `size` before `at` is lost: whoever holds it tells it again.
    """
CREATE TABLE vault.rebuilds (
    at timestamptz PRIMARY KEY,
    size bigint NOT NULL CHECK (size >= 0),
    published_size bigint NOT NULL CHECK (published_size <= size)
)
""",
    "GRANT SELECT ON vault.rebuilds TO quancheng_vault",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
