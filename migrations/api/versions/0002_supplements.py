"""Who closed a recording, how many supplements it has, and which silent ones were tried."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE api.recordings ADD COLUMN closed_by varchar(8) CHECK (closed_by IN ('terminal', 'server')),"
    " ADD COLUMN supplements integer NOT NULL DEFAULT 0 CHECK (supplements >= 0),"
    " ADD COLUMN tried_at timestamptz",
    "UPDATE api.recordings SET closed_by = 'terminal' WHERE state = 'closed'",
    "ALTER TABLE api.recordings ADD CHECK ((state = 'closed') = (closed_by IS NOT NULL))",
    "CREATE INDEX recordings_open ON api.recordings (tried_at NULLS FIRST) WHERE state = 'open'",
    "GRANT UPDATE (closed_by, supplements, tried_at) ON api.recordings TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
