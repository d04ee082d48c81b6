"""Where a recording comes from: kinds of source, push addresses, what a push brought, gaps."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE api.recorders ADD COLUMN kind varchar(16) NOT NULL DEFAULT 'recorder'
    CHECK (kind IN ('recorder', 'dock', 'phone', 'encoder', 'gateway', 'hall-camera', 'instrument'))
""",
    """
CREATE TABLE api.push_addresses (
    id uuid PRIMARY KEY,
    recorder_id uuid NOT NULL REFERENCES api.recorders,
    token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
    remuxed_by varchar(64),
    made_by uuid NOT NULL REFERENCES api.people,
    made_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_by uuid REFERENCES api.people,
    revoked_at timestamptz
)
""",
    "CREATE INDEX push_addresses_of ON api.push_addresses (recorder_id, made_at DESC)",
    """
ALTER TABLE api.recordings
    ALTER COLUMN key_id DROP NOT NULL,
    ADD COLUMN door varchar(12) NOT NULL DEFAULT 'direct' CHECK (door IN ('direct', 'push')),
    ADD COLUMN container varchar(8) NOT NULL DEFAULT 'fmp4' CHECK (container IN ('fmp4', 'ts')),
    ADD COLUMN remuxed_by varchar(64),
    ADD COLUMN address_id uuid REFERENCES api.push_addresses,
    ADD COLUMN rendition varchar(64) NOT NULL DEFAULT '',
    ADD COLUMN init_sha256 char(64),
    ADD COLUMN next_sequence integer NOT NULL DEFAULT 0,
    ADD COLUMN push_epoch integer NOT NULL DEFAULT 0,
    ADD COLUMN push_until timestamptz,
    ADD CHECK ((door = 'direct') = (key_id IS NOT NULL)),
    ADD CHECK ((door = 'push') = (address_id IS NOT NULL AND push_until IS NOT NULL))
""",
    "CREATE UNIQUE INDEX recordings_pushed_now ON api.recordings (address_id, rendition) WHERE state = 'open'",
    "CREATE INDEX recordings_pushed ON api.recordings (address_id, rendition, id DESC)",
    "CREATE INDEX recordings_push_until ON api.recordings (push_until) WHERE state = 'open'",
    "ALTER TABLE api.segments ADD COLUMN begins_anew boolean NOT NULL DEFAULT false",
    """
CREATE TABLE api.pushed_names (
    recording_id uuid NOT NULL REFERENCES api.recordings,
    epoch integer NOT NULL,
    name_sha256 bytea NOT NULL CHECK (octet_length(name_sha256) = 32),
    sequence integer NOT NULL,
    sha256 char(64) NOT NULL,
    started_at timestamptz NOT NULL,
    begins_anew boolean NOT NULL,
    PRIMARY KEY (recording_id, epoch, name_sha256)
)
""",
    """
CREATE TABLE api.gaps (
    id uuid PRIMARY KEY,
    recording_id uuid NOT NULL REFERENCES api.recordings,
    kind varchar(16) NOT NULL CHECK (kind IN ('disconnected', 'not-sealed')),
    before_sequence integer NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    noted_at timestamptz NOT NULL
)
""",
    "CREATE INDEX gaps_of ON api.gaps (recording_id, before_sequence)",
    "GRANT SELECT, INSERT ON api.push_addresses, api.pushed_names, api.gaps TO quancheng_api",
    "GRANT UPDATE (revoked_by, revoked_at) ON api.push_addresses TO quancheng_api",
    "GRANT UPDATE (init_sha256, next_sequence, push_epoch, push_until) ON api.recordings TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
