"""Create the first tables.

Migrations are append-only. They contain the tables of their time and do not import `tables.py`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "counter",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_counter")),
    )
    op.create_table(
        "dataset",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("test_of", sa.String(length=200), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["test_of"], ["dataset.name"], name=op.f("fk_dataset_test_of_dataset")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_dataset")),
    )
    op.create_index(op.f("ix_dataset_test_of"), "dataset", ["test_of"], unique=False)
    op.create_table(
        "dataset_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=128), nullable=False),
        sa.Column("label_digest", sa.String(length=128), nullable=True),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.Column("patients", sa.Integer(), nullable=False),
        sa.Column("defects", sa.Integer(), nullable=False),
        sa.Column("sample", sa.Text(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["dataset.name"], name=op.f("fk_dataset_version_dataset_dataset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_version")),
        sa.UniqueConstraint("dataset", "number", name=op.f("uq_dataset_version_dataset_number")),
    )
    op.create_table(
        "ensemble",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("fold_digest", sa.String(length=128), nullable=False),
        sa.Column("tta", sa.String(length=32), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("nested_score", sa.Float(), nullable=True),
        sa.Column("partial", sa.Text(), nullable=True),
        sa.Column("submissions", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_version.id"], name=op.f("fk_ensemble_version_id_dataset_version")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ensemble")),
    )
    op.create_table(
        "fold_set",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=128), nullable=False),
        sa.Column("leaky", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_version.id"], name=op.f("fk_fold_set_version_id_dataset_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fold_set")),
        sa.UniqueConstraint("version_id", "name", name=op.f("uq_fold_set_version_id_name")),
    )
    op.create_table(
        "experiment",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("plugin", sa.String(length=200), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("window_kind", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("label_digest", sa.String(length=128), nullable=False),
        sa.Column("fold_set_id", sa.Integer(), nullable=False),
        sa.Column("fold_digest", sa.String(length=128), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("selected", sa.Boolean(), nullable=False),
        sa.Column("leaked", sa.Boolean(), nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("spread", sa.Float(), nullable=True),
        sa.Column("score_tta", sa.Float(), nullable=True),
        sa.Column("spread_tta", sa.Float(), nullable=True),
        sa.Column("recipe_digest", sa.String(length=128), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["fold_set_id"], ["fold_set.id"], name=op.f("fk_experiment_fold_set_id_fold_set")),
        sa.ForeignKeyConstraint(
            ["parent"], ["experiment.number"], name=op.f("fk_experiment_parent_experiment"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_version.id"], name=op.f("fk_experiment_version_id_dataset_version")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_experiment")),
    )
    op.create_index(op.f("ix_experiment_version_id"), "experiment", ["version_id"], unique=False)
    op.create_table(
        "ensemble_member",
        sa.Column("ensemble", sa.Integer(), nullable=False),
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ensemble"], ["ensemble.number"], name=op.f("fk_ensemble_member_ensemble_ensemble"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.number"], name=op.f("fk_ensemble_member_experiment_experiment")
        ),
        sa.PrimaryKeyConstraint("ensemble", "experiment", name=op.f("pk_ensemble_member")),
    )
    op.create_index(op.f("ix_ensemble_member_experiment"), "ensemble_member", ["experiment"], unique=False)
    op.create_table(
        "prediction",
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("fold", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("view", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=128), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.number"], name=op.f("fk_prediction_experiment_experiment")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_version.id"], name=op.f("fk_prediction_version_id_dataset_version")
        ),
        sa.PrimaryKeyConstraint("experiment", "fold", "version_id", "view", name=op.f("pk_prediction")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment", sa.Integer(), nullable=False),
        sa.Column("fold", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process", sa.String(length=255), nullable=True),
        sa.Column("started", sa.DateTime(), nullable=False),
        sa.Column("heartbeat", sa.DateTime(), nullable=False),
        sa.Column("ended", sa.DateTime(), nullable=True),
        sa.Column("stage", sa.String(length=200), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("epochs_done", sa.Integer(), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("libraries", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["experiment"], ["experiment.number"], name=op.f("fk_run_experiment_experiment")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("experiment", "fold", "attempt", name=op.f("uq_run_experiment_fold_attempt")),
    )
    op.create_table(
        "epoch_metric",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("stage_index", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_epoch_metric_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "stage_index", "epoch", "metric", name=op.f("pk_epoch_metric")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_stage",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("stage_index", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_run_stage_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "stage_index", name=op.f("pk_run_stage")),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(
        sa.table("counter", sa.column("kind", sa.String), sa.column("last", sa.Integer)),
        [{"kind": "experiment", "last": 0}, {"kind": "ensemble", "last": 0}],
    )
