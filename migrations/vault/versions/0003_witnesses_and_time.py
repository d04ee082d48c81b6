"""Published checkpoints, what witnesses cosigned of them, and tokens of time-stamping authorities."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE vault.checkpoints (
    size bigint PRIMARY KEY CHECK (size > 0),
    note text NOT NULL,
    at timestamptz NOT NULL,
    policy char(16),
    published_lines smallint
);
-- The newest checkpoint that meets a policy is one step away, however long ago that was.
CREATE INDEX checkpoints_meeting ON vault.checkpoints (policy, size) WHERE policy IS NOT NULL;
CREATE INDEX checkpoints_published ON vault.checkpoints (size) WHERE published_lines IS NOT NULL;
CREATE TABLE vault.cosignatures (
    size bigint NOT NULL REFERENCES vault.checkpoints,
    witness varchar(300) NOT NULL,
    line text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (size, witness)
);
CREATE TABLE vault.witnesses (
    witness varchar(300) PRIMARY KEY,
    size bigint NOT NULL,
    away_since timestamptz,
    reason varchar(64),
    tries integer NOT NULL,
    next_try_at timestamptz NOT NULL,
    CHECK ((away_since IS NULL) = (reason IS NULL))
);
CREATE TABLE vault.authorities (
    tsa char(64) PRIMARY KEY,
    certificate bytea NOT NULL,
    since timestamptz NOT NULL
);
CREATE TABLE vault.timestamps (
    size bigint PRIMARY KEY REFERENCES vault.checkpoints,
    minute timestamptz NOT NULL UNIQUE,
    checkpoint bytea NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    requested_at timestamptz NOT NULL,
    tries integer NOT NULL,
    next_try_at timestamptz,
    token bytea,
    tsa char(64) REFERENCES vault.authorities,
    stamped_at timestamptz,
    got_at timestamptz,
    sealed_at timestamptz,
    CHECK ((token IS NULL) = (tsa IS NULL) AND (token IS NULL) = (got_at IS NULL)),
    CHECK ((token IS NULL) = (stamped_at IS NULL) AND (sealed_at IS NULL OR token IS NOT NULL))
);
CREATE INDEX timestamps_waiting ON vault.timestamps (size) WHERE token IS NULL AND next_try_at IS NOT NULL;
CREATE INDEX timestamps_unsealed ON vault.timestamps (size) WHERE token IS NOT NULL AND sealed_at IS NULL;
CREATE INDEX timestamps_had ON vault.timestamps (size) WHERE token IS NOT NULL;
"""

GRANTS = """
GRANT SELECT, INSERT ON vault.checkpoints, vault.cosignatures, vault.authorities, vault.timestamps TO quancheng_vault;
GRANT UPDATE (policy, published_lines) ON vault.checkpoints TO quancheng_vault;
GRANT SELECT, INSERT, UPDATE ON vault.witnesses TO quancheng_vault;
GRANT UPDATE (tries, next_try_at, token, tsa, stamped_at, got_at, sealed_at) ON vault.timestamps TO quancheng_vault;
"""


def upgrade() -> None:
    for part in (TABLES, GRANTS):
        for statement in part.split(";\n"):
            if statement.strip():
                op.execute(statement)
