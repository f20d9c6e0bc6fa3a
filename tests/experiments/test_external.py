"""External experiments: predictions of another tool, registered, scored, blended and audited."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ichx.datasets.dataset import load_dataset, load_folds, load_version
from ichx.errors import InvalidInputError, NotFoundError, UnsupportedError
from ichx.evaluation.audit import audit
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_submissions import predict_test
from ichx.evaluation.metric import score
from ichx.evaluation.oof import read_oof
from ichx.experiments.archive_export import archive_experiment
from ichx.experiments.dry_run import dry_run
from ichx.experiments.external import ExternalRequest, Registered, register_external
from ichx.experiments.fold_status import finished_folds, missing_tests
from ichx.experiments.gc import find_garbage
from ichx.experiments.prepare import open_cache
from ichx.experiments.quick_look import quick_look
from ichx.experiments.rebuild import rebuild_store
from ichx.experiments.register import ExperimentRequest, clone_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.inference.trained import find_trained
from ichx.labels import LABELS
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.report import write_report
from ichx.store import Selection, marks
from ichx.training.callbacks import Callbacks


class Files:
    """Predictions of the phantom's slices that are right with noise."""

    def __init__(self, project: Project, folder: Path) -> None:
        version = project.store.version("ph")
        self.slices = load_version(project.workspace, version).slices
        self.folds = load_folds(project.workspace, version, version.fold_set(), self.slices)
        self.labels = self.slices[list(LABELS)].to_numpy(float)
        test = load_version(project.workspace, project.store.version("ph-test")).slices
        self.folder = folder
        random = np.random.default_rng(0)
        p = np.clip(0.2 + 0.6 * self.labels + random.normal(0, 0.15, self.labels.shape), 0, 1)
        self.oof = pd.DataFrame(p, columns=list(LABELS))
        self.oof.insert(0, "SOPInstanceUID", self.slices["slice_id"])
        self.test = pd.DataFrame(random.random((len(test), 6)), columns=list(LABELS))
        self.test.insert(0, "SOPInstanceUID", test["slice_id"])

    def write(self, table: pd.DataFrame, name: str) -> Path:
        path = self.folder / name
        if path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False)
        return path

    def long(self, table: pd.DataFrame) -> pd.DataFrame:
        rows = table.melt([name for name in table if name not in LABELS], list(LABELS), "name", "Label")
        rows["ID"] = rows["SOPInstanceUID"] + "_" + rows["name"]
        return rows.drop(columns=["SOPInstanceUID", "name"]).sample(frac=1, random_state=0)


@pytest.fixture
def files(project: Project, tmp_path: Path) -> Files:
    return Files(project, tmp_path)


def register(project: Project, oof: Path, **options: object) -> Registered:
    return register_external(project, ExternalRequest("other", oof, **options))  # type: ignore[arg-type]


def test_a_sequence_experiment_reads_the_logits_of_another_tool(project: Project, files: Files) -> None:
    tests = {"ph-test": files.write(files.test, "t.parquet")}
    member = register(project, files.write(files.oof, "oof.csv"), tests=tests).experiment
    settings = ("stage.full.epochs=2", "sequence.width=4", "sequence.parts=2", "batch=4")
    request = ExperimentRequest(plugin="gru_stack", settings=settings)
    made, _ = new_sequence(project, request, [1, member.number], ["logits"])
    report = run_experiment(project, made.number)
    assert report.folds_done == 2
    assert marks(project.store.experiment(made.number)) == ("external",)
    oof = read_oof(project, project.store.experiment(made.number))
    assert oof.score < read_oof(project, project.store.experiment(1)).score  # the other tool knows more
    with pytest.raises(UnsupportedError, match=f"Experiment {member.number}"):
        find_trained(project, made.number)


