"""Sealing cycle, manifests and the transparency log."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE vault.keys (
    purpose varchar(16) PRIMARY KEY CHECK (purpose IN ('receipt', 'log')),
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    act uuid NOT NULL UNIQUE,
    since timestamptz NOT NULL
);
CREATE TABLE vault.enrolments (
    key_id char(64) PRIMARY KEY,
    recorder uuid NOT NULL,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    act uuid NOT NULL UNIQUE,
    enrolled_at timestamptz NOT NULL
);
CREATE TABLE vault.recordings (
    id uuid PRIMARY KEY,
    source uuid NOT NULL,
    key_id char(64) NOT NULL REFERENCES vault.enrolments,
    started_at timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,
    state varchar(8) NOT NULL CHECK (state IN ('open', 'closed'))
);
CREATE TABLE vault.segments (
    recording_id uuid NOT NULL REFERENCES vault.recordings,
    sequence integer NOT NULL CHECK (sequence >= 0),
    sha256 char(64) NOT NULL,
    size integer NOT NULL CHECK (size > 0),
    media varchar(8) NOT NULL CHECK (media IN ('init', 'media')),
    started_at timestamptz NOT NULL,
    duration_ms integer NOT NULL CHECK (duration_ms >= 0),
    monotonic_ms bigint NOT NULL,
    key varchar(256) NOT NULL,
    retain_until timestamptz NOT NULL,
    asked_at timestamptz NOT NULL,
    state varchar(8) NOT NULL CHECK (state IN ('asked', 'sealed')),
    version varchar(64),
    sealed_at timestamptz,
    receipt jsonb,
    statement_act uuid,
    PRIMARY KEY (recording_id, sequence, sha256),
    CHECK ((state = 'sealed') = (version IS NOT NULL AND sealed_at IS NOT NULL AND receipt IS NOT NULL))
);
-- What the minute statements still have to tell; empty but for the last minute of live recordings.
CREATE INDEX segments_unstated ON vault.segments (sealed_at, recording_id)
    WHERE state = 'sealed' AND statement_act IS NULL;
CREATE TABLE vault.manifests (
    recording_id uuid NOT NULL REFERENCES vault.recordings,
    number integer NOT NULL CHECK (number >= 0),
    envelope bytea NOT NULL,
    sha256 char(64) NOT NULL,
    closing jsonb NOT NULL,
    segments integer NOT NULL,
    media_bytes bigint NOT NULL,
    ended_at timestamptz NOT NULL,
    closed_at timestamptz NOT NULL,
    key varchar(256) NOT NULL,
    version varchar(64),
    act uuid NOT NULL UNIQUE,
    PRIMARY KEY (recording_id, number)
);
CREATE INDEX manifests_unsealed ON vault.manifests (closed_at) WHERE version IS NULL;
CREATE TABLE vault.log_pending (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    act uuid NOT NULL UNIQUE,
    statement bytea NOT NULL,
    salt bytea NOT NULL CHECK (octet_length(salt) = 32)
);
CREATE TABLE vault.log_entries (
    position bigint PRIMARY KEY CHECK (position >= 0),
    act uuid NOT NULL UNIQUE,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    salt bytea NOT NULL,
    statement bytea NOT NULL
);
CREATE TABLE vault.log_tiles (
    level smallint NOT NULL,
    number bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (level, number)
);
CREATE TABLE vault.log_head (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    size bigint NOT NULL,
    root bytea NOT NULL,
    checkpoint text NOT NULL,
    published_size bigint NOT NULL CHECK (published_size <= size)
);
"""

GRANTS = """
GRANT SELECT, INSERT ON vault.keys, vault.enrolments, vault.log_entries TO quancheng_vault;
GRANT SELECT, INSERT ON vault.recordings, vault.segments, vault.manifests TO quancheng_vault;
GRANT UPDATE (state) ON vault.recordings TO quancheng_vault;
GRANT UPDATE (state, version, sealed_at, receipt, statement_act) ON vault.segments TO quancheng_vault;
GRANT UPDATE (version) ON vault.manifests TO quancheng_vault;
GRANT SELECT, INSERT, DELETE ON vault.log_pending TO quancheng_vault;
GRANT SELECT, INSERT, UPDATE ON vault.log_tiles, vault.log_head TO quancheng_vault;
"""


def upgrade() -> None:
    for part in (TABLES, GRANTS):
        for statement in part.split(";\n"):
            if statement.strip():
                op.execute(statement)
