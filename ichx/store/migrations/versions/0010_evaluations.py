"""Count the evaluations of test sets and external datasets."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("command", sa.String(32), nullable=False),
        sa.Column("dataset", sa.String(200), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("labels", sa.String(128), nullable=False),
        sa.Column("experiment", sa.Integer(), nullable=True),
        sa.Column("ensemble", sa.Integer(), nullable=True),
        sa.Column("file", sa.String(255), nullable=True),
        sa.Column("predictions", sa.String(128), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation"),
    )
    op.create_index("ix_evaluation_dataset", "evaluation", ["dataset"])
    op.create_index("ix_evaluation_labels", "evaluation", ["labels"])
