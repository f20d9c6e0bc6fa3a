"""Add intervals of OOF scores; rerunning `ichx run` computes those of older scores."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("score_low", "score_high", "score_tta_low", "score_tta_high"):
        op.add_column("experiment", sa.Column(name, sa.Float(), nullable=True))
