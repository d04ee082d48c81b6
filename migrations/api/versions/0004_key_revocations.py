"""Recorders' keys that were revoked."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE api.recorder_keys ADD COLUMN revoked_at timestamptz,"
    " ADD COLUMN revoked_code varchar(16) CHECK (revoked_code IN ('compromised', 'lost', 'withdrawn')),"
    " ADD COLUMN revoked_reason varchar(500), ADD COLUMN revocation_index bigint,"
    " ADD CHECK ((revoked_at IS NULL) = (revoked_code IS NULL)),"
    " ADD CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL)),"
    " ADD CHECK (revocation_index IS NULL OR revoked_at IS NOT NULL)",
    # Revocations that the vault does not know yet, and what is open under a key, which is few of many.
    "CREATE INDEX recorder_keys_untold ON api.recorder_keys (revoked_at)"
    " WHERE revoked_at IS NOT NULL AND revocation_index IS NULL",
    "CREATE INDEX recorder_keys_of_recorder ON api.recorder_keys (recorder_id)",
    "CREATE INDEX recordings_open_by_key ON api.recordings (key_id) WHERE state = 'open'",
    "GRANT UPDATE (revoked_at, revoked_code, revoked_reason, revocation_index) ON api.recorder_keys TO quancheng_api",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
