"""The vault's keys as a history, and enrolments that can be revoked."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CODES = "('compromised', 'lost', 'withdrawn')"

STATEMENTS = (
    "ALTER TABLE vault.keys ADD COLUMN key_id char(64), ADD COLUMN replaces char(64), ADD COLUMN succession jsonb,"
    " ADD COLUMN reason varchar(500) NOT NULL DEFAULT '', ADD COLUMN superseded_at timestamptz,"
    " ADD COLUMN retired_at timestamptz, ADD COLUMN retired_act uuid UNIQUE, ADD COLUMN revoked_at timestamptz,"
    " ADD COLUMN revoked_act uuid UNIQUE, ADD COLUMN revoked_code varchar(16),"
    " ADD COLUMN revoked_reason varchar(500)",
    "UPDATE vault.keys SET key_id = encode(sha256(public_key), 'hex')",
    "ALTER TABLE vault.keys DROP CONSTRAINT keys_pkey, ADD PRIMARY KEY (key_id),"
    " ADD CONSTRAINT keys_name_check CHECK (key_id = encode(sha256(public_key), 'hex')),"
    " ADD CONSTRAINT keys_replaces_key UNIQUE (replaces),"
    " ADD CONSTRAINT keys_replaces_fkey FOREIGN KEY (replaces) REFERENCES vault.keys,"
    " ADD CONSTRAINT keys_succession_check CHECK (succession IS NULL OR replaces IS NOT NULL),"
    " ADD CONSTRAINT keys_retired_check CHECK (retired_at IS NULL OR superseded_at IS NOT NULL),"
    " ADD CONSTRAINT keys_revoked_check CHECK ((revoked_at IS NULL) = (revoked_act IS NULL)"
    " AND (revoked_at IS NULL) = (revoked_code IS NULL) AND (revoked_at IS NULL) = (revoked_reason IS NULL)),"
    f" ADD CONSTRAINT keys_code_check CHECK (revoked_code IN {CODES})",
    # One key of a purpose signs, and of the log's at most one more signs beside it.
    "CREATE UNIQUE INDEX keys_current ON vault.keys (purpose) WHERE superseded_at IS NULL",
    "CREATE UNIQUE INDEX keys_retiring ON vault.keys (purpose)"
    " WHERE superseded_at IS NOT NULL AND retired_at IS NULL",
    "GRANT UPDATE (superseded_at, retired_at, retired_act, revoked_at, revoked_act, revoked_code, revoked_reason)"
    " ON vault.keys TO quancheng_vault",
    "ALTER TABLE vault.enrolments ADD COLUMN revoked_at timestamptz, ADD COLUMN revoked_act uuid UNIQUE,"
    " ADD CONSTRAINT enrolments_revoked_check CHECK ((revoked_at IS NULL) = (revoked_act IS NULL))",
    "GRANT UPDATE (revoked_at, revoked_act) ON vault.enrolments TO quancheng_vault",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
