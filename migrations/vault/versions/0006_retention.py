"""Terms and renewals, holds, custodians and their orders, disposal and tombstones."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    # `retain_until` is what the store was last asked for, `held` whether it was last asked to hold.
    "ALTER TABLE vault.segments ADD COLUMN held boolean NOT NULL DEFAULT false",
    "GRANT UPDATE (retain_until, held) ON vault.segments TO quancheng_vault",
    "ALTER TABLE vault.manifests ADD COLUMN retain_until timestamptz, ADD COLUMN held boolean NOT NULL DEFAULT false",
    "GRANT UPDATE (retain_until, held) ON vault.manifests TO quancheng_vault",
    "ALTER TABLE vault.recordings ALTER COLUMN state TYPE varchar(9), DROP CONSTRAINT recordings_state_check,"
    " ADD CONSTRAINT recordings_state_check CHECK (state IN ('open', 'closed', 'disposing', 'disposed')),"
    " ADD COLUMN keep_until timestamptz, ADD COLUMN permanent boolean NOT NULL DEFAULT false,"
    " ADD COLUMN renew_at timestamptz DEFAULT now()",
    "GRANT UPDATE (keep_until, permanent, renew_at) ON vault.recordings TO quancheng_vault",
    "CREATE INDEX recordings_to_renew ON vault.recordings (renew_at) WHERE renew_at IS NOT NULL",
    """
DO $$
DECLARE old record;
BEGIN
    FOR old IN SELECT conrelid::regclass AS tab, conname AS name FROM pg_constraint WHERE contype = 'c' AND (
        conrelid = 'vault.segments'::regclass AND pg_get_constraintdef(oid) LIKE '%state%'
        OR conrelid = 'vault.recordings'::regclass AND pg_get_constraintdef(oid) LIKE '%kind%state%'
    ) LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', old.tab, old.name);
    END LOOP;
END $$
""",
    "ALTER TABLE vault.segments"
    " ADD CONSTRAINT segments_state_check CHECK (state IN ('asked', 'lapsed', 'sealed', 'disposed')),"
    " ADD CONSTRAINT segments_sealed_check CHECK ((state IN ('sealed', 'disposed'))"
    " = (version IS NOT NULL AND sealed_at IS NOT NULL AND receipt IS NOT NULL)),"
    " ADD CONSTRAINT segments_sweep_check CHECK ((state = 'asked') = (sweep_at IS NOT NULL)),"
    " ADD CONSTRAINT segments_ticket_check CHECK (state IN ('sealed', 'disposed') OR ticket_at IS NOT NULL)",
    "ALTER TABLE vault.recordings ADD CONSTRAINT recordings_series_check"
    " CHECK (kind = 'recording' OR (state <> 'closed' AND number = 0))",
    # Sealed files that belong to no recording: the log's statements, checkpoints and tokens. Kept for good.
    """
CREATE TABLE vault.kept_files (
    key varchar(256) PRIMARY KEY,
    version varchar(64) NOT NULL,
    retain_until timestamptz NOT NULL
)
""",
    "CREATE INDEX kept_files_to_renew ON vault.kept_files (retain_until)",
    "GRANT SELECT, INSERT, UPDATE (retain_until) ON vault.kept_files TO quancheng_vault",
    """
CREATE TABLE vault.terms (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recording_id uuid NOT NULL REFERENCES vault.recordings,
    keep_until timestamptz,
    basis varchar(500) NOT NULL,
    schedule varchar(100),
    at timestamptz NOT NULL
)
""",
    "CREATE INDEX terms_of_recording ON vault.terms (recording_id, place)",
    "GRANT SELECT, INSERT ON vault.terms TO quancheng_vault",
    """
CREATE TABLE vault.custodians (
    key_id char(64) PRIMARY KEY,
    name varchar(100) NOT NULL,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    act uuid NOT NULL UNIQUE,
    enrolled_at timestamptz NOT NULL,
    removed_at timestamptz,
    removed_act uuid UNIQUE
)
""",
    "CREATE UNIQUE INDEX custodians_by_name ON vault.custodians (name) WHERE removed_at IS NULL",
    "GRANT SELECT, INSERT, UPDATE (removed_at, removed_act) ON vault.custodians TO quancheng_vault",
    """
CREATE TABLE vault.orders (
    id uuid PRIMARY KEY,
    act varchar(20) NOT NULL,
    envelope jsonb NOT NULL,
    custodians char(64)[] NOT NULL CHECK (cardinality(custodians) >= 2),
    at timestamptz NOT NULL
)
""",
    "GRANT SELECT, INSERT ON vault.orders TO quancheng_vault",
    """
CREATE TABLE vault.holds (
    id uuid PRIMARY KEY,
    case_id uuid NOT NULL,
    reason varchar(200) NOT NULL,
    state varchar(8) NOT NULL CHECK (state IN ('active', 'released')),
    placed_at timestamptz NOT NULL,
    released_at timestamptz,
    order_id uuid REFERENCES vault.orders,
    CHECK ((state = 'released') = (released_at IS NOT NULL AND order_id IS NOT NULL))
)
""",
    "CREATE INDEX holds_of_case ON vault.holds (case_id)",
    "GRANT SELECT, INSERT, UPDATE (state, released_at, order_id) ON vault.holds TO quancheng_vault",
    """
CREATE TABLE vault.held_recordings (
    recording_id uuid NOT NULL REFERENCES vault.recordings,
    hold_id uuid NOT NULL REFERENCES vault.holds,
    act uuid NOT NULL,
    PRIMARY KEY (recording_id, hold_id)
)
""",
    "CREATE INDEX held_recordings_of_hold ON vault.held_recordings (hold_id)",
    "GRANT SELECT, INSERT ON vault.held_recordings TO quancheng_vault",
    """
CREATE TABLE vault.tombstones (
    recording_id uuid PRIMARY KEY REFERENCES vault.recordings,
    order_id uuid NOT NULL REFERENCES vault.orders,
    act uuid NOT NULL UNIQUE,
    began_at timestamptz NOT NULL,
    envelope bytea,
    key varchar(256),
    version varchar(64)
)
""",
    "GRANT SELECT, INSERT, UPDATE (envelope, key, version) ON vault.tombstones TO quancheng_vault",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
