"""What a kept file is: its checksum and size, against which samples of it are held; how far tiles are pruned."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Of files kept before this nothing is known but that they are there and locked.
    "ALTER TABLE vault.kept_files ADD COLUMN sha256 char(64) CHECK (sha256 ~ '^[0-9a-f]{64}$'),"
    " ADD COLUMN size bigint CHECK (size >= 0), ADD CHECK ((sha256 IS NULL) = (size IS NULL))",
    "ALTER TABLE vault.log_head ADD COLUMN pruned_size bigint NOT NULL DEFAULT 0 CHECK (pruned_size >= 0)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
