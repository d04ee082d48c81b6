"""People, recorders, recordings, viewings and exports."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE api.units (
    id uuid PRIMARY KEY,
    name varchar(128) NOT NULL
);
CREATE TABLE api.people (
    id uuid PRIMARY KEY,
    unit_id uuid NOT NULL REFERENCES api.units,
    login varchar(64) NOT NULL UNIQUE,
    name varchar(64) NOT NULL,
    role varchar(16) NOT NULL CHECK (role IN ('officer', 'supervisor', 'administrator')),
    password_hash varchar(256) NOT NULL
);
CREATE TABLE api.sessions (
    token_sha256 bytea PRIMARY KEY,
    person_id uuid NOT NULL REFERENCES api.people,
    csrf varchar(64) NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_person ON api.sessions (person_id);
CREATE TABLE api.sign_in_failures (
    id uuid PRIMARY KEY,
    login_sha256 bytea NOT NULL,
    address varchar(64) NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX sign_in_failures_of ON api.sign_in_failures (address, at);
CREATE INDEX sign_in_failures_at ON api.sign_in_failures (at);
CREATE TABLE api.recorders (
    id uuid PRIMARY KEY,
    unit_id uuid NOT NULL REFERENCES api.units,
    officer_id uuid REFERENCES api.people,
    name varchar(64) NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX recorders_unit ON api.recorders (unit_id, id);
CREATE TABLE api.enrolment_codes (
    code_sha256 bytea PRIMARY KEY,
    recorder_id uuid NOT NULL REFERENCES api.recorders,
    expires_at timestamptz NOT NULL,
    used_by char(64)
);
CREATE TABLE api.recorder_keys (
    key_id char(64) PRIMARY KEY,
    recorder_id uuid NOT NULL REFERENCES api.recorders,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    model varchar(64) NOT NULL,
    enrolled_at timestamptz NOT NULL,
    log_index bigint
);
CREATE TABLE api.recordings (
    id uuid PRIMARY KEY,
    recorder_id uuid NOT NULL REFERENCES api.recorders,
    unit_id uuid NOT NULL REFERENCES api.units,
    officer_id uuid REFERENCES api.people,
    key_id char(64) NOT NULL REFERENCES api.recorder_keys,
    state varchar(8) NOT NULL CHECK (state IN ('open', 'closed')),
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    last_segment_at timestamptz,
    segments integer NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    duration_ms bigint NOT NULL DEFAULT 0,
    lock varchar(16),
    manifest_sha256 char(64),
    manifest_act uuid,
    watched_until timestamptz,
    CHECK ((state = 'closed') = (manifest_sha256 IS NOT NULL AND ended_at IS NOT NULL))
);
CREATE INDEX recordings_of_unit ON api.recordings (unit_id, state DESC, id DESC);
CREATE INDEX recordings_of_officer ON api.recordings (officer_id, state DESC, id DESC);
CREATE TABLE api.segments (
    recording_id uuid NOT NULL REFERENCES api.recordings,
    sequence integer NOT NULL,
    sha256 char(64) NOT NULL,
    size integer NOT NULL,
    media varchar(8) NOT NULL,
    started_at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    received_at timestamptz NOT NULL,
    sealed_at timestamptz NOT NULL,
    lock varchar(16) NOT NULL,
    key_id char(64) NOT NULL,
    beside boolean NOT NULL DEFAULT false,
    PRIMARY KEY (recording_id, sequence, sha256)
);
CREATE TABLE api.outbox (
    act uuid PRIMARY KEY,
    kind varchar(16) NOT NULL,
    fields jsonb NOT NULL,
    at timestamptz NOT NULL,
    log_index bigint
);
CREATE INDEX outbox_untold ON api.outbox (at) WHERE log_index IS NULL;
CREATE TABLE api.viewings (
    id uuid PRIMARY KEY REFERENCES api.outbox,
    recording_id uuid NOT NULL REFERENCES api.recordings,
    person_id uuid NOT NULL REFERENCES api.people,
    purpose varchar(16) NOT NULL,
    note varchar(500),
    at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    first_sequence integer NOT NULL
);
CREATE INDEX viewings_of ON api.viewings (recording_id, at);
CREATE TABLE api.exports (
    id uuid PRIMARY KEY REFERENCES api.outbox,
    recording_id uuid NOT NULL REFERENCES api.recordings,
    person_id uuid NOT NULL REFERENCES api.people,
    purpose varchar(16) NOT NULL,
    note varchar(500),
    at timestamptz NOT NULL
);
CREATE INDEX exports_of ON api.exports (recording_id, at);
"""

GRANTS = """
GRANT SELECT, INSERT ON api.units, api.people, api.recorders, api.segments TO quancheng_api;
GRANT SELECT, INSERT ON api.viewings, api.exports, api.outbox, api.recordings TO quancheng_api;
GRANT SELECT, INSERT ON api.enrolment_codes, api.recorder_keys TO quancheng_api;
GRANT SELECT, INSERT, DELETE ON api.sessions, api.sign_in_failures TO quancheng_api;
GRANT UPDATE (beside) ON api.segments TO quancheng_api;
GRANT UPDATE (log_index) ON api.outbox, api.recorder_keys TO quancheng_api;
GRANT UPDATE (used_by) ON api.enrolment_codes TO quancheng_api;
GRANT UPDATE (state, ended_at, last_segment_at, segments, bytes, duration_ms, lock, manifest_sha256,
    manifest_act, watched_until) ON api.recordings TO quancheng_api;
"""


def upgrade() -> None:
    for part in (TABLES, GRANTS):
        for statement in part.split(";\n"):
            if statement.strip():
                op.execute(statement)
