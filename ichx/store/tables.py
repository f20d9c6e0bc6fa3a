"""The store's tables as they are after the last migration. Their history stands in `migrations/`; no queries here."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

VERSION_TABLE = "ichx_version"
"""Alembic's version table under a name of our own: other programs (Optuna is one) use its default name."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept as naive UTC because SQLite knows no zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` in UTC without its zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` with its zone."""
        return None if value is None else value.replace(tzinfo=UTC)


counter = Table(
    "counter",  # the last number given to a kind of thing, so that a deleted one's number never comes back
    METADATA,
    Column("kind", String(32), primary_key=True),
    Column("last", Integer, nullable=False),
)

dataset = Table(
    "dataset",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("test_of", String(200), ForeignKey("dataset.name")),
    Column("created", UtcDateTime, nullable=False),
)

dataset_version = Table(
    "dataset_version",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("dataset", String(200), ForeignKey("dataset.name"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("digest", String(128), nullable=False),
    Column("label_digest", String(128)),
    Column("slices", Integer, nullable=False),
    Column("patients", Integer, nullable=False),
    Column("defects", Integer, nullable=False),
    Column("sample", Text),
    Column("summary", JSON, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("dataset", "number"),
)

fold_set = Table(
    "fold_set",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("k", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("digest", String(128), nullable=False),
    Column("leaky", Boolean, nullable=False),  # whether there are leaking patients
    Column("leaking_patients", Integer, nullable=False, server_default="0"),
    Column("source", Text),
    UniqueConstraint("version_id", "name"),
)

experiment = Table(
    "experiment",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("plugin", String(200), nullable=False),
    Column("size", Integer, nullable=False),
    Column("window_kind", String(32), nullable=False),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), nullable=False),
    Column("label_digest", String(128), nullable=False),
    Column("fold_set_id", Integer, ForeignKey("fold_set.id"), nullable=False),
    Column("fold_digest", String(128), nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("parent", Integer, ForeignKey("experiment.number", ondelete="SET NULL")),
    Column("created", UtcDateTime, nullable=False),
    Column("selected", Boolean, nullable=False),
    Column("leaked", Boolean, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("trashed", UtcDateTime),  # since when it waits to be deleted
    Column("score", Float),
    Column("spread", Float),
    Column("score_tta", Float),
    Column("spread_tta", Float),
    Column("score_low", Float),
    Column("score_high", Float),
    Column("score_tta_low", Float),
    Column("score_tta_high", Float),
    Column("origin", JSON),  # number and workspace that an imported one had
    Column("recipe_digest", String(128), nullable=False),
    Column("recipe", Text, nullable=False),  # last: a listing never reads the page it may spill to
)

tag = Table(
    "tag",
    METADATA,
    Column("experiment", Integer, ForeignKey("experiment.number", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(200), primary_key=True),
    sqlite_with_rowid=False,
)

note = Table(
    "note",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("experiment", Integer, ForeignKey("experiment.number", ondelete="CASCADE"), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("text", Text, nullable=False),
)

setting = Table(
    "setting",  # what a user chose once and for all in this workspace, such as the columns of a list
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("value", JSON, nullable=False),
)

run = Table(
    "run",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("experiment", Integer, ForeignKey("experiment.number"), nullable=False),
    Column("fold", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process", String(255)),  # which process that pid was, where the system can tell: see process.py
    Column("started", UtcDateTime, nullable=False),
    Column("heartbeat", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime),
    Column("stage", String(200)),
    Column("epoch", Integer),
    Column("epochs_done", Integer, nullable=False),
    Column("code_version", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("libraries", JSON, nullable=False),
    Column("provenance", JSON),  # the code's commit and changes, the machine, the seed
    Column("error", Text),
    UniqueConstraint("experiment", "fold", "attempt"),
)

run_stage = Table(
    "run_stage",
    METADATA,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("stage_index", Integer, primary_key=True),
    Column("stage", String(200), nullable=False),
    sqlite_with_rowid=False,
)

epoch_metric = Table(
    "epoch_metric",  # millions of rows: the key is the table (no rowid, no second index)
    METADATA,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("stage_index", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("metric", String(200), primary_key=True),
    Column("value", Float),  # NULL is NaN: SQLite has no NaN
    sqlite_with_rowid=False,
)

prediction = Table(
    "prediction",
    METADATA,
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True),
    Column("fold", Integer, primary_key=True),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), primary_key=True),
    Column("view", String(32), primary_key=True),
    Column("role", String(32), nullable=False),
    Column("path", Text, nullable=False),
    Column("slices", Integer, nullable=False),
    Column("digest", String(128), nullable=False),
    Column("score", Float),
    Column("created", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)

ensemble = Table(
    "ensemble",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), nullable=False),
    Column("fold_digest", String(128), nullable=False),
    Column("tta", String(32), nullable=False),
    Column("method", String(64), nullable=False),
    Column("score", Float, nullable=False),
    Column("nested_score", Float),
    Column("partial", Text),
    Column("submissions", JSON, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

ensemble_member = Table(
    "ensemble_member",
    METADATA,
    Column("ensemble", Integer, ForeignKey("ensemble.number", ondelete="CASCADE"), primary_key=True),
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    Column("score", Float, nullable=False),
)

Index(None, dataset.c.test_of)
Index(None, experiment.c.parent)
Index(None, note.c.experiment)
Index(None, tag.c.tag)
Index(None, experiment.c.version_id)
Index(None, ensemble_member.c.experiment)
