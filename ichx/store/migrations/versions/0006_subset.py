"""Add the share of the patients that a quick look is trained on."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("experiment", sa.Column("subset", sa.Float(), nullable=True))
