"""Conflicts in the log; looking for what nobody committed; supplements; closing by the server; series."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Another digest of the sequence was sealed already: the statement that tells so.
    "ALTER TABLE vault.segments ADD COLUMN conflict_act uuid",
    # When the last ticket was given, and when to look whether its bytes came after all.
    "ALTER TABLE vault.segments ADD COLUMN ticket_at timestamptz, ADD COLUMN sweep_at timestamptz",
    "UPDATE vault.segments SET ticket_at = asked_at, sweep_at = now() WHERE state = 'asked'",
    "ALTER TABLE vault.segments DROP CONSTRAINT segments_state_check",
    "ALTER TABLE vault.segments ADD CHECK (state IN ('asked', 'lapsed', 'sealed'))",
    "ALTER TABLE vault.segments ADD CHECK ((state = 'asked') = (sweep_at IS NOT NULL))",
    "ALTER TABLE vault.segments ADD CHECK (state = 'sealed' OR ticket_at IS NOT NULL)",
    "CREATE INDEX segments_to_sweep ON vault.segments (sweep_at) WHERE state = 'asked'",
    "GRANT UPDATE (conflict_act, ticket_at, sweep_at) ON vault.segments TO quancheng_vault",
    """
CREATE TABLE vault.strays (
    key varchar(1024) NOT NULL,
    version varchar(64) NOT NULL,
    recording_id uuid NOT NULL REFERENCES vault.recordings,
    size bigint NOT NULL,
    why varchar(16) NOT NULL CHECK (why IN ('unknown', 'differs', 'other-version', 'deleted')),
    found_at timestamptz NOT NULL,
    PRIMARY KEY (key, version)
)
""",
    "GRANT SELECT, INSERT ON vault.strays TO quancheng_vault",
    # A source that cannot sign has no key. What comes after a closing opens the recording's next number.
    "ALTER TABLE vault.recordings ALTER COLUMN key_id DROP NOT NULL,"
    " ADD COLUMN number integer NOT NULL DEFAULT 0 CHECK (number BETWEEN 0 AND 9999),"
    " ADD COLUMN active_at timestamptz NOT NULL DEFAULT now()",
    "CREATE INDEX recordings_supplemented ON vault.recordings (id) WHERE state = 'open' AND number > 0",
    "GRANT UPDATE (number, active_at) ON vault.recordings TO quancheng_vault",
    "ALTER TABLE vault.segments ADD COLUMN number integer NOT NULL DEFAULT 0",
    "GRANT UPDATE (number) ON vault.segments TO quancheng_vault",
    "ALTER TABLE vault.manifests ALTER COLUMN closing DROP NOT NULL",
    # Versions of a document or another single file are sealed as a recording's segments are, and never closed.
    "ALTER TABLE vault.recordings ADD COLUMN kind varchar(9) NOT NULL DEFAULT 'recording'"
    " CHECK (kind IN ('recording', 'series')), ADD CHECK (kind = 'recording' OR (state = 'open' AND number = 0))",
    "ALTER TABLE vault.segments DROP CONSTRAINT segments_media_check",
    "ALTER TABLE vault.segments ADD CHECK (media IN ('init', 'media', 'file')),"
    " ADD COLUMN metadata_sha256 char(64) CHECK (media = 'file' OR metadata_sha256 IS NULL)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
