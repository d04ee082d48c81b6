"""The queue of the api's jobs (`migrations.queue`), with a job for each act that was never told to the vault."""

from alembic import op

from migrations.queue import STATEMENTS, of

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UNTOLD = """
    INSERT INTO api.pgqueuer (priority, entrypoint, payload, status, dedupe_key)
    SELECT 0, 'tell-act', convert_to(act::text, 'UTF8'), 'queued', 'tell-act/' || act
    FROM api.outbox WHERE log_index IS NULL
"""


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(of("api", "quancheng_api", statement))
    op.execute(UNTOLD)
    # Nobody looks for untold acts any more: each has its job.
    op.execute("DROP INDEX api.outbox_untold")
