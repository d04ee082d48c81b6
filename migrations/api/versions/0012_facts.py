"""What is found in closed recordings, and why the server closed one."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE api.recordings ADD COLUMN close_reason varchar(12)",
    "GRANT UPDATE (close_reason) ON api.recordings TO quancheng_api",
    """
CREATE TABLE api.detections (
    recording_id uuid NOT NULL REFERENCES api.recordings,
    number integer NOT NULL,
    done_at timestamptz NOT NULL,
    detector varchar(80),
    not_looked varchar(20),
    found integer NOT NULL,
    PRIMARY KEY (recording_id, number)
)
""",
    """
CREATE TABLE api.stretches (
    id uuid PRIMARY KEY,
    recording_id uuid NOT NULL,
    number integer NOT NULL,
    kind varchar(12) NOT NULL CHECK (kind IN ('black', 'covered', 'frozen', 'silent', 'no-picture', 'no-sound')),
    from_at timestamptz,
    to_at timestamptz,
    from_ms bigint NOT NULL,
    to_ms bigint NOT NULL CHECK (to_ms >= from_ms),
    CHECK ((from_at IS NULL) = (to_at IS NULL)),
    FOREIGN KEY (recording_id, number) REFERENCES api.detections
)
""",
    "CREATE INDEX stretches_of ON api.stretches (recording_id, number)",
    "GRANT SELECT, INSERT ON api.detections, api.stretches TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
