"""Files that terminals took over from recorders: what, when, why not live, and whether the whole was compared."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE api.takeovers (
    recording_id uuid PRIMARY KEY REFERENCES api.recordings,
    at timestamptz NOT NULL,
    reason varchar(24) NOT NULL CHECK (reason IN ('no-link', 'device-cannot-stream', 'recovered', 'other')),
    note varchar(500),
    file_name varchar(500) NOT NULL,
    format varchar(8) NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    sha256 char(64) NOT NULL,
    modified_at timestamptz,
    created_at timestamptz,
    root char(64),
    checked_at timestamptz,
    differs boolean NOT NULL DEFAULT false,
    CHECK ((root IS NULL) = (checked_at IS NULL))
)
""",
    "GRANT SELECT, INSERT ON api.takeovers TO quancheng_api",
    "GRANT UPDATE (root, checked_at, differs) ON api.takeovers TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