def test_registered_scored_and_marked(project: Project, files: Files) -> None:
    made = register(project, files.write(files.oof, "oof.csv"), tests={"ph-test": files.write(files.test, "t.parquet")})
    experiment = made.experiment
    assert (experiment.number, experiment.name, experiment.state) == (4, "other", "done")
    assert marks(experiment) == ("external",)
    clipped = np.clip(files.oof[list(LABELS)].to_numpy(), 1e-7, 1 - 1e-7)
    assert experiment.score == pytest.approx(score(files.labels, clipped), rel=1e-6)
    assert experiment.score_tta == experiment.score
    assert experiment.score_low is None  # too few patients for an interval
    table = read_oof(project, experiment, "hflip")
    np.testing.assert_allclose(table.probabilities, clipped, rtol=1e-5)
    assert table.probabilities.max() == pytest.approx(1 - 1e-7, abs=1e-9)  # some are exactly 1 in the file
    ids, predicted = predict_test(project, experiment, project.store.version("ph-test"), "hflip")
    expected = files.test.set_index("SOPInstanceUID").loc[list(ids)].to_numpy()
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    assert finished_folds(project, experiment) == {0, 1}
    assert missing_tests(project, experiment, 0) == []
    assert made.notes == ()


@pytest.mark.parametrize("form", ["long", "parquet", "logits", "fold", "names"])
def test_forms_of_one_table(project: Project, files: Files, form: str) -> None:
    expected = register(project, files.write(files.oof, "oof.csv")).experiment.score
    table, name = files.oof.copy(), "form.csv"
    if form == "fold":
        table["Fold"] = files.folds
        table = files.long(table)
    elif form == "long":
        table = files.long(table)
    elif form == "parquet":
        name = "form.parquet"
    elif form == "logits":
        p = np.clip(table[list(LABELS)], 1e-7, 1 - 1e-7)
        table[list(LABELS)] = np.log(p / (1 - p))
    else:
        table["SOPInstanceUID"] = files.slices["file"].to_numpy()
    made = register(project, files.write(table, name), as_logits=form == "logits")
    assert made.experiment.score == pytest.approx(expected, rel=1e-6)


def test_blended_and_reported(project: Project, files: Files) -> None:
    test = files.write(files.test, "test.csv")
    number = register(project, files.write(files.oof, "oof.csv"), tests={"ph-test": test}).experiment.number
    report = make_ensemble(project, EnsembleRequest(members=(1, number), method="mean", smooth=False, calibrate=False))
    assert {m.experiment for m in report.ensemble.members} == {1, number}
    assert marks(report.ensemble) == ("external",)
    assert len(report.submissions) == 1
    best = make_ensemble(project, EnsembleRequest(top=1))
    assert [m.experiment for m in best.ensemble.members] == [number]
    page = write_report(project, number).path.read_text(encoding="utf-8")
    assert "external" in page


def test_audit_names_what_cannot_be_checked(project: Project, files: Files) -> None:
    register(project, files.write(files.oof, "oof.csv"))
    found = audit(project, 4)
    assert found.passed
    states = {check.subject: check.state for check in found.checks}
    assert states["recipe"] == states["fold 0 weights"] == states["fold 1 weights"] == "unknown"
    assert states["fold 0 predictions"] == states["score"] == states["complete"] == "ok"
    path = project.workspace.experiment_files(4).fold(0).predictions("oof", "identity")
    path.write_bytes(project.workspace.experiment_files(4).fold(1).predictions("oof", "identity").read_bytes())
    assert not audit(project, 4).passed


def test_some_folds(project: Project, files: Files) -> None:
    part = files.oof[files.folds == 1]
    experiment = register(project, files.write(part, "oof.csv")).experiment
    assert (experiment.folds_done, experiment.folds) == (1, 2)
    assert marks(experiment) == ("external", "partial (1 of 2 folds)")
    p = np.clip(part[list(LABELS)].to_numpy(), 1e-7, 1 - 1e-7)
    assert experiment.score == pytest.approx(score(files.labels[files.folds == 1], p), rel=1e-6)


def test_test_predictions_by_fold(project: Project, files: Files) -> None:
    other = files.test.assign(**{name: files.test[name] / 2 for name in LABELS})
    both = pd.concat([files.test.assign(fold=0), other.assign(fold=1)])
    oof, test = files.write(files.oof, "oof.csv"), files.write(files.long(both), "test.csv")
    experiment = register(project, oof, tests={"ph-test": test}).experiment
    ids, predicted = predict_test(project, experiment, project.store.version("ph-test"), "none", average="probability")
    expected = 0.75 * files.test.set_index("SOPInstanceUID").loc[list(ids)].to_numpy()
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    lacking = files.write(both[both["fold"] == 0], "lacking.csv")
    with pytest.raises(InvalidInputError, match=r"folds 0, .* folds 0, 1\."):
        register(project, oof, tests={"ph-test": lacking})


