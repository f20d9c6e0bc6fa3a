"""Add tags, notes, the trash, saved settings, the origin of imported experiments and the provenance of runs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("experiment", sa.Column("trashed", sa.DateTime(), nullable=True))
    op.add_column("experiment", sa.Column("origin", sa.JSON(), nullable=True))
    op.add_column("run", sa.Column("provenance", sa.JSON(), nullable=True))
    op.create_table(
        "tag",
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.number"], name="fk_tag_experiment_experiment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment", "tag", name="pk_tag"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "note",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.number"], name="fk_note_experiment_experiment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_note"),
    )
    op.create_index("ix_note_experiment", "note", ["experiment"])
    op.create_index("ix_tag_tag", "tag", ["tag"])
    op.create_index("ix_experiment_parent", "experiment", ["parent"])
    op.create_table(
        "setting",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_setting"),
    )
