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
    "counter",
    METADATA,
    Column("kind", String(32), primary_key=True, doc="experiment or ensemble"),
    Column("last", Integer, nullable=False, doc="the last number given"),
    info={"doc": "the last number given to each kind of thing; a deleted one's number never comes back"},
)

dataset = Table(
    "dataset",
    METADATA,
    Column("name", String(200), primary_key=True, doc="as it was added"),
    Column("test_of", String(200), ForeignKey("dataset.name"), doc="the training set that this test set belongs to"),
    Column("created", UtcDateTime, nullable=False, doc="when it was added"),
    info={"doc": "named sets of slices"},
)

dataset_version = Table(
    "dataset_version",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("dataset", String(200), ForeignKey("dataset.name"), nullable=False, doc="whose version it is"),
    Column("number", Integer, nullable=False, doc="counts from 1 within the dataset"),
    Column("source", Text, nullable=False, doc="absolute path of the files"),
    Column("path", Text, nullable=False, doc="folder in the workspace"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of files, labels and folds"),
    Column("label_digest", String(128), doc="SHA-256 of slice ids and labels; null without labels"),
    Column("slices", Integer, nullable=False, doc="readable slices"),
    Column("patients", Integer, nullable=False, doc="patients of the readable slices"),
    Column("defects", Integer, nullable=False, doc="files left out"),
    Column("sample", Text, doc="the sample submission of a test set"),
    Column("summary", JSON, nullable=False, doc="counts for `ichx data show`"),
    Column("created", UtcDateTime, nullable=False, doc="when it was made"),
    UniqueConstraint("dataset", "number"),
    info={"doc": "immutable versions of datasets"},
)

fold_set = Table(
    "fold_set",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column(
        "version_id",
        Integer,
        ForeignKey("dataset_version.id"),
        nullable=False,
        doc="the dataset version that they divide",
    ),
    Column("name", String(200), nullable=False, doc="unique within the version"),
    Column("k", Integer, nullable=False, doc="how many folds"),
    Column("seed", Integer, nullable=False, doc="what they were drawn with"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of the assignment"),
    Column("leaky", Boolean, nullable=False, doc="whether they split patients"),
    Column("leaking_patients", Integer, nullable=False, server_default="0", doc="patients in more than one fold"),
    Column("source", Text, doc="the file that they were imported from"),
    UniqueConstraint("version_id", "name"),
    info={"doc": "folds of a dataset version"},
)

experiment = Table(
    "experiment",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False, doc="counts from 1"),
    Column("kind", String(32), nullable=False, doc="experiment or trial"),
    Column("name", String(200), nullable=False, doc="the user's, or made of plugin, size and windows"),
    Column("plugin", String(200), nullable=False, doc="the model"),
    Column("size", Integer, nullable=False, doc="pixels"),
    Column("window_kind", String(32), nullable=False, doc="linear or sigmoid"),
    Column(
        "version_id",
        Integer,
        ForeignKey("dataset_version.id"),
        nullable=False,
        doc="dataset version",
    ),
    Column("label_digest", String(128), nullable=False, doc="of that version"),
    Column("fold_set_id", Integer, ForeignKey("fold_set.id"), nullable=False, doc="the folds it is trained on"),
    Column("fold_digest", String(128), nullable=False, doc="of those folds"),
    Column("epochs", Integer, nullable=False, doc="of all stages, for one fold"),
    Column(
        "parent",
        Integer,
        ForeignKey("experiment.number", ondelete="SET NULL"),
        doc="what it was made from",
    ),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    Column("selected", Boolean, nullable=False, doc="a validation score was looked at to choose it"),
    Column("leaked", Boolean, nullable=False, doc="its folds split patients"),
    Column("archived", Boolean, nullable=False, doc="put away: in no list and no --top"),
    Column("trashed", UtcDateTime, doc="since when it waits to be deleted"),
    Column("score", Float, doc="weighted log loss over all OOF slices"),
    Column("spread", Float, doc="standard deviation over folds"),
    Column("score_tta", Float, doc="the same, averaged with the mirrored slice"),
    Column("spread_tta", Float, doc="standard deviation of that over folds"),
    Column("score_low", Float, doc="95 % interval over patients"),
    Column("score_high", Float, doc="the interval's other end"),
    Column("score_tta_low", Float, doc="95 % interval over patients of score_tta"),
    Column("score_tta_high", Float, doc="the interval's other end"),
    Column("origin", JSON, doc="number and workspace that an imported one had"),
    Column("tuned", JSON(none_as_null=True), doc="the study that it belongs to, its fold, values and budget"),
    Column("recipe_digest", String(128), nullable=False, doc="equal for equal recipes"),
    Column("recipe", Text, nullable=False, doc="TOML"),
    info={"doc": "registered experiments and tuning trials"},
)

tag = Table(
    "tag",
    METADATA,
    Column(
        "experiment", Integer, ForeignKey("experiment.number", ondelete="CASCADE"), primary_key=True, doc="what has it"
    ),
    Column("tag", String(200), primary_key=True, doc="a word"),
    sqlite_with_rowid=False,
    info={"doc": "tags of experiments"},
)

note = Table(
    "note",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column(
        "experiment",
        Integer,
        ForeignKey("experiment.number", ondelete="CASCADE"),
        nullable=False,
        doc="what it is about",
    ),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    Column("text", Text, nullable=False, doc="as it was written"),
    info={"doc": "what users wrote down about experiments"},
)

setting = Table(
    "setting",
    METADATA,
    Column("name", String(200), primary_key=True, doc="of what"),
    Column("value", JSON, nullable=False, doc="as JSON"),
    info={"doc": "what a user chose once and for all, such as the columns of a list"},
)

run = Table(
    "run",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("experiment", Integer, ForeignKey("experiment.number"), nullable=False, doc="what is executed"),
    Column("fold", Integer, nullable=False, doc="from 0"),
    Column("attempt", Integer, nullable=False, doc="from 1 within the fold"),
    Column("state", String(16), nullable=False, doc="as recorded; a lost process leaves running"),
    Column("host", String(255), nullable=False, doc="where it runs"),
    Column("pid", Integer, nullable=False, doc="process id there"),
    Column("process", String(255), doc="which process that pid was, where the system can tell"),
    Column("started", UtcDateTime, nullable=False, doc="UTC"),
    Column("heartbeat", UtcDateTime, nullable=False, doc="UTC"),
    Column("ended", UtcDateTime, doc="UTC"),
    Column("stage", String(200), doc="the last that it came to"),
    Column("epoch", Integer, doc="the last of that stage"),
    Column("epochs_done", Integer, nullable=False, doc="of all stages"),
    Column("code_version", Text, nullable=False, doc="version and git commit of ichx"),
    Column("device", Text, nullable=False, doc="device and precision"),
    Column("command", Text, nullable=False, doc="as it was typed"),
    Column("libraries", JSON, nullable=False, doc="versions"),
    Column("provenance", JSON, doc="the code's changes, the machine, the seed"),
    Column("error", Text, doc="why it failed"),
    UniqueConstraint("experiment", "fold", "attempt"),
    info={"doc": "attempts at folds"},
)

run_stage = Table(
    "run_stage",
    METADATA,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, doc="whose stage it is"),
    Column("stage_index", Integer, primary_key=True, doc="from 0"),
    Column("stage", String(200), nullable=False, doc="its name"),
    sqlite_with_rowid=False,
    info={"doc": "names of the stages that runs came to"},
)

