"""What a recording's segments are when joined, and which media gateway remuxed them before they came."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE vault.recordings
    ADD COLUMN format varchar(4) NOT NULL DEFAULT 'mp4' CHECK (format IN
        ('mp4', 'ts', 'mov', 'avi', 'mkv', 'jpg', 'png', 'wav', 'mp3', 'pdf', 'bin')),
    ADD COLUMN remuxed_by varchar(64)
""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
