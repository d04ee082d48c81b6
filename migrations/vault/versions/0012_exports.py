"""Exports as jobs: what was asked for, what of it is prepared, where the bytes of each file of a bag come from."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    # waiting -> preparing -> ready | failed; any -> lapsed. `size` is the tar's, as far as it is laid out.
    """
CREATE TABLE vault.exports (
    act uuid PRIMARY KEY,
    person uuid NOT NULL,
    case_id uuid,
    recordings uuid[] NOT NULL,
    series uuid[] NOT NULL,
    copies boolean NOT NULL,
    moment timestamptz NOT NULL,
    state varchar(9) NOT NULL CHECK (state IN ('waiting', 'preparing', 'ready', 'failed', 'lapsed')),
    requested_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ready_at timestamptz,
    tree_size bigint,
    checkpoint text,
    bytes_total bigint NOT NULL DEFAULT 0,
    bytes_done bigint NOT NULL DEFAULT 0,
    bytes_laid bigint NOT NULL DEFAULT 0,
    files integer NOT NULL DEFAULT 0,
    size bigint NOT NULL DEFAULT 0,
    etag char(64),
    reason varchar(64),
    detail varchar(1000),
    cleared boolean NOT NULL DEFAULT false,
    CHECK ((state = 'ready') <= (etag IS NOT NULL AND checkpoint IS NOT NULL)),
    CHECK ((state = 'failed') <= (reason IS NOT NULL)),
    CHECK ((tree_size IS NULL) = (checkpoint IS NULL))
)
""",
    "CREATE INDEX exports_unready ON vault.exports (person) WHERE state IN ('waiting', 'preparing')",
    "CREATE INDEX exports_to_lapse ON vault.exports (expires_at) WHERE state <> 'lapsed'",
    "CREATE INDEX exports_to_clear ON vault.exports (act) WHERE state = 'lapsed' AND NOT cleared",
    "GRANT SELECT, INSERT, UPDATE (state, ready_at, tree_size, checkpoint, bytes_total, bytes_done, bytes_laid,"
    " files, size, etag, reason, detail, cleared) ON vault.exports TO quancheng_vault",
    # What an export consists of, decided once. `number` is a manifest's; `gone`: disposed, so without its media.
    """
CREATE TABLE vault.export_items (
    act uuid NOT NULL REFERENCES vault.exports,
    place integer NOT NULL,
    kind varchar(8) NOT NULL CHECK (kind IN ('manifest', 'open', 'series', 'disposed')),
    recording_id uuid NOT NULL,
    number integer NOT NULL,
    gone boolean NOT NULL,
    done boolean NOT NULL DEFAULT false,
    PRIMARY KEY (act, place)
)
""",
    "CREATE INDEX export_items_left ON vault.export_items (act, place) WHERE NOT done",
    "GRANT SELECT, INSERT, DELETE, UPDATE (done) ON vault.export_items TO quancheng_vault",
    # Each file of the bag in the order of the tar: `start` is where its header begins. The bytes are in pieces here,
    # are the sealed segments that the offsets file beside them lists, or one of them, or lie in the staging bucket.
    """
CREATE TABLE vault.export_files (
    act uuid NOT NULL REFERENCES vault.exports,
    ordinal integer NOT NULL,
    path varchar(256) NOT NULL,
    header bytea NOT NULL,
    start bigint NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    sha256 char(64) NOT NULL,
    source varchar(8) NOT NULL CHECK (source IN ('pieces', 'segments', 'segment', 'staged')),
    recording_id uuid,
    sequence integer,
    PRIMARY KEY (act, ordinal),
    UNIQUE (act, path),
    CHECK ((source IN ('segments', 'segment')) <= (recording_id IS NOT NULL)),
    CHECK ((source = 'segment') = (sequence IS NOT NULL))
)
""",
    "CREATE INDEX export_files_by_start ON vault.export_files (act, start)",
    "GRANT SELECT, INSERT, DELETE ON vault.export_files TO quancheng_vault",
    """
CREATE TABLE vault.export_pieces (
    act uuid NOT NULL,
    ordinal integer NOT NULL,
    place integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (act, ordinal, place),
    FOREIGN KEY (act, ordinal) REFERENCES vault.export_files
)
""",
    # The pieces are deflated already.
    "ALTER TABLE vault.export_pieces ALTER COLUMN data SET STORAGE EXTERNAL",
    "GRANT SELECT, INSERT, DELETE ON vault.export_pieces TO quancheng_vault",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