epoch_metric = Table(
    "epoch_metric",
    METADATA,
    Column(
        "run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, doc="the run that measured it"
    ),
    Column("stage_index", Integer, primary_key=True, doc="the stage's place in the recipe, from 0"),
    Column("epoch", Integer, primary_key=True, doc="from 1 within the stage"),
    Column("metric", String(200), primary_key=True, doc="loss, score, lr, ..."),
    Column("value", Float, doc="null is not a number"),
    sqlite_with_rowid=False,
    info={"doc": "history: one row for each metric of each epoch"},
)

prediction = Table(
    "prediction",
    METADATA,
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True, doc="who predicts"),
    Column("fold", Integer, primary_key=True, doc="from 0"),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), primary_key=True, doc="what is predicted"),
    Column("view", String(32), primary_key=True, doc="identity or hflip"),
    Column("role", String(32), nullable=False, doc="oof or test"),
    Column("path", Text, nullable=False, doc="in the workspace"),
    Column("slices", Integer, nullable=False, doc="how many"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of the file"),
    Column("score", Float, doc="where labels are known"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    sqlite_with_rowid=False,
    info={"doc": "files of logits"},
)

ensemble = Table(
    "ensemble",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False, doc="counts from 1"),
    Column(
        "version_id", Integer, ForeignKey("dataset_version.id"), nullable=False, doc="dataset version of its members"
    ),
    Column("fold_digest", String(128), nullable=False, doc="of the folds that its members share"),
    Column("tta", String(32), nullable=False, doc="none or hflip"),
    Column("method", String(64), nullable=False, doc="how the weights were found"),
    Column("score", Float, nullable=False, doc="in-sample"),
    Column("nested_score", Float, doc="weights fitted on other folds"),
    Column("partial", Text, doc="which folds it covers, where not all"),
    Column("submissions", JSON, nullable=False, doc="files in the workspace"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    info={"doc": "blends"},
)

ensemble_member = Table(
    "ensemble_member",
    METADATA,
    Column("ensemble", Integer, ForeignKey("ensemble.number", ondelete="CASCADE"), primary_key=True, doc="its number"),
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True, doc="the member's number"),
    Column("position", Integer, nullable=False, doc="from 0"),
    Column("weight", Float, nullable=False, doc="in the blend"),
    Column("score", Float, nullable=False, doc="its own"),
    info={"doc": "members of blends"},
)

Index(None, dataset.c.test_of)
Index(None, experiment.c.parent)
Index(None, note.c.experiment)
Index(None, tag.c.tag)
Index(None, experiment.c.version_id)
Index(None, ensemble_member.c.experiment)
