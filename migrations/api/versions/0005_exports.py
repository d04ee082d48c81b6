"""An export is of any number of recordings."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
CREATE TABLE api.exported_recordings (
    export_id uuid NOT NULL REFERENCES api.exports,
    recording_id uuid NOT NULL REFERENCES api.recordings,
    PRIMARY KEY (export_id, recording_id)
)
""",
    "INSERT INTO api.exported_recordings (export_id, recording_id) SELECT id, recording_id FROM api.exports",
    "CREATE INDEX exports_of_recording ON api.exported_recordings (recording_id, export_id)",
    "GRANT SELECT, INSERT ON api.exported_recordings TO quancheng_api",
    "ALTER TABLE api.exports DROP COLUMN recording_id, ADD COLUMN copies boolean NOT NULL DEFAULT false",
    "CREATE INDEX exports_of_person ON api.exports (person_id, id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
