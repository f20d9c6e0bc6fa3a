"""The interval of each OOF score; experiments that were scored before get theirs when `ichx run` is asked again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("score_low", "score_high", "score_tta_low", "score_tta_high"):
        op.add_column("experiment", sa.Column(name, sa.Float(), nullable=True))
