"""Record stored ensembles, members of sequence experiments, feature tables and experiments of other tools."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("experiment", sa.Column("external", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("ensemble", sa.Column("name", sa.String(200), nullable=True))
    op.add_column("ensemble", sa.Column("average", sa.String(32), nullable=False, server_default="probability"))
    op.add_column("ensemble", sa.Column("digest", sa.String(128), nullable=True))
    op.create_table(
        "experiment_member",
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("member", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"],
            ["experiment.number"],
            name="fk_experiment_member_experiment_experiment",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["member"], ["experiment.number"], name="fk_experiment_member_member_experiment"),
        sa.PrimaryKeyConstraint("experiment", "position", name="pk_experiment_member"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_experiment_member_member", "experiment_member", ["member"])
    op.create_table(
        "feature_table",
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("fold", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("view", sa.String(32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(128), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiment.number"], name="fk_feature_table_experiment_experiment"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_version.id"], name="fk_feature_table_version_id_dataset_version"
        ),
        sa.PrimaryKeyConstraint("experiment", "fold", "version_id", "view", name="pk_feature_table"),
        sqlite_with_rowid=False,
    )
