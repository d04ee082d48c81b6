"""Single files with their versions; who handed footage over, and requests for footage."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE api.footage_requests (
    id uuid PRIMARY KEY,
    unit_id uuid NOT NULL REFERENCES api.units,
    asked_by uuid NOT NULL REFERENCES api.people,
    asked_at timestamptz NOT NULL,
    reason varchar(500) NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    kept_until timestamptz NOT NULL,
    state varchar(12) NOT NULL CHECK (state IN ('asked', 'handed-over', 'refused')),
    answered_by uuid REFERENCES api.people,
    answered_at timestamptz,
    answer varchar(500),
    CHECK (from_at < to_at),
    CHECK ((state = 'asked') = (answered_at IS NULL) AND (answered_at IS NULL) = (answered_by IS NULL)),
    CHECK ((state = 'refused') = (answer IS NOT NULL))
)
""",
    "CREATE INDEX footage_requests_lapse ON api.footage_requests (unit_id, kept_until, id) WHERE state = 'asked'",
    "CREATE INDEX footage_requests_done ON api.footage_requests (unit_id, answered_at, id) WHERE state <> 'asked'",
    """
CREATE TABLE api.requested_cameras (
    request_id uuid NOT NULL REFERENCES api.footage_requests,
    source_id uuid NOT NULL REFERENCES api.recorders,
    PRIMARY KEY (request_id, source_id)
)
""",
    """
CREATE TABLE api.handovers (
    id uuid PRIMARY KEY,
    unit_id uuid NOT NULL REFERENCES api.units,
    source_id uuid NOT NULL REFERENCES api.recorders,
    request_id uuid REFERENCES api.footage_requests,
    hall varchar(128) NOT NULL,
    system varchar(128) NOT NULL,
    camera varchar(128) NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    handed_over_by varchar(64) NOT NULL,
    taken_over_by uuid NOT NULL REFERENCES api.people,
    taken_over_at timestamptz NOT NULL,
    export_sha256 char(64),
    noted_at timestamptz NOT NULL,
    CHECK (from_at < to_at)
)
""",
    "CREATE INDEX handovers_of_person ON api.handovers (taken_over_by, id)",
    "CREATE INDEX handovers_of_request ON api.handovers (request_id) WHERE request_id IS NOT NULL",
    """
CREATE TABLE api.files (
    id uuid PRIMARY KEY,
    unit_id uuid NOT NULL REFERENCES api.units,
    source_id uuid REFERENCES api.recorders,
    person_id uuid REFERENCES api.people,
    officer_id uuid REFERENCES api.people,
    key_sha256 bytea,
    kind varchar(8) NOT NULL CHECK (kind IN ('photo', 'sound', 'document', 'result')),
    about jsonb NOT NULL,
    handover_id uuid REFERENCES api.handovers,
    state varchar(8) NOT NULL CHECK (state IN ('awaiting', 'sealed')),
    version integer NOT NULL DEFAULT 0,
    trouble varchar(64),
    created_at timestamptz NOT NULL,
    CHECK ((source_id IS NULL) <> (person_id IS NULL)),
    CHECK ((state = 'sealed') = (version > 0))
)
""",
    "CREATE INDEX files_of_unit ON api.files (unit_id, id)",
    "CREATE INDEX files_of_officer ON api.files (officer_id, id)",
    "CREATE UNIQUE INDEX files_by_source_key ON api.files (source_id, key_sha256)",
    "CREATE UNIQUE INDEX files_by_person_key ON api.files (person_id, key_sha256)",
    "CREATE INDEX files_awaiting_of_source ON api.files (source_id) WHERE state = 'awaiting'",
    "CREATE INDEX files_awaiting_of_person ON api.files (person_id) WHERE state = 'awaiting'",
    """
CREATE TABLE api.file_versions (
    file_id uuid NOT NULL REFERENCES api.files,
    version integer NOT NULL CHECK (version > 0),
    sha256 char(64) NOT NULL,
    size integer NOT NULL,
    format varchar(4) NOT NULL,
    name varchar(255),
    about text NOT NULL,
    about_sha256 char(64) NOT NULL,
    facts varchar(32)[] NOT NULL,
    exif_time varchar(32),
    door varchar(10) NOT NULL CHECK (door IN ('simple', 'resumable')),
    address_id uuid REFERENCES api.push_addresses,
    person_id uuid REFERENCES api.people,
    received_at timestamptz NOT NULL,
    sealed_at timestamptz,
    lock varchar(16),
    key_id char(64),
    PRIMARY KEY (file_id, version),
    CHECK ((sealed_at IS NULL) = (lock IS NULL) AND (lock IS NULL) = (key_id IS NULL))
)
""",
    """
CREATE TABLE api.exported_files (
    export_id uuid NOT NULL REFERENCES api.exports,
    file_id uuid NOT NULL REFERENCES api.files,
    PRIMARY KEY (export_id, file_id)
)
""",
    "CREATE INDEX exports_of_file ON api.exported_files (file_id, export_id)",
    """
ALTER TABLE api.viewings
    ALTER COLUMN recording_id DROP NOT NULL,
    ADD COLUMN file_id uuid REFERENCES api.files,
    ADD COLUMN file_version integer,
    ADD CONSTRAINT viewings_of_one CHECK ((recording_id IS NULL) <> (file_id IS NULL)),
    ADD CONSTRAINT viewings_of_version CHECK ((file_id IS NULL) = (file_version IS NULL))
""",
    "CREATE INDEX viewings_of_file ON api.viewings (file_id, at) WHERE file_id IS NOT NULL",
    "ALTER TABLE api.recordings ADD COLUMN handover_id uuid REFERENCES api.handovers",
    "CREATE INDEX recordings_handed_over ON api.recordings (handover_id) WHERE handover_id IS NOT NULL",
    "CREATE INDEX files_handed_over ON api.files (handover_id) WHERE handover_id IS NOT NULL",
    """
ALTER TABLE api.uploads
    ADD COLUMN file_id uuid REFERENCES api.files,
    ADD COLUMN handover_id uuid REFERENCES api.handovers
""",
    "GRANT SELECT, INSERT ON api.footage_requests, api.requested_cameras, api.handovers TO quancheng_api",
    "GRANT UPDATE (state, answered_by, answered_at, answer) ON api.footage_requests TO quancheng_api",
    "GRANT SELECT, INSERT ON api.files, api.file_versions, api.exported_files TO quancheng_api",
    "GRANT UPDATE (state, version, trouble, about, handover_id) ON api.files TO quancheng_api",
    "GRANT UPDATE (sealed_at, lock, key_id) ON api.file_versions TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
