"""How many sealed objects a recording has, and of how many the flag is set or in doubt: holds tell the sums."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE vault.recordings ADD COLUMN objects integer NOT NULL DEFAULT 0,"
    " ADD COLUMN flagged integer NOT NULL DEFAULT 0, ADD COLUMN doubted integer NOT NULL DEFAULT 0",
    "GRANT UPDATE (objects, flagged, doubted) ON vault.recordings TO quancheng_vault",
    """
UPDATE vault.recordings AS r SET objects = told.objects, flagged = told.flagged, doubted = told.doubted
FROM (
    SELECT recording_id, count(*) AS objects, count(*) FILTER (WHERE held) AS flagged,
        count(*) FILTER (WHERE held IS NULL) AS doubted
    FROM (
        SELECT recording_id, held FROM vault.segments WHERE state = 'sealed'
        UNION ALL
        SELECT recording_id, held FROM vault.manifests WHERE version IS NOT NULL
    ) AS objects GROUP BY recording_id
) AS told WHERE r.id = told.recording_id
""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
