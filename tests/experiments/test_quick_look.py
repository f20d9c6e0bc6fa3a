"""Quick looks: a share of the patients, a number and a mark of their own, and no place among full experiments."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHORT, Program

from ichx.datasets.dataset import load_dataset
from ichx.errors import ConflictError, InvalidInputError, NotFoundError
from ichx.evaluation.audit import audit
from ichx.evaluation.compare import compare_scores
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.archive_export import archive_experiment
from ichx.experiments.archive_import import import_experiment
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.fold_status import missing_tests
from ichx.experiments.prepare import prepare_experiment
from ichx.experiments.quick_look import quick_look
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Selection, marks, open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def looked(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the trained workspace with a finished quick look, 4, at half of the patients of 2."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("looked") / "workspace"))
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        look = quick_look(project, 2, 0.5)
        run_experiment(project, look.number)
    return root


@pytest.fixture
def quick(looked: Path) -> Iterator[Project]:
    workspace = open_workspace(looked)
    with open_store(workspace) as store:
        yield Project(workspace, store, load_registry())


def test_it_trains_and_predicts_its_share_of_the_patients_only(quick: Project) -> None:
    look, full = quick.store.experiment(4), quick.store.experiment(2)
    assert (look.parent, look.subset, look.kind, look.name) == (2, 0.5, "experiment", f"{full.name}-subset-0.5")
    assert marks(look) == ("50 % of the patients",)
    slices = load_dataset(quick, "ph").slices
    predicted: set[str] = set()
    for prediction in quick.store.predictions(4, role="oof", view="identity"):
        predicted |= set(read_predictions(quick.workspace.root / prediction.path).slice_ids)
    used = slices[slices["slice_id"].isin(predicted)]
    assert slices["patient"].nunique() == 8
    assert used["patient"].nunique() == 4
    assert len(slices[slices["patient"].isin(set(used["patient"]))]) == len(used)
    assert look.score is not None
    assert full.score == quick.store.experiment(2).score
    assert quick.store.predictions(4, role="test") == []
    assert [missing_tests(quick, look, fold) for fold in (0, 1)] == [[], []]
    result = audit(quick, 4)
    assert {check.state for check in result.checks} == {"ok"}, result
    assert "4 of 8" in next(check.detail for check in result.checks if check.subject == "subset")


def test_it_is_never_blended_with_full_experiments(quick: Project) -> None:
    with pytest.raises(InvalidInputError, match=r"Experiment 4 .*50 %"):
        make_ensemble(quick, EnsembleRequest(members=(2, 4)))


def test_a_comparison_reports_the_shares(quick: Project) -> None:
    compared = compare_scores(quick, quick.store.experiment(2), quick.store.experiment(4))
    assert any("100 % (experiment 2)" in note and "50 % (experiment 4)" in note for note in compared.notes)


def test_the_best_experiments_leave_it_out(trained_copy: Path) -> None:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        run_experiment(project, quick_look(project, 2, 0.5).number)
        report = make_ensemble(project, EnsembleRequest(top=4, tta="none"))
        assert sorted(member.experiment for member in report.ensemble.members) == [1, 2, 3]
        assert any("4 (" in note and "1 experiment " in note for note in report.notes)


def test_another_call_finds_it_and_another_share_is_another_one(dataset_copy: Path) -> None:
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        new_experiment(store, project.registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
        with pytest.raises(NotFoundError, match="50 %"):
            quick_look(project, 1, 0.5, register=False)
        assert quick_look(project, 1, 0.5).number == 2
        assert quick_look(project, 1, 0.5, register=False).number == 2
        assert quick_look(project, 1, 0.75).number == 3
        with pytest.raises(ConflictError, match=r"Experiment 2 .*50 %"):
            quick_look(project, 2, 0.5)
        for share in (0.0, 1.0, -1.0, 1.5, float("nan")):
            with pytest.raises(InvalidInputError, match="--subset"):
                quick_look(project, 1, share)
        with pytest.raises(InvalidInputError, match="of the 4 patients of fold 0"):
            quick_look(project, 1, 0.01)
        assert [e.number for e in store.experiments(Selection(where="subset < 1"), limit=None)] == [3, 2]


def test_it_caches_its_share_only_and_trains_as_on_the_full_cache(dataset_copy: Path) -> None:
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        new_experiment(store, project.registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
        first = quick_look(project, 1, 0.5)
        small = prepare_experiment(project, first, RunCallbacks())
        slices = load_dataset(project, "ph").slices
        assert len(small.cache) == len(small.data.slices) < len(slices)
        run_experiment(project, first.number)
        logits = [_logits(project, first.number, fold) for fold in (0, 1)]
        prepare_experiment(project, store.experiment(1), RunCallbacks())  # builds the cache of all slices
        full = prepare_experiment(project, first, RunCallbacks())
        assert len(full.cache) == len(slices)
        for rows in ("training_rows", "validation_rows"):
            ids = [p.data.slices["slice_id"].to_numpy()[getattr(p, rows)(0)].tolist() for p in (small, full)]
            assert ids[0] == ids[1]
        for fold in (0, 1):
            workspace.experiment_files(first.number).fold(fold).weights.unlink()
        assert run_experiment(project, first.number).trained == (0, 1)
        for fold in (0, 1):
            pd.testing.assert_frame_equal(logits[fold], _logits(project, first.number, fold))


def test_an_archive_keeps_the_share(quick: Project, trained_copy: Path, tmp_path: Path) -> None:
    archive_experiment(quick, 4, tmp_path / "look.zip", weights=True)
    with zipfile.ZipFile(tmp_path / "look.zip") as archive:
        assert json.loads(archive.read("experiment.json"))["format"] == 2  # older versions would lose the share
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        made = import_experiment(Project(workspace, store, load_registry()), tmp_path / "look.zip")
        found = store.experiment(made.number)
    assert (found.subset, found.score) == (0.5, pytest.approx(quick.store.experiment(4).score))
    assert marks(found) == ("50 % of the patients",)


def test_the_command(ichx: Program, dataset_copy: Path) -> None:
    settings = [word for setting in SHORT for word in ("--set", setting)]
    assert ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, *settings, cwd=dataset_copy).code == 0
    done = ichx("run", 1, "--subset", "0.5", "--fold", 0, cwd=dataset_copy)
    assert done.code == 0, done.err
    assert "experiment 2: 50 % of the patients of experiment 1" in done.err
    assert "50 % of the patients" in done.out
    ichx("run", 1, "--subset", "5", "--json", cwd=dataset_copy).check_error("invalid_input", "5")


def _logits(project: Project, number: int, fold: int) -> pd.DataFrame:
    (path,) = [p.path for p in project.store.predictions(number, role="oof", view="identity") if p.fold == fold]
    table = read_predictions(project.workspace.root / path)
    return pd.DataFrame(table.logits, index=pd.Index(table.slice_ids))
