"""Resumable uploads: what came of each, what of it is sealed, and who may add to it."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE api.recordings
    DROP CONSTRAINT recordings_door_check,
    DROP CONSTRAINT recordings_container_check,
    ADD CONSTRAINT recordings_door_check CHECK (door IN ('direct', 'push', 'resumable')),
    ADD CONSTRAINT recordings_container_check CHECK (container IN ('fmp4', 'ts', 'file')),
    ADD COLUMN format varchar(8) NOT NULL DEFAULT 'mp4'
""",
    "UPDATE api.recordings SET format = 'ts' WHERE container = 'ts'",
    """
CREATE TABLE api.uploads (
    id uuid PRIMARY KEY,
    address_id uuid NOT NULL REFERENCES api.push_addresses,
    kind varchar(8) NOT NULL CHECK (kind IN ('single', 'partial', 'final')),
    parts uuid[],
    state varchar(10) NOT NULL CHECK (state IN ('open', 'complete', 'cancelled', 'expired', 'lost')),
    by_length boolean NOT NULL,
    length bigint CHECK (length >= 0),
    received bigint NOT NULL DEFAULT 0,
    sealed bigint NOT NULL DEFAULT 0,
    segments integer NOT NULL DEFAULT 0,
    epoch integer NOT NULL DEFAULT 0,
    tail varchar(32),
    tail_sha256 char(64),
    pending_sha256 char(64),
    pending_size integer,
    pending_ends boolean NOT NULL DEFAULT false,
    format varchar(8),
    file_name varchar(255),
    content_type varchar(255),
    metadata varchar(4096),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    completed_at timestamptz,
    whole_sha256 char(64),
    closed boolean NOT NULL DEFAULT false,
    CHECK (received BETWEEN sealed AND sealed + 8388608),
    CHECK ((tail IS NULL) = (received = sealed) AND (tail IS NULL) = (tail_sha256 IS NULL)),
    CHECK ((pending_sha256 IS NULL) = (pending_size IS NULL)),
    CHECK ((kind = 'final') = (parts IS NOT NULL)),
    CHECK (state <> 'complete' OR (completed_at IS NOT NULL AND received = sealed AND length = received)),
    CHECK (length IS NULL OR received <= length)
)
""",
    "CREATE INDEX uploads_open_of ON api.uploads (address_id) WHERE state = 'open'",
    "CREATE INDEX uploads_expire ON api.uploads (expires_at) WHERE state = 'open'",
    "GRANT SELECT, INSERT ON api.uploads TO quancheng_api",
    "GRANT UPDATE (state, length, received, sealed, segments, epoch, tail, tail_sha256, pending_sha256, pending_size,"
    " pending_ends, format, expires_at, completed_at, whole_sha256, closed) ON api.uploads TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
