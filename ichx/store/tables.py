"""The tables of the store after the last migration. How they came about is in `migrations/`."""

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
    false,
    func,
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
"""Name of Alembic's version table; other programs, e.g. Optuna, use the default name."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as naive UTC because SQLite has no time zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` as naive UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` as aware UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


counter = Table(
    "counter",
    METADATA,
    Column("kind", String(32), primary_key=True, doc="experiment or ensemble"),
    Column("last", Integer, nullable=False, doc="last number that was assigned"),
    info={"doc": "last assigned number of experiments and ensembles; numbers are never reused"},
)

dataset = Table(
    "dataset",
    METADATA,
    Column("name", String(200), primary_key=True, doc="name of the dataset"),
    Column("test_of", String(200), ForeignKey("dataset.name"), doc="training set of this test set"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    info={"doc": "named sets of slices"},
)

dataset_version = Table(
    "dataset_version",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("dataset", String(200), ForeignKey("dataset.name"), nullable=False, doc="dataset"),
    Column("number", Integer, nullable=False, doc="from 1 within the dataset"),
    Column("source", Text, nullable=False, doc="absolute path of the files"),
    Column("path", Text, nullable=False, doc="folder in the workspace"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of files, labels and folds"),
    Column("label_digest", String(128), doc="SHA-256 of slice ids and labels; null without labels"),
    Column("slices", Integer, nullable=False, doc="readable slices"),
    Column("patients", Integer, nullable=False, doc="patients of the readable slices"),
    Column("defects", Integer, nullable=False, doc="excluded files"),
    Column("sample", Text, doc="sample submission of a test set"),
    Column("summary", JSON, nullable=False, doc="counts for `ichx data show`"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    UniqueConstraint("dataset", "number"),
    info={"doc": "immutable versions of datasets"},
)

TRANSDUCTIVE = func.coalesce(dataset_version.c.summary["transductive"].as_boolean(), false())
"""Whether a version has pseudo-labels of patients of a test set; a version is immutable, so no column repeats it."""

fold_set = Table(
    "fold_set",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), nullable=False, doc="dataset version"),
    Column("name", String(200), nullable=False, doc="unique within the version"),
    Column("k", Integer, nullable=False, doc="number of folds"),
    Column("seed", Integer, nullable=False, doc="seed of the split"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of the assignment"),
    Column("leaky", Boolean, nullable=False, doc="whether a patient is in several folds"),
    Column("leaking_patients", Integer, nullable=False, server_default="0", doc="number of patients in several folds"),
    Column("source", Text, doc="imported file"),
    UniqueConstraint("version_id", "name"),
    info={"doc": "folds of a dataset version"},
)

experiment = Table(
    "experiment",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False, doc="from 1"),
    Column("kind", String(32), nullable=False, doc="experiment or trial"),
    Column("name", String(200), nullable=False, doc="chosen by the user, or plugin, size and windows"),
    Column("plugin", String(200), nullable=False, doc="plugin of the model"),
    Column("size", Integer, nullable=False, doc="pixels"),
    Column("window_kind", String(32), nullable=False, doc="linear or sigmoid"),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), nullable=False, doc="dataset version"),
    Column("label_digest", String(128), nullable=False, doc="label digest of that version"),
    Column("fold_set_id", Integer, ForeignKey("fold_set.id"), nullable=False, doc="folds"),
    Column("fold_digest", String(128), nullable=False, doc="digest of those folds"),
    Column("epochs", Integer, nullable=False, doc="epochs of all stages, for one fold"),
    Column(
        "parent",
        Integer,
        ForeignKey("experiment.number", ondelete="SET NULL"),
        doc="experiment that it was cloned or tuned from",
    ),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    Column("selected", Boolean, nullable=False, doc="a validation score chose some of its values"),
    Column("leaked", Boolean, nullable=False, doc="its folds share patients"),
    Column("archived", Boolean, nullable=False, doc="excluded from lists and --top"),
    Column("trashed", UtcDateTime, doc="when it was moved to the trash"),
    Column("score", Float, doc="weighted log loss over all OOF slices"),
    Column("spread", Float, doc="standard deviation of score over folds"),
    Column("score_tta", Float, doc="score of the mean over all views"),
    Column("spread_tta", Float, doc="standard deviation of score_tta over folds"),
    Column("score_low", Float, doc="lower end of the 95 % patient-bootstrap interval"),
    Column("score_high", Float, doc="upper end of that interval"),
    Column("score_tta_low", Float, doc="lower end of the interval of score_tta"),
    Column("score_tta_high", Float, doc="upper end of that interval"),
    Column("origin", JSON, doc="number and workspace before an import"),
    Column("tuned", JSON(none_as_null=True), doc="Optuna study, fold, values and budget of a trial"),
    Column("subset", Float, doc="share of the patients of a quick look; null for all other experiments"),
    Column(
        "external",
        Boolean,
        nullable=False,
        server_default=false(),
        doc="its predictions are imported",
    ),
    Column("recipe_digest", String(128), nullable=False, doc="digest of the recipe"),
    Column("recipe", Text, nullable=False, doc="TOML"),
    info={"doc": "registered experiments and tuning trials"},
)

experiment_member = Table(
    "experiment_member",
    METADATA,
    Column(
        "experiment",
        Integer,
        ForeignKey("experiment.number", ondelete="CASCADE"),
        primary_key=True,
        doc="sequence experiment",
    ),
    Column("position", Integer, primary_key=True, doc="from 0"),
    Column("member", Integer, ForeignKey("experiment.number"), nullable=False, doc="experiment that it reads"),
    sqlite_with_rowid=False,
    info={"doc": "experiments whose predictions or features a sequence experiment reads"},
)

tag = Table(
    "tag",
    METADATA,
    Column(
        "experiment", Integer, ForeignKey("experiment.number", ondelete="CASCADE"), primary_key=True, doc="experiment"
    ),
    Column("tag", String(200), primary_key=True, doc="tag"),
    sqlite_with_rowid=False,
    info={"doc": "tags of experiments"},
)

note = Table(
    "note",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column(
        "experiment", Integer, ForeignKey("experiment.number", ondelete="CASCADE"), nullable=False, doc="experiment"
    ),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    Column("text", Text, nullable=False, doc="text of the note"),
    info={"doc": "notes about experiments"},
)

setting = Table(
    "setting",
    METADATA,
    Column("name", String(200), primary_key=True, doc="name of the setting"),
    Column("value", JSON, nullable=False, doc="value as JSON"),
    info={"doc": "saved choices of the user, e.g. the columns of a list"},
)

run = Table(
    "run",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("experiment", Integer, ForeignKey("experiment.number"), nullable=False, doc="experiment"),
    Column("fold", Integer, nullable=False, doc="from 0"),
    Column("attempt", Integer, nullable=False, doc="from 1 within the fold"),
    Column("state", String(16), nullable=False, doc="recorded state; still `running` after a process was killed"),
    Column("host", String(255), nullable=False, doc="name of the machine"),
    Column("pid", Integer, nullable=False, doc="process id on that machine"),
    Column("process", String(255), doc="identity of the process: boot, namespace, start time"),
    Column("started", UtcDateTime, nullable=False, doc="UTC"),
    Column("heartbeat", UtcDateTime, nullable=False, doc="UTC"),
    Column("ended", UtcDateTime, doc="UTC"),
    Column("stage", String(200), doc="latest stage"),
    Column("epoch", Integer, doc="latest epoch of that stage"),
    Column("epochs_done", Integer, nullable=False, doc="finished epochs of all stages"),
    Column("code_version", Text, nullable=False, doc="version and git commit of ichx"),
    Column("device", Text, nullable=False, doc="device and precision"),
    Column("command", Text, nullable=False, doc="command line"),
    Column("libraries", JSON, nullable=False, doc="versions of libraries"),
    Column("provenance", JSON, doc="changes of the code, machine, seed"),
    Column("error", Text, doc="reason of a failure"),
    Column("job", String(128), doc="handle of the scheduler's job that executes it"),
    UniqueConstraint("experiment", "fold", "attempt"),
    info={"doc": "runs of folds"},
)

run_stage = Table(
    "run_stage",
    METADATA,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, doc="run"),
    Column("stage_index", Integer, primary_key=True, doc="from 0"),
    Column("stage", String(200), nullable=False, doc="name of the stage"),
    sqlite_with_rowid=False,
    info={"doc": "names of the stages of runs"},
)

epoch_metric = Table(
    "epoch_metric",
    METADATA,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, doc="run"),
    Column("stage_index", Integer, primary_key=True, doc="index of the stage in the recipe, from 0"),
    Column("epoch", Integer, primary_key=True, doc="from 1 within the stage"),
    Column("metric", String(200), primary_key=True, doc="loss, score, lr, ..."),
    Column("value", Float, doc="value; null is NaN"),
    sqlite_with_rowid=False,
    info={"doc": "history: one row per epoch and metric"},
)

prediction = Table(
    "prediction",
    METADATA,
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True, doc="experiment"),
    Column("fold", Integer, primary_key=True, doc="from 0"),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), primary_key=True, doc="predicted dataset version"),
    Column("view", String(32), primary_key=True, doc="identity, hflip or another view"),
    Column("role", String(32), nullable=False, doc="oof, test or evaluation"),
    Column("path", Text, nullable=False, doc="path in the workspace"),
    Column("slices", Integer, nullable=False, doc="number of slices"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of the file"),
    Column("score", Float, doc="score, if labels are known"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    sqlite_with_rowid=False,
    info={"doc": "prediction files (logits)"},
)

feature_table = Table(
    "feature_table",
    METADATA,
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True, doc="experiment"),
    Column("fold", Integer, primary_key=True, doc="from 0"),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), primary_key=True, doc="dataset version"),
    Column("view", String(32), primary_key=True, doc="identity, hflip or another view"),
    Column("path", Text, nullable=False, doc="path in the workspace"),
    Column("slices", Integer, nullable=False, doc="number of slices"),
    Column("width", Integer, nullable=False, doc="features per slice"),
    Column("digest", String(128), nullable=False, doc="SHA-256 of the file"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    sqlite_with_rowid=False,
    info={"doc": "pooled features of all slices of a dataset version"},
)

ensemble = Table(
    "ensemble",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False, doc="from 1"),
    Column(
        "version_id", Integer, ForeignKey("dataset_version.id"), nullable=False, doc="dataset version of its members"
    ),
    Column("fold_digest", String(128), nullable=False, doc="digest of the members' folds"),
    Column("tta", String(32), nullable=False, doc="none, hflip or all"),
    Column("method", String(64), nullable=False, doc="method that chose the weights"),
    Column("score", Float, nullable=False, doc="in-sample score"),
    Column("nested_score", Float, doc="score with weights fitted on other folds"),
    Column("partial", Text, doc="folds that it covers, if not all"),
    Column("submissions", JSON, nullable=False, doc="paths in the workspace"),
    Column("name", String(200), doc="chosen by the user"),
    Column(
        "average",
        String(32),
        nullable=False,
        server_default="probability",
        doc="what is averaged over folds: logit or probability",
    ),
    Column("digest", String(128), doc="SHA-256 of the stored model; null if there is none"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    info={"doc": "ensembles"},
)

ensemble_member = Table(
    "ensemble_member",
    METADATA,
    Column("ensemble", Integer, ForeignKey("ensemble.number", ondelete="CASCADE"), primary_key=True, doc="ensemble"),
    Column("experiment", Integer, ForeignKey("experiment.number"), primary_key=True, doc="experiment"),
    Column("position", Integer, nullable=False, doc="from 0"),
    Column("weight", Float, nullable=False, doc="weight in the blend"),
    Column("score", Float, nullable=False, doc="score of the member"),
    info={"doc": "members of ensembles"},
)

job = Table(
    "job",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("submission", String(64), nullable=False, doc="name of the jobs that were submitted together"),
    Column("position", Integer, nullable=False, doc="from 0 within the submission"),
    Column("engine", String(32), nullable=False, doc="slurm, ray, ..."),
    Column("handle", String(128), doc="name of the job in the scheduler; null before it is queued"),
    Column("kind", String(32), nullable=False, doc="fold, trial, tune, cache, predict, evaluate"),
    Column("experiment", Integer, ForeignKey("experiment.number"), doc="experiment, if it belongs to one"),
    Column("fold", Integer, doc="from 0, for a fold"),
    Column("name", Text, nullable=False, doc="what it does, for people"),
    Column("log", Text, nullable=False, doc="path in the workspace"),
    Column("state", String(16), nullable=False, doc="last known state"),
    Column("exit_code", Integer, doc="of the command"),
    Column("reason", Text, doc="why it did not succeed"),
    Column("seconds", Float, doc="duration"),
    Column("submitted", UtcDateTime, nullable=False, doc="UTC"),
    Column("ended", UtcDateTime, doc="UTC"),
    UniqueConstraint("submission", "position"),
    info={"doc": "jobs of schedulers that outlive the submitting process"},
)

review = Table(
    "review",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("version_id", Integer, ForeignKey("dataset_version.id"), nullable=False, doc="dataset version"),
    Column("slice", Text, nullable=False, doc="slice id in the catalog of that version"),
    Column("finding", String(32), nullable=False, doc="label wrong, artefact or other"),
    Column("label", String(32), doc="label that the finding is about"),
    Column("note", Text, nullable=False, doc="text of the reader; may be empty"),
    Column("reader", String(200), doc="name of the reader, if given"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    Column("withdrawn", UtcDateTime, doc="when it was withdrawn"),
    info={"doc": "reviews of slices by readers; withdrawn ones stay"},
)

evaluation = Table(
    "evaluation",
    METADATA,
    Column("id", Integer, primary_key=True, doc="key"),
    Column("command", String(32), nullable=False, doc="evaluate, recalibrate or submit score"),
    Column("dataset", String(200), doc="name of the dataset that has the slices; null if none has"),
    Column("version", Integer, doc="number of its version"),
    Column("labels", String(128), nullable=False, doc="SHA-256 of the scored slice ids and labels"),
    Column("experiment", Integer, doc="experiment that was scored"),
    Column("ensemble", Integer, doc="ensemble that was scored"),
    Column("file", String(255), doc="name of the file that was scored"),
    Column("predictions", String(128), nullable=False, doc="SHA-256 of the scored probabilities"),
    Column("score", Float, nullable=False, doc="weighted log loss"),
    Column("created", UtcDateTime, nullable=False, doc="UTC"),
    info={"doc": "evaluations on test sets and external datasets; they outlive datasets and experiments"},
)

Index(None, dataset.c.test_of)
Index(None, experiment.c.parent)
Index(None, note.c.experiment)
Index(None, tag.c.tag)
Index(None, experiment.c.version_id)
Index(None, ensemble_member.c.experiment)
Index(None, experiment_member.c.member)
Index(None, job.c.experiment)
Index(None, job.c.state)
Index(None, review.c.version_id, review.c.slice)
Index(None, evaluation.c.dataset)
Index(None, evaluation.c.labels)
