"""What terminals last told: that they are there, how full their spools are, and what they hold of each recording."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE api.heartbeats (
    key_id char(64) PRIMARY KEY REFERENCES api.recorder_keys,
    recorder_id uuid NOT NULL REFERENCES api.recorders,
    received_at timestamptz NOT NULL,
    run uuid NOT NULL,
    monotonic_ms bigint NOT NULL,
    device_time timestamptz NOT NULL,
    clock_offset_ms bigint NOT NULL,
    noted_offset_ms bigint NOT NULL DEFAULT 0,
    state varchar(12) NOT NULL CHECK (state IN ('recording', 'draining', 'stopped')),
    capturing boolean NOT NULL,
    spool_used bigint NOT NULL,
    spool_limit bigint NOT NULL,
    spool_full boolean NOT NULL,
    unheard integer NOT NULL
) WITH (fillfactor = 50)
""",
    "CREATE INDEX heartbeats_of ON api.heartbeats (recorder_id)",
    """
CREATE TABLE api.held_recordings (
    recording_id uuid PRIMARY KEY REFERENCES api.recordings,
    told_at timestamptz NOT NULL,
    live boolean NOT NULL,
    next_sequence integer NOT NULL,
    pending integer NOT NULL,
    pending_bytes bigint NOT NULL,
    pending_ms bigint NOT NULL,
    oldest_at timestamptz,
    skipped integer NOT NULL
) WITH (fillfactor = 70)
""",
    """
CREATE TABLE api.clock_offsets (
    id uuid PRIMARY KEY,
    recorder_id uuid NOT NULL REFERENCES api.recorders,
    key_id char(64) NOT NULL REFERENCES api.recorder_keys,
    noted_at timestamptz NOT NULL,
    device_time timestamptz NOT NULL,
    offset_ms bigint NOT NULL
)
""",
    "CREATE INDEX clock_offsets_of ON api.clock_offsets (recorder_id, noted_at)",
    "GRANT SELECT, INSERT, UPDATE ON api.heartbeats, api.held_recordings TO quancheng_api",
    "GRANT SELECT, INSERT ON api.clock_offsets TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
