"""What a viewing of a running recording has passed over."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE api.viewings ADD COLUMN passed jsonb NOT NULL DEFAULT '[]'",
    "GRANT UPDATE (passed) ON api.viewings TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
