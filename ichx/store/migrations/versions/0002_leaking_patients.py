"""Add the number of patients in several folds and the imported file to fold sets; mark experiments on leaky folds.

The column `leaky` follows from the number, but stays: older versions of SQLite cannot drop a column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("fold_set", sa.Column("leaking_patients", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("fold_set", sa.Column("source", sa.Text(), nullable=True))
    fold_set = sa.table(
        "fold_set", sa.column("id", sa.Integer), sa.column("leaky", sa.Boolean), sa.column("leaking_patients")
    )
    experiment = sa.table("experiment", sa.column("fold_set_id", sa.Integer), sa.column("leaked", sa.Boolean))
    # Their number is unknown, but at least one.
    op.execute(sa.update(fold_set).where(fold_set.c.leaky).values(leaking_patients=1))
    leaky = sa.select(fold_set.c.id).where(fold_set.c.leaky)
    op.execute(sa.update(experiment).where(experiment.c.fold_set_id.in_(leaky)).values(leaked=sa.true()))