def test_all_problems_at_once_and_nothing_registered(project: Project, files: Files) -> None:
    ids = files.oof["SOPInstanceUID"].tolist()
    folds = files.folds.astype(int)
    folds[2] = 1 - folds[2]
    oof = pd.concat([files.oof.assign(fold=folds).iloc[1:], files.oof.iloc[:1].assign(SOPInstanceUID="nobody", fold=0)])
    test = files.test.copy()
    test.loc[0, "any"], test.loc[1, "epidural"] = np.nan, 1.5
    test.loc[3, "SOPInstanceUID"] = test.loc[2, "SOPInstanceUID"]
    before = sorted(project.workspace.experiments_dir.iterdir())
    with pytest.raises(InvalidInputError) as raised:
        register(project, files.write(oof, "oof.csv"), tests={"ph-test": files.write(test, "test.csv")})
    problem = raised.value.problem
    assert "nobody" in problem
    assert f"{ids[0]} of fold {files.folds[0]}" in problem
    assert f"{ids[2]}: {folds[2]} instead of {files.folds[2]}" in problem
    for number, value in ((0, "nan"), (1, "1.5")):
        line = next(line for line in problem.splitlines() if f"row {number + 1} ({test.loc[number].iloc[0]})" in line)
        assert value in line
    assert any("test.csv" in line and test.loc[2, "SOPInstanceUID"] in line for line in problem.splitlines())
    assert sorted(project.workspace.experiments_dir.iterdir()) == before
    assert len(project.store.experiments(Selection(), limit=None)) == 3


def test_columns_and_names(project: Project, files: Files) -> None:
    with pytest.raises(InvalidInputError, match="epidural"):
        register(project, files.write(files.oof.drop(columns="epidural"), "five.csv"))
    with pytest.raises(InvalidInputError, match="no column of slices"):
        register(project, files.write(files.oof[list(LABELS)], "none.parquet"))
    oof = files.write(files.oof, "oof.csv")
    with pytest.raises(NotFoundError, match=r"absent\.csv"):
        register(project, files.folder / "absent.csv")
    with pytest.raises(NotFoundError, match="nowhere"):
        register(project, oof, tests={"nowhere": oof})
    with pytest.raises(InvalidInputError, match="ph"):
        register(project, oof, tests={"ph": oof})
    with pytest.raises(NotFoundError, match="theirs"):
        register(project, oof, folds="theirs")


def test_without_a_network(project: Project, files: Files, tmp_path: Path) -> None:
    number = register(project, files.write(files.oof, "oof.csv")).experiment.number
    for refused in (
        lambda: run_experiment(project, number),
        lambda: dry_run(project, number),
        lambda: quick_look(project, number, 0.5),
        lambda: find_trained(project, number),
        lambda: clone_experiment(project.store, project.registry, number),
        lambda: archive_experiment(project, number, tmp_path / "other.zip"),
    ):
        with pytest.raises(UnsupportedError, match="Experiment 4 .* external"):
            refused()


def test_caches_of_the_placeholder_recipe_are_garbage(
    project: Project, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ichx.experiments.garbage.FRESH_SECONDS", -1)
    experiment = register(project, files.write(files.oof, "oof.csv")).experiment
    data = load_dataset(project, "ph")
    cache = open_cache(project.workspace, data, from_toml(experiment.recipe), Callbacks())
    assert cache.folder in {garbage.path for garbage in find_garbage(project)}


def test_rebuilt_store_knows_that_it_is_external(project: Project, files: Files) -> None:
    before = register(project, files.write(files.oof, "oof.csv")).experiment
    project.store.trash([4])
    project.store.purge(4)
    rebuild_store(project)
    assert project.store.experiment(4) == before
