"""A run: stages as the recipe says, validation on the whole fold, what is done is not done again."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import SHORT, Program

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import CacheSpec
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import LoadedDataset, load_dataset, load_folds
from ichx.errors import ConflictError, CorruptFileError, DivergedError, InvalidInputError, NotFoundError
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import FoldPlan, RunCallbacks
from ichx.experiments.prepare import prepare_experiment
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, Experiment, Store, open_store
from ichx.training.device import Hardware
from ichx.training.prediction import PredictionTask, Predictor
from ichx.training.run_options import RunOptions
from ichx.training.runtime import Runtime
from ichx.training.schedules import learning_rate
from ichx.training.slice_feed import SliceFeed
from ichx.training.weights import load_exactly, load_file, read_weights
from ichx.training.window_step import WindowStep
from ichx.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow

Place = tuple[Workspace, Store]


@pytest.fixture
def fresh(dataset_copy: Path) -> Iterator[Place]:
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        yield workspace, store


@pytest.fixture
def trained(trained_root: Path) -> Iterator[Place]:
    """Return the shared trained workspace, to be read only."""
    workspace = open_workspace(trained_root)
    with open_store(workspace) as store:
        yield workspace, store


def register(store: Store, *settings: str, plugin: str = "tiny_efficientnet") -> Experiment:
    return new_experiment(
        store, load_registry(), ExperimentRequest(plugin=plugin, size=32, settings=[*SHORT, *settings])
    )


@dataclass
class Watch(RunCallbacks):
    """Keeps the events of a run, and the checkpoint after each epoch."""

    folder: Path
    plans: list[FoldPlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    records: list[EpochRecord] = field(default_factory=list)
    phases: dict[str, tuple[int, int]] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def fold_started(self, plan: FoldPlan) -> None:
        self.plans.append(plan)

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        self.batches.append(batches)

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases[name] = (done, total)

    def epoch_ended(self, record: EpochRecord) -> None:
        self.records.append(record)
        newest = max(self.folder.glob("checkpoint-*.pt"))
        self.states.append(torch.load(newest, weights_only=True))


def run_watched(place: Place, experiment: Experiment, fold: int = 0) -> Watch:
    workspace, store = place
    watch = Watch(workspace.experiment_dir(experiment.number) / f"fold-{fold}")
    run_experiment(Project(workspace, store, load_registry()), experiment.number, folds=[fold], callbacks=watch)
    return watch


def test_rates_are_those_of_the_recipe(trained: Place) -> None:
    """Each stage has its own MultiStepLR, stepped per epoch; nothing leaks from one into the next."""
    _, store = trained
    experiment = store.experiment(1)
    expected = [
        (stage.name, epoch, stage.lr * stage.gamma ** sum(m < epoch for m in stage.milestones))
        for stage in from_toml(experiment.recipe).stage
        for epoch in range(1, stage.epochs + 1)
    ]
    assert [lr for _, _, lr in expected] == pytest.approx([4e-3, 2e-3, 1e-3, 2e-3, 1e-3, 3e-4])
    for fold in (0, 1):
        history = store.history(1, fold)
        assert [(r.stage, r.epoch) for r in history] == [(name, epoch) for name, epoch, _ in expected]
        assert [r.values["lr"] for r in history] == pytest.approx([lr for _, _, lr in expected], rel=1e-12)


def test_each_stage_has_a_new_optimizer(fresh: Place) -> None:
    experiment = register(fresh[1], "stage.balanced.epochs=2", "batch=16")
    watch = run_watched(fresh, experiment)
    steps = [int(state["optimizer"]["state"][0]["step"]) for state in watch.states]
    first, second, third, fourth = watch.batches
    assert steps == [first, first + second, third, fourth]
    assert [(state["stage"], state["epoch"]) for state in watch.states] == [(0, 1), (0, 2), (1, 1), (2, 1)]


def test_a_cosine_rate_falls_within_the_epoch(fresh: Place) -> None:
    experiment = register(fresh[1], "stage.full.epochs=2", "stage.full.scheduler=cosine", "batch=16")
    watch = run_watched(fresh, experiment)
    stage = from_toml(experiment.recipe).stage[2]
    steps = watch.batches[2:]
    last = [state["optimizer"]["param_groups"][0]["lr"] for state in watch.states[2:]]
    expected = [learning_rate(stage, epoch, (count - 1) / count) for epoch, count in enumerate(steps)]
    assert last == pytest.approx(expected)
    assert last[1] < last[0] < stage.lr


def test_oof_predictions_are_those_of_the_stored_weights(trained: Place) -> None:
    """The last validation is kept as the prediction: the weights on the disk must give the same."""
    workspace, store = trained
    registry = load_registry()
    job = prepare_experiment(Project(workspace, store, registry), store.experiment(1), RunCallbacks())
    model = job.plugin.build(job.recipe, False).to(memory_format=torch.channels_last)
    load_exactly(model, workspace.experiment_dir(1) / "fold-0" / "weights.safetensors")
    for stored in store.predictions(1, role="oof"):
        if stored.fold == 0:
            feed = SliceFeed(job.cache, job.data.slices, job.recipe)
            predictor = Predictor(Runtime(Hardware(torch.device("cpu"), "fp32", "a test")))
            logits = predictor.logits(model, feed, job.validation_rows(0), PredictionTask(stored.view))
            found = read_predictions(workspace.root / stored.path)
            np.testing.assert_allclose(found.logits, logits, atol=1e-5)


def test_stages_continue_with_the_weights(fresh: Place) -> None:
    experiment = register(fresh[1], "stage.rebalanced.lr=1e-12", "stage.full.lr=1e-12")
    watch = run_watched(fresh, experiment)
    first, *later = (state["model"] for state in watch.states)
    start = load_registry().get(experiment.plugin)
    names = [name for name, _ in start.build(start.recipe, False).named_parameters()]
    for state in later:
        for name in names:
            torch.testing.assert_close(state[name], first[name], rtol=0, atol=1e-8)
    saved = read_weights(watch.folder / "weights.safetensors")
    assert all(torch.equal(saved[name], later[-1][name]) for name in saved)


def test_each_stage_trains_on_its_sample(fresh: Place) -> None:
    workspace, store = fresh
    watch = run_watched(fresh, register(store, "batch=16"))
    data = load_dataset(Project(workspace, store), "ph")
    folds = load_folds(workspace, data.version, data.version.folds[0])
    positives = int((data.slices["any"].to_numpy()[folds != 0] > 0.5).sum())
    drawn = positives + min(positives, int((folds != 0).sum()) - positives)
    images = [record.values["images"] for record in watch.records]
    whole = int((folds != 0).sum())
    assert images == [drawn // 16 * 16, drawn // 16 * 16, whole // 16 * 16]
    (plan,) = watch.plans
    assert (plan.train, plan.validation) == (whole, int((folds == 0).sum()))
    assert (plan.epochs, plan.epochs_done, plan.start) == (3, 0, "random weights")


def by_hand(workspace: Workspace, data: LoadedDataset, experiment: Experiment, rows: np.ndarray) -> np.ndarray:
    """Return logits of whole, unaugmented slices from the stored weights of fold 0, one slice at a time."""
    recipe = from_toml(experiment.recipe)
    spec = CacheSpec(recipe.input.size, recipe.input.centre, recipe.input.resize)
    cache = ensure_cache(workspace.cache_dir, data.version.dataset, data.source, data.slices, spec)
    model = load_registry().get(experiment.plugin).build(recipe, False).eval()
    load_file(model, workspace.experiment_dir(experiment.number) / "fold-0" / "weights.safetensors", lambda note: None)
    step = WindowStep(recipe.input)
    windows = data.slices[["window_centre", "window_width"]].to_numpy(np.float32)
    logits = []
    with torch.inference_mode():
        for row in rows:
            hu = torch.from_numpy(cache.read(int(row)))[None]
            logits.append(model(step(hu, torch.from_numpy(windows[row : row + 1])))[0].numpy())
    return np.array(logits)


def test_validation_is_on_the_whole_fold_without_augmentation(fresh: Place) -> None:
    workspace, store = fresh
    experiment = register(store, "batch=48")
    watch = run_watched(fresh, experiment)
    data = load_dataset(Project(workspace, store), "ph")
    rows = np.flatnonzero(load_folds(workspace, data.version, data.version.folds[0]) == 0)
    assert len(rows) % 48, "the last batch of the fold is a ragged one"
    assert watch.phases["validating"] == (len(rows), len(rows))

    expected = by_hand(workspace, data, experiment, rows)
    stored = read_predictions(watch.folder / "oof-identity.parquet")
    assert stored.slice_ids.tolist() == data.slices["slice_id"].to_numpy()[rows].tolist()
    np.testing.assert_allclose(stored.logits, expected, atol=1e-4)

    labels = data.slices[list(LABELS)].to_numpy(np.float64)[rows]
    last = watch.records[-1].values
    assert last["score"] == score(labels, probabilities(stored.logits))
    recorded = {p.view: p for p in store.predictions(experiment.number, role="oof")}
    assert recorded["identity"].score == last["score"]
    assert recorded["hflip"].slices == len(rows)
    weights = np.array([1, 1, 1, 1, 1, 2]) / 7
    assert last["score"] == pytest.approx(sum(w * last[f"score_{n}"] for w, n in zip(weights, LABELS, strict=True)))


def test_a_test_set_is_predicted_with_the_stored_weights(trained: Place) -> None:
    workspace, store = trained
    data = load_dataset(Project(workspace, store), "ph-test")
    expected = by_hand(workspace, data, store.experiment(2), np.arange(len(data.slices)))
    stored = read_predictions(workspace.experiment_dir(2) / "fold-0" / "test-ph-test-v1-identity.parquet")
    assert stored.slice_ids.tolist() == data.slices["slice_id"].tolist()
    np.testing.assert_allclose(stored.logits, expected, atol=1e-4)


def test_a_run_records_its_environment(trained: Place) -> None:
    workspace, store = trained
    for run in store.runs(1):
        assert run.state == "done"
        assert run.epochs_done == 6
        assert run.device.startswith("cpu, fp32 (CPU, ")
        assert {"torch", "timm", "python"} <= set(run.libraries)
    assert not list(workspace.experiment_dir(1).rglob("checkpoint-*"))
    assert not list(workspace.experiment_dir(1).rglob("*.tmp"))


def test_a_finished_experiment_is_reported_and_not_trained(trained_copy: Path, ichx: Program) -> None:
    before = {path: path.read_bytes() for path in (trained_copy / "experiments").rglob("*.*")}
    done = ichx("run", 2, cwd=trained_copy)
    assert done.code == 0
    assert "experiment 2, folds 0, 1: already done" in done.err
    assert "experiment 2: OOF score" in done.out
    assert {path: path.read_bytes() for path in (trained_copy / "experiments").rglob("*.*")} == before
    with open_store(open_workspace(trained_copy)) as store:
        assert [run.attempt for run in store.runs(2)] == [1, 1]


def test_a_test_set_added_later_is_predicted_from_the_stored_weights(
    trained_copy: Path, phantom: PhantomFiles, ichx: Program
) -> None:
    workspace = open_workspace(trained_copy)
    home = workspace.experiment_dir(2)
    weights = (home / "fold-0" / "weights.safetensors").read_bytes()
    assert phantom.test is not None
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store), AddRequest("late", phantom.test, test_of="ph", sample=phantom.sample_submission)
        )
    assert ichx("run", 2, cwd=trained_copy).code == 0
    for view in ("identity", "hflip"):
        early, late = (read_predictions(home / "fold-0" / f"test-{n}-v1-{view}.parquet") for n in ("ph-test", "late"))
        assert late.slice_ids.tolist() == early.slice_ids.tolist()
        np.testing.assert_array_equal(late.logits, early.logits)
    assert (home / "fold-0" / "weights.safetensors").read_bytes() == weights
    with open_store(workspace) as store:
        assert [(r.attempt, r.state, r.epochs_done) for r in store.runs(2, 0)] == [(1, "done", 3), (2, "done", 0)]
        assert store.experiment(2).state == "done"
        assert len(store.history(2, 0)) == 3


def test_stored_weights_of_another_model_predict_nothing(trained_copy: Path, phantom: PhantomFiles) -> None:
    workspace = open_workspace(trained_copy)
    weights = workspace.experiment_dir(2) / "fold-0" / "weights.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors.pop(sorted(tensors)[0])
    safetensors.torch.save_file(tensors, weights)
    assert phantom.test is not None
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store), AddRequest("late", phantom.test, test_of="ph", sample=phantom.sample_submission)
        )
        with pytest.raises(CorruptFileError, match="weights.safetensors"):
            run_experiment(Project(workspace, store, load_registry()), 2)
        assert not store.predictions(2, role="test", version_id=store.version("late").id)


def test_an_option_without_effect_on_a_finished_experiment_is_refused(trained: Place, trained_root: Path) -> None:
    workspace, store = trained
    weights = trained_root / "experiments" / "2" / "fold-0" / "weights.safetensors"
    for options in (RunOptions(pretrained=True), RunOptions(weights=weights)):
        with pytest.raises(ConflictError, match="random weights"):
            run_experiment(Project(workspace, store, load_registry()), 1, options=options)


def test_no_pretrained_applies_to_later_folds(fresh: Place) -> None:
    workspace, store = fresh
    experiment = register(store, "model.pretrained=true")
    registry = load_registry()
    options = RunOptions(pretrained=False)
    run_experiment(Project(workspace, store, registry), experiment.number, folds=[0], options=options)
    with pytest.raises(ConflictError, match="random weights.*pretrained weights"):
        run_experiment(Project(workspace, store, registry), experiment.number, options=RunOptions(pretrained=True))
    watch = Watch(workspace.experiment_dir(experiment.number) / "fold-1")
    run_experiment(Project(workspace, store, registry), experiment.number, callbacks=watch)
    assert [plan.start for plan in watch.plans] == ["random weights"]


def test_training_starts_from_a_weights_file(fresh: Place, trained_root: Path) -> None:
    workspace, store = fresh
    given = trained_root / "experiments" / "2" / "fold-0" / "weights.safetensors"
    experiment = register(store, *(f"stage.{name}.lr=1e-12" for name in ("balanced", "rebalanced", "full")))
    watch = Watch(workspace.experiment_dir(experiment.number) / "fold-0")
    options = RunOptions(weights=given)
    run_experiment(
        Project(workspace, store, load_registry()), experiment.number, folds=[0], options=options, callbacks=watch
    )
    tensors = len(read_weights(given))
    assert watch.notes == [f"weights.safetensors: {tensors} of {tensors} tensors loaded"]
    assert watch.plans[0].start == f"the weights {given}"
    model = load_registry().get("tiny_efficientnet").build(from_toml(experiment.recipe), False)
    begun, ended = read_weights(given), read_weights(watch.folder / "weights.safetensors")
    for name, _ in model.named_parameters():
        torch.testing.assert_close(ended[name], begun[name], rtol=0, atol=1e-8)


def test_unknown_experiments_and_folds(fresh: Place) -> None:
    workspace, store = fresh
    with pytest.raises(NotFoundError, match="7"):
        run_experiment(Project(workspace, store, load_registry()), 7)
    experiment = register(store)
    for fold in (2, -1):
        with pytest.raises(NotFoundError, match=str(fold)) as caught:
            run_experiment(Project(workspace, store, load_registry()), experiment.number, folds=[fold])
        assert "0 to 1" in caught.value.remedy
    assert store.runs(experiment.number) == []


@pytest.mark.parametrize(
    ("every", "what", "step"),
    [
        (0, "nan", 2),
        (1e-6, "conv_stem.weight", 1),  # a checkpoint at every sync point
    ],
)
def test_a_training_that_diverges_is_reported_and_the_run_fails(
    fresh: Place, every: float, what: str, step: int
) -> None:
    workspace, store = fresh
    experiment = register(store, "batch=16")
    weights = workspace.root / "huge.safetensors"
    model = load_registry().get("tiny_efficientnet").build(from_toml(experiment.recipe), False)
    safetensors.torch.save_file({name: value * 1e30 for name, value in model.named_parameters()}, weights)
    options = RunOptions(weights=weights, checkpoint_every=every)
    with pytest.raises(DivergedError) as caught:
        run_experiment(Project(workspace, store, load_registry()), experiment.number, options=options)
    folder = workspace.experiment_dir(experiment.number) / "fold-0"
    recorded = json.loads((folder / "nonfinite.json").read_text())
    assert (recorded["stage"], recorded["epoch"], recorded["step"]) == ("balanced", 1, step)
    assert recorded["lr"] == from_toml(experiment.recipe).stage[0].lr
    known = set(load_dataset(Project(workspace, store), "ph").slices["slice_id"])
    ids, before = recorded["slice_ids"], recorded["slice_ids_of_the_step_before"]
    assert len(set(ids) & known) == len(ids) == 16
    assert len(set(before) & known) == len(before) == (16 if step > 1 else 0)
    assert not set(ids) & set(before)
    named = (
        what,
        f"step {step} of {recorded['steps']}",
        f"{recorded['lr']:.1e}",
        *ids[:3],
        str(folder / "nonfinite.json"),
    )
    assert [value for value in named if value not in caught.value.problem] == []
    left = {path.name for path in folder.iterdir()} - {"run.log", "code.diff"}
    assert left == {"nonfinite.json"}, "no checkpoint of it"
    (run,) = store.runs(experiment.number)
    assert run.state == "failed"
    assert "finite" in (run.error or "")
    assert store.predictions(experiment.number) == []


def test_a_run_leaves_torchs_random_state(fresh: Place) -> None:
    """A run inside a user's program does not change its random numbers."""
    workspace, store = fresh
    experiment = register(store)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_experiment(Project(workspace, store, load_registry()), experiment.number, folds=[0])
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_lost_predictions_are_predicted_again_with_the_stored_weights(trained_copy: Path, ichx: Program) -> None:
    folder = trained_copy / "experiments" / "2" / "fold-1"
    before = {name: (folder / name).read_bytes() for name in ("oof-identity.parquet", "weights.safetensors")}
    (folder / "oof-identity.parquet").unlink()
    done = ichx("run", 2, cwd=trained_copy)
    assert done.code == 0, done.err
    assert "the OOF predictions of fold 1 are gone" in done.err
    assert "to train on" not in done.err
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert ichx("audit", 2, cwd=trained_copy).code == 0


@pytest.mark.parametrize("case", ["weights", "backbone", "plugin"])
def test_what_cannot_start_is_refused_before_a_cache_is_built(
    fresh: Place, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, store = fresh
    experiment = register(store)
    options = RunOptions(device="cpu")
    if case == "weights":
        safetensors.torch.save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
        options = RunOptions(device="cpu", weights=tmp_path / "other.safetensors")
    elif case == "backbone":  # as an archive of another version of timm may bring it
        recipe = experiment.recipe.replace("test_efficientnet.r160", "test_future.r160")
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE experiment SET recipe = ?", (recipe,))
    else:
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE experiment SET plugin = 'gone'")
    with pytest.raises((InvalidInputError, NotFoundError)):
        run_experiment(Project(workspace, store, load_registry()), experiment.number, options=options)
    assert not list(workspace.cache_dir.glob("*"))


def test_plans_count_the_folds_that_follow(fresh: Place) -> None:
    workspace, store = fresh
    experiment = register(store)
    watch = Watch(workspace.experiment_dir(experiment.number) / "fold-0")
    run_experiment(Project(workspace, store, load_registry()), experiment.number, callbacks=watch)
    assert [plan.folds_after for plan in watch.plans] == [1, 0]
