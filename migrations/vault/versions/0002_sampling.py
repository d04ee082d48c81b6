"""Alarms: what the vault found to be otherwise than it should, while running."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE vault.alarms (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind varchar(64) NOT NULL CHECK (kind ~ '^[a-z][a-z0-9-]+$'),
    subject varchar(512) NOT NULL,
    detail text NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL CHECK (last_seen >= first_seen),
    cleared_at timestamptz CHECK (cleared_at >= first_seen)
)
""",
    # What is wrong now is one row, however often it is seen; what was wrong stays on record.
    "CREATE UNIQUE INDEX alarms_standing ON vault.alarms (kind, subject) WHERE cleared_at IS NULL",
    "CREATE INDEX alarms_standing_since ON vault.alarms (last_seen, place) WHERE cleared_at IS NULL",
    "GRANT SELECT, INSERT, UPDATE (detail, last_seen, cleared_at) ON vault.alarms TO quancheng_vault",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
