"""Mixtures of two phantoms of different appearance and a part that trains only: created, trained, scored, removed."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHORT, Program
from mixed_sites import PARTS
from running_programs import start_held

from ichx.cache.hu_cache import CACHE_FILE, Cache
from ichx.cache.mixture_cache import plan_dataset_caches
from ichx.cache.recipe_caches import recipe_spec
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset, load_folds, load_masks
from ichx.datasets.mask_png import decode_mask
from ichx.datasets.mix import ensure_joint, mix_datasets
from ichx.datasets.mix_request import MixRequest, PartRequest
from ichx.datasets.sources import SourceFiles, read_source_slice
from ichx.errors import ConflictError
from ichx.evaluation.audit import audit
from ichx.evaluation.checks import WrongError
from ichx.evaluation.compare import compare_scores
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.mixture_audit import check_parts
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import read_predictions
from ichx.evaluation.scorecard import scorecard
from ichx.evaluation.subgroup_scores import oof_predictions, subgroup_scores
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.dry_run import dry_run
from ichx.experiments.gc import find_garbage
from ichx.experiments.prepare import prepare_experiment
from ichx.experiments.quick_look import quick_look
from ichx.experiments.register import ExperimentRequest, equal_experiments, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.report import write_report
from ichx.store import Experiment, open_store
from ichx.training.run_options import RunOptions
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace


@pytest.fixture
def root(mixed_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mixed_root, tmp_path / "workspace"))


@pytest.fixture
def mixed(root: Path) -> Iterator[Project]:
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        yield Project(workspace, store)


def register(project: Project, dataset: str = "mixed", plugin: str = "tiny_resnet", *settings: str) -> Experiment:
    request = ExperimentRequest(plugin=plugin, size=32, settings=(*SHORT, *settings), dataset=dataset)
    return new_experiment(project.store, project.registry, request)


def trained(project: Project, dataset: str = "mixed", plugin: str = "tiny_resnet") -> Experiment:
    number = register(project, dataset, plugin).number
    run_experiment(project, number)
    return project.store.experiment(number)


def folds_by_slice(project: Project, name: str) -> dict[str, int]:
    data = load_dataset(project, name)
    folds = load_folds(project.workspace, data.version, data.version.fold_set())
    return dict(zip(data.slices["slice_id"], folds.tolist(), strict=True))


def oof_files(project: Project, number: int) -> dict[tuple[int, str], bytes]:
    stored = project.store.predictions(number, role="oof")
    return {(p.fold, p.view): read_predictions(project.workspace.root / p.path).logits.tobytes() for p in stored}


def test_slices_keep_their_folds_and_order(mixed: Project) -> None:
    data = load_dataset(mixed, "mixed")
    expected = folds_by_slice(mixed, "site-a") | folds_by_slice(mixed, "site-b")
    expected |= dict.fromkeys(folds_by_slice(mixed, "site-c"), -1)
    assert folds_by_slice(mixed, "mixed") == expected
    assert data.slices.groupby("part")["share"].unique().map(list).to_dict() == {
        "site-a": [1.0],
        "site-b": [0.5],
        "site-c": [1.0],
    }
    for name in ("site-a", "site-b", "site-c"):
        own = load_dataset(mixed, name).slices["slice_id"]
        assert data.slices["slice_id"][data.slices["part"] == name].tolist() == own.tolist()
    masks, own_masks = load_masks(mixed.workspace, data), load_masks(mixed.workspace, load_dataset(mixed, "site-a"))
    assert masks is not None
    assert own_masks is not None
    assert len(masks) == len(own_masks)


def test_the_cache_reads_those_of_the_parts(mixed: Project) -> None:
    experiment = register(mixed)
    spec = recipe_spec(from_toml(experiment.recipe))
    data = load_dataset(mixed, "mixed")
    (plan,) = plan_dataset_caches(mixed.workspace.cache_dir, data, [spec])
    assert (plan.missing_shards, plan.missing_slices) == (3, len(data.slices))
    own = prepare_experiment(mixed, register(mixed, "site-a"), RunCallbacks())
    (plan,) = plan_dataset_caches(mixed.workspace.cache_dir, data, [spec])
    assert plan.missing_slices == len(data.slices) - len(own.data.slices)
    prepared = prepare_experiment(mixed, experiment, RunCallbacks())
    assert list(prepared.cache.folder.glob("*.shard")) == []
    rows = {name: row for row, name in enumerate(prepared.data.slices["slice_id"])}
    for row, name in enumerate(own.data.slices["slice_id"]):
        assert np.array_equal(prepared.cache.read(rows[name]), own.cache.read(row))
    assert find_garbage(mixed) == []


def test_the_masks_are_those_of_the_parts(mixed: Project) -> None:
    alone = prepare_experiment(mixed, register(mixed, "site-a", "tiny_unet"), RunCallbacks())
    prepared = prepare_experiment(mixed, register(mixed, "mixed", "tiny_unet"), RunCallbacks())
    assert alone.masks is not None
    assert prepared.masks is not None
    rows = {name: row for row, name in enumerate(prepared.data.slices["slice_id"])}
    drawn = 0
    for row, name in enumerate(alone.data.slices["slice_id"]):
        mask, same = alone.masks.read(row), prepared.masks.read(rows[name])
        assert (mask is None) == (same is None)
        assert mask is None or np.array_equal(mask, same)
        drawn += mask is not None
    assert drawn
    others = prepared.data.slices["part"] != "site-a"
    negative = ~(prepared.data.slices["any"] > 0.5)
    assert np.array_equal(prepared.masks.known[others], negative[others])


@pytest.mark.parametrize("centre", ["none", "slice", "series"])
def test_the_masks_of_a_mixture_move_with_its_slices(mixed: Project, centre: str) -> None:
    """Expected from the files alone: centres of heads, the median of a series, and the drawn masks."""
    prepared = prepare_experiment(
        mixed, register(mixed, "mixed", "tiny_unet", f"input.centre={centre}", "input.size=64"), RunCallbacks()
    )
    data = load_dataset(mixed, "site-a")
    drawn = load_masks(mixed.workspace, data)
    assert drawn is not None
    assert prepared.masks is not None
    files = SourceFiles(data.source, data.slices)
    slices = [read_source_slice(file).hu for file in files.select(range(len(data.slices)))]
    centres = pd.DataFrame([head_centre(hu) for hu in slices])
    medians = centres.groupby(data.slices["series"].to_numpy()).transform("median")
    assert (centres - medians).abs().to_numpy().max() > 1, "the slices of a series differ"
    rows = {name: row for row, name in enumerate(prepared.data.slices["slice_id"])}
    for row, png in drawn.items():
        mask = decode_mask(png)
        if centre != "none":
            mask = shift_to_centre(mask, tuple((centres if centre == "slice" else medians).iloc[row]), 0)
        found = prepared.masks.read(rows[data.slices["slice_id"][row]])
        assert found is not None
        assert np.array_equal(found, mask)
    assert drawn


def test_trained_scored_and_audited(mixed: Project, tmp_path: Path) -> None:
    experiment = trained(mixed)
    slices = load_dataset(mixed, "mixed").slices
    table = read_oof(mixed, experiment)
    assert set(table.slice_ids) == set(slices["slice_id"][slices["part"] != "site-c"])
    card = scorecard(mixed, experiment.number)
    assert list(card.parts) == ["site-a", "site-b"]
    sizes = {name: found.slices.scores.count for name, found in card.parts.items()}
    assert sizes == slices["part"].value_counts().drop("site-c").to_dict()
    pooled = sum(found.slices.scores.log_loss * sizes[name] for name, found in card.parts.items())
    assert card.slices.scores.log_loss == pytest.approx(pooled / sum(sizes.values()))
    (by_part,) = subgroup_scores(oof_predictions(mixed, experiment.number), ["part"])
    assert {group.name: group.rows for group in by_part.groups} == sizes
    audited = audit(mixed, experiment.number)
    assert audited.passed
    parts = next(check.detail for check in audited.checks if check.subject == "parts")
    assert parts.startswith("site-a version 1, site-b version 1 (weight 0.5), site-c version 1 (trains only)")
    assert "slices have the folds of their parts" in parts
    tests = {p.version_id for p in mixed.store.predictions(experiment.number, role="test")}
    assert tests == {mixed.store.version("test-a").id}
    write_report(mixed, experiment.number, tmp_path / "report.html")
    assert "site-b" in (tmp_path / "report.html").read_text()
    assert find_garbage(mixed) == []
    (
        Path(Cache(prepare_experiment(mixed, experiment, RunCallbacks()).cache.folder).parts[1].folder) / CACHE_FILE
    ).unlink()
    again = prepare_experiment(mixed, experiment, RunCallbacks())  # the cache of a part was removed
    assert len(again.cache) == len(slices)


@pytest.mark.slow
def test_weights_sample_a_part_and_are_no_digest(mixed: Project) -> None:
    equal = mix_datasets(
        mixed, MixRequest("equal", tuple(PartRequest(n, train_only=only) for n, (_, only) in PARTS.items()))
    )
    one, two = register(mixed), register(mixed, "equal")
    assert (one.label_digest, one.fold_digest) == (two.label_digest, two.fold_digest)
    assert equal.version.digest == mixed.store.version("mixed").digest
    assert equal_experiments(mixed.store, two) == []
    assert equal_experiments(mixed.store, register(mixed)) == [one]
    rows = {}
    for experiment in (one, two):
        prepared = prepare_experiment(mixed, experiment, RunCallbacks())
        feed, stage = prepared.feed(0, 0), 2  # all slices
        drawn = [prepared.data.slices["part"].iloc[feed.epoch_rows(stage, epoch)] for epoch in (0, 1)]
        assert len(drawn[0]) == len(drawn[1])
        rows[experiment.number] = drawn[0].value_counts().to_dict()
        ids = [set(feed.ids(feed.epoch_rows(stage, epoch))) for epoch in (0, 1)]
        assert (ids[0] == ids[1]) == (experiment is two)
    full = rows[two.number]
    assert rows[one.number] == full | {"site-b": round(full["site-b"] / 2)}
    run_experiment(mixed, one.number)
    run_experiment(mixed, two.number)
    assert oof_files(mixed, one.number) != oof_files(mixed, two.number)
    blended = make_ensemble(mixed, EnsembleRequest(members=(one.number, two.number)))
    assert blended.ensemble.nested_score is not None


@pytest.mark.slow
def test_compared_with_a_part_alone(mixed: Project) -> None:
    alone, together = trained(mixed, "site-a"), trained(mixed)
    found = compare_scores(mixed, together, alone)
    assert found.slices == mixed.store.version("site-a").slices
    assert found.second == pytest.approx(read_oof(mixed, alone).score)
    assert found.first == pytest.approx(scorecard(mixed, together.number).parts["site-a"].slices.scores.log_loss)
    other = trained(mixed, "site-b")
    with pytest.raises(ConflictError, match="different slices"):
        compare_scores(mixed, alone, other)


@pytest.mark.slow
def test_workers_do_not_matter_and_a_killed_run_ends_with_equal_bits(
    mixed: Project, root: Path, ichx_process: Program
) -> None:
    numbers = [register(mixed, "mixed", "tiny_resnet", "batch=8").number for _ in range(3)]
    run_experiment(mixed, numbers[1], folds=[0], options=RunOptions(workers=0))
    run_experiment(mixed, numbers[2], folds=[0], options=RunOptions(workers=2))
    checkpoint = root / "experiments" / "1" / "fold-0" / "checkpoint-000-00001-000000000.pt"
    process = start_held("ichx.training.step_sync:StepSync.after_step", checkpoint, "run", 1, "--fold", 0, cwd=root)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ichx_process("run", 1, "--fold", 0, cwd=root).code == 0
    weights = [read_weights(mixed.workspace.experiment_files(n).fold(0).weights) for n in numbers]
    for other in weights[1:]:
        assert all(np.array_equal(weights[0][name], other[name]) for name in weights[0])
    assert oof_files(mixed, numbers[0]) == oof_files(mixed, numbers[1]) == oof_files(mixed, numbers[2])


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["logits", "features"])
def test_sequences(mixed: Project, inputs: str) -> None:
    member = trained(mixed)
    settings = ("stage.full.epochs=1", "sequence.width=4", "sequence.parts=2", "batch=4")
    request = ExperimentRequest(plugin="gru_stack", settings=settings, dataset="mixed")
    made, _ = new_sequence(mixed, request, [member.number], [inputs])
    assert run_experiment(mixed, made.number).folds_done == 2
    assert list(scorecard(mixed, made.number).parts) == ["site-a", "site-b"]
    assert audit(mixed, made.number).passed


@pytest.mark.slow
def test_a_quick_look_and_a_dry_run(mixed: Project) -> None:
    number = register(mixed).number
    estimate = dry_run(mixed, number)
    assert estimate.cache_slices == mixed.store.version("mixed").slices + mixed.store.version("test-a").slices
    looked = quick_look(mixed, number, 0.5)
    run_experiment(mixed, looked.number)
    assert audit(mixed, looked.number).passed
    assert set(scorecard(mixed, looked.number).parts) == {"site-a", "site-b"}


def test_a_new_version_of_a_part_gives_a_new_version_of_the_mixture(mixed: Project, tmp_path: Path) -> None:
    first = ensure_joint(mixed, "site-a+site-b")
    assert first is not None
    assert first.created
    again = ensure_joint(mixed, "site-a+site-b")
    assert again is not None
    assert (again.created, again.version) == (False, first.version)
    pinned = register(mixed, "site-a+site-b")
    source = Path(mixed.store.version("site-b").source)
    copy = Path(shutil.copytree(source, tmp_path / "site-b"))
    next(copy.rglob("*.dcm")).unlink()
    add_dataset(mixed, AddRequest("site-b", copy, labels=source.parent / "stage_2_train.csv", folds=2))
    newer = ensure_joint(mixed, "site-a+site-b")
    assert newer is not None
    assert (newer.created, newer.version.number) == (True, 2)
    assert newer.version.slices == first.version.slices - 1
    assert mixed.store.experiment(pinned.number).version_id == first.version.id


def test_commands(root: Path, ichx: Program, tmp_path: Path) -> None:
    options = ("--plugin", "tiny_resnet", "--size", 32, *(arg for text in SHORT for arg in ("--set", text)))
    made = ichx("exp", "new", "--dataset", "site-a+site-b", *options, cwd=root)
    assert made.code == 0, made.err
    assert "experiment 1: tiny_resnet-32-linear on site-a+site-b v1" in made.out
    assert ichx("run", 1, "--fold", 0, cwd=root).code == 0
    card = json.loads(ichx("scores", 1, "--json", cwd=root).out)
    assert list(card["parts"]) == ["site-a", "site-b"]
    assert "parts of the mixture" in ichx("scores", 1, cwd=root).out
    shown = json.loads(ichx("data", "show", "mixed", "--json", cwd=root).out)
    assert [part["dataset"] for part in shown["mixture"]] == ["site-a", "site-b", "site-c"]
    assert "mixture" in ichx("data", "list", cwd=root).out
    ichx("data", "rm", "site-b", "--yes", "--json", cwd=root).check_error("conflict", "site-b", "mixed, site-a+site-b")
    ichx("data", "check", "mixed", "--json", cwd=root).check_error("conflict", "mixed is a mixture")
    cached = json.loads(ichx("data", "cache", "site-a+site-b", "--verify", "--json", cwd=root).out)
    assert [cache["complete"] for cache in cached["caches"]] == [True]
    assert len(cached["verified"]) == 2
    assert "site-a version 1, site-b version 1" in ichx("exp", "show", 1, cwd=root).out
    assert ichx("data", "rm", "mixed", "--yes", cwd=root).code == 0
    archive = tmp_path / "one.zip"
    assert ichx("exp", "export", 1, archive, cwd=root).code == 0
    assert ichx("exp", "import", archive, "--again", cwd=root).code == 0
    imported = json.loads(ichx("scores", 2, "--json", cwd=root).out)
    assert imported["parts"] == card["parts"]


def test_reading_slices_without_a_cache(mixed: Project, tmp_path: Path) -> None:
    from ichx.loading.contact_sheet import draw_sheet, parse_windows

    data = load_dataset(mixed, "mixed")
    drawn = draw_sheet(tmp_path / "sheet.png", data, parse_windows("brain"), kind="linear", count=24)
    assert set(data.slices["part"].iloc[list(drawn.rows)]) == {"site-a", "site-b", "site-c"}
    assert isinstance(data.slices, pd.DataFrame)


@pytest.mark.slow
def test_evaluated_and_restored(mixed: Project, root: Path, ichx: Program) -> None:
    alone, number = trained(mixed, "site-c").number, trained(mixed).number
    found = ichx("evaluate", alone, "--dataset", "mixed", "--overlap", "exclude", "--json", cwd=root)
    assert found.code == 0, found.err
    rest = mixed.store.version("mixed").slices - mixed.store.version("site-c").slices
    assert json.loads(found.out)["slices"]["scores"]["count"] == rest
    ichx("evaluate", number, "--dataset", "site-c", "--json", cwd=root).check_error("conflict", "2 patients in common")
    before = mixed.store.version("mixed")
    (root / "db" / "ichx.db").rename(root / "db" / "lost.db")
    rebuilt = ichx("store", "rebuild", cwd=root)
    assert rebuilt.code == 0, rebuilt.err
    with open_store(open_workspace(root)) as store:
        again = store.version("mixed")
        assert (again.summary, again.digest, again.folds[0].digest) == (
            before.summary,
            before.digest,
            before.folds[0].digest,
        )
        assert audit(Project(open_workspace(root), store), number).passed


def test_the_audit_finds_other_folds_than_those_of_a_part(mixed: Project) -> None:
    version, data = mixed.store.version("mixed"), load_dataset(mixed, "mixed")
    folds = load_folds(mixed.workspace, version, version.fold_set(), data.slices)
    assert "folds of their parts" in check_parts(mixed, version, "default", data.slices, folds)[0]
    assert "imported" in check_parts(mixed, version, "mine", data.slices, folds)[0]
    changed = folds.copy()
    changed[np.flatnonzero(data.slices["part"] == "site-c")[0]] = 0
    with pytest.raises(WrongError, match="1 slice of site-c in another fold"):
        check_parts(mixed, version, "default", data.slices, changed)
    moved = data.slices.copy()
    moved.loc[0, "part"] = "site-c" if moved.loc[0, "part"] != "site-c" else "site-a"
    with pytest.raises(WrongError, match="1 patient in several parts"):
        check_parts(mixed, version, "default", moved, folds)
