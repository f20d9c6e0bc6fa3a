"""Add the values of tuning trials and the trial that an experiment was promoted from."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("experiment", sa.Column("tuned", sa.JSON(), nullable=True))
