"""Training on labels of studies, from the spreadsheet to scores of studies."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Program

from ichx.datasets.add import AddRequest, add_dataset
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml, to_toml
from ichx.store import open_store
from ichx.training import trainer
from ichx.training.epoch_loop import validate
from ichx.training.run_options import RunOptions
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STAGES = ("balanced", "rebalanced", "full")
SETTINGS = [f"stage.{name}.{value}" for name in STAGES for value in ("sampling=grouped", "per_study=8", "epochs=1")]


def write_studies(phantom: PhantomFiles, path: Path) -> None:
    """Write the labels of studies with columns of other names, the last study without any."""
    spec = importlib.util.spec_from_file_location("study_sheet", BENCHMARKS / "study_sheet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    studies = module.study_labels(phantom)
    rows = [f"{study};{'yes' if v['any'] else 'no'};{v['subdural']:g}" for study, v in studies.items()]
    path.write_text("\n".join(["Study;ICH;SDH", *rows[:-1]]) + "\n", encoding="utf-8")


@pytest.fixture
def root(phantom: PhantomFiles, tmp_path: Path, ichx: Program) -> Path:
    write_studies(phantom, tmp_path / "studies.csv")
    assert ichx("init", cwd=tmp_path).code == 0
    command = ("--labels", "studies.csv", "--id-column", "Study", "--label", "any=ICH", "--label", "subdural=SDH")
    added = ichx("data", "add", "st", phantom.train, *command, "--folds", 2, cwd=tmp_path)
    assert added.code == 0, added.err
    assert "of 1 study without any label" in added.err
    return tmp_path


def oof(
    root: Path, *, workers: int = 0, pooling: str = "posterior", start: float = 0.5, stop: bool = False
) -> np.ndarray:
    """Return the OOF logits of fold 0 of a new experiment."""
    workspace = open_workspace(root)
    settings = [
        *SETTINGS,
        "batch=16",
        "input.size=48",
        "input.crop=0",
        "precision=fp32",
        f"loss.study_pooling={pooling}",
        f"loss.study_start={start}",
    ]
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        request = ExperimentRequest("tiny_resnet", settings=settings, dataset="st")
        number = new_experiment(store, project.registry, request).number
        options = RunOptions(device="cpu", workers=workers)
        if stop:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trainer, "validate", validate_once)
                patch.setattr(validate_once, "calls", 0, raising=False)
                with pytest.raises(Stopped):
                    run_experiment(project, number, folds=[0], options=options)
        run_experiment(project, number, folds=[0], options=options)
        (stored,) = [p for p in store.predictions(number, role="oof") if p.view == "identity"]
        return read_predictions(workspace.root / stored.path).logits


class Stopped(Exception):  # noqa: N818  # not an error
    pass


def validate_once(*arguments: object, **named: object) -> object:
    """Validate the first epoch; break the run at the second validation."""
    validate_once.calls += 1  # type: ignore[attr-defined]
    if validate_once.calls == 2:  # type: ignore[attr-defined]
        raise Stopped
    return validate(*arguments, **named)  # type: ignore[arg-type]


def test_a_run_resumes_to_the_bit_with_any_number_of_workers(root: Path) -> None:
    complete = oof(root)
    assert np.array_equal(complete, oof(root, workers=1))
    assert np.array_equal(complete, oof(root, stop=True))
    others = [oof(root, pooling="max"), oof(root, pooling="noisy_or"), oof(root, start=0), oof(root, start=1)]
    assert not any(np.array_equal(complete, other) for other in others)


def test_where_studies_are_labelled_new_experiments_train_on_posteriors(root: Path, phantom: PhantomFiles) -> None:
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        add_dataset(project, AddRequest("slices", phantom.train, labels=phantom.train_labels, folds=2))

        def pooling(**given: Any) -> str:
            request = ExperimentRequest(**{"plugin": "tiny_resnet", "settings": SETTINGS, "dataset": "st"} | given)
            recipe = from_toml(new_experiment(store, project.registry, request).recipe)
            return recipe.loss.study_pooling

        (root / "own.toml").write_text(to_toml(apply_settings(load_registry().get("tiny_resnet").recipe, SETTINGS)))
        assert pooling() == "posterior"
        assert pooling(settings=[*SETTINGS, "loss.study_pooling=noisy_or"]) == "noisy_or"
        assert pooling(file=root / "own.toml", settings=[]) == "noisy_or", "a recipe from a file stays as it is"
        assert pooling(dataset="slices") == "noisy_or", "it has no effect, and the digest stays the same"


def test_from_the_command_line_to_scores_of_studies(root: Path, ichx: Program) -> None:
    new = ("exp", "new", "--plugin", "tiny_resnet", "--size", 48, "--dataset", "st", "--set", "batch=16")
    refused = ichx(*new, "--json", cwd=root)
    refused.check_error("unsupported", "labels of studies", "balanced, rebalanced, full")
    assert "stage.*.sampling=grouped" in refused.error["remedy"]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    assert ichx(*new, *settings, cwd=root).code == 0
    ran = ichx("run", 1, "--device", "cpu", cwd=root)
    assert ran.code == 0, ran.err
    with open_store(open_workspace(root)) as store:
        experiment = store.experiment(1)
        table = read_oof(Project(open_workspace(root), store, load_registry()), experiment)
        assert np.isnan(table.labels).all()
        assert table.truth.unit == "study"
        assert experiment.score == table.score
        assert np.isfinite(table.score)
    scores = ichx("scores", 1, cwd=root)
    assert scores.code == 0, scores.err
    assert "no label of a slice is known" in scores.err
    assert ichx("audit", 1, cwd=root).code == 0
    assert ichx("report", 1, "--out", "report.html", cwd=root).code == 0
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "only studies are labelled" in page
    assert "nan" not in page.replace("nanoseconds", "").split("<main")[1].split("<svg")[0]
    ichx("ensemble", "--members", 1, "--json", cwd=root).check_error("unsupported", "only studies have")
    ichx("threshold", 1, "--label", "any", "--sensitivity", 0.9, "--per", "slice", "--json", cwd=root).check_error(
        "not_ready", "has a known label"
    )


@pytest.mark.parametrize("inputs", [("features",), ("logits",)])
def test_a_sequence_experiment_learns_from_studies(root: Path, ichx: Program, inputs: tuple[str, ...]) -> None:
    """Its study output trains on the labels of studies; slices have no label, and only studies are scored."""
    workspace = open_workspace(root)
    settings = (*SETTINGS, "batch=16", "input.size=48", "input.crop=0")
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        request = ExperimentRequest("tiny_resnet", settings=settings, dataset="st")
        member = new_experiment(store, project.registry, request).number
        run_experiment(project, member)
        short = ("stage.full.epochs=2", "sequence.width=4", "sequence.parts=2", "batch=4")
        heads = new_sequence(project, ExperimentRequest("gru_stack", settings=short), [member], inputs)[0]
        run_experiment(project, heads.number)
        table = read_oof(project, store.experiment(heads.number))
        assert table.study_probabilities is not None
        assert table.truth.unit == "study"
        history = store.history(heads.number, 0)
        assert all(np.isfinite(value) for record in history for name, value in record.values.items() if "loss" in name)
        assert history[0].values["loss"] > 0, "labels of studies are learned from"
        assert np.isfinite(store.experiment(heads.number).score or np.nan)
    scores = ichx("scores", heads.number, "--pooling", "learnt", "--json", cwd=root)
    assert scores.code == 0, scores.err
    card = json.loads(scores.out)
    counts = {unit: [label["count"] for label in card[unit]["scores"]["labels"]] for unit in ("slices", "studies")}
    assert not any(counts["slices"])
    assert any(counts["studies"])
    audited = ichx("audit", heads.number, cwd=root)
    assert audited.code == 0, audited.out
