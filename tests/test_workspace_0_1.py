"""A workspace written by version 0.1: the current code opens, audits, resumes, blends and imports it.

`data/make_workspace_0_1.py` created `data/workspace-0.1` with the code of that version; `EXPECTED.json` in it holds
what that code reported. The datasets' source was `/tmp/ichx-0.1/phantom.zip`, a path that no longer exists; each test
works on a copy of the workspace, which contains `phantom.zip`.
"""

import csv
import gzip
import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Program
from safetensors.torch import load_file
from unprivileged import run_unprivileged

from ichx.recipe import Recipe

FIXTURE = Path(__file__).parent / "data" / "workspace-0.1"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "EXPECTED.json").read_text(encoding="utf-8"))
CPU = ("--device", "cpu", "--workers", 0)
FINISHED = (1, 2)
WITH_PREDICTIONS = (1, 2, 3, 11)
PROBABILITY = 1e-5
"""Tolerance for probabilities of one float32 network on different processors."""
SEARCH = ("--search", "stage.full.lr=log:1e-3..1e-2", "--search", "batch=4,8", "--pruner", "none")


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plugin `slim_ct` of the experiments for this process and its children."""
    plugin = str(FIXTURE / "plugin")
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), plugin))))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def copy_fixture(target: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, target, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the workspace, read-only by convention."""
    return copy_fixture(tmp_path_factory.mktemp("old") / "workspace")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a copy of the workspace for one test."""
    return copy_fixture(tmp_path / "workspace")


def output(program: Program, *arguments: object, cwd: Path) -> str:
    done = program(*arguments, cwd=cwd)
    assert done.code == 0, done.err
    return done.out


def document(program: Program, *arguments: object, cwd: Path) -> Any:
    return json.loads(output(program, *arguments, "--json", cwd=cwd))


def query(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "db" / "ichx.db")) as connection:
        return connection.execute(sql).fetchall()


def tensor_digest(path: Path) -> str:
    """Return the SHA-256 of all tensors (name, dtype, shape, bytes), computed as for EXPECTED.json."""
    found = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def same_arithmetic() -> bool:
    """Return whether training is bit-identical to the recorded one: same torch version, same processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    recorded = EXPECTED["machine"]
    return (torch.__version__, hashlib.sha256(name.encode()).hexdigest()[:16]) == (recorded["torch"], recorded["cpu"])


def assert_same_weights(found: Path, expected: Path, digest: str) -> None:
    """Compare new weights with those of version 0.1: bit by bit on the same processor, else with a tolerance."""
    assert tensor_digest(expected) == digest
    if same_arithmetic():
        assert tensor_digest(found) == digest
        return
    one, other = load_file(found), load_file(expected)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=1e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


# Read what is stored


def test_the_store_passes_its_check(readable: Path, ichx: Program) -> None:
    checks = document(ichx, "store", "check", cwd=readable)
    assert len(checks) >= 6
    assert not any(check["problems"] for check in checks)


def test_experiments_are_listed_with_their_states_and_scores(readable: Path, ichx: Program) -> None:
    listed = document(ichx, "exp", "list", cwd=readable)
    trials = document(ichx, "exp", "list", "--parent", 2, cwd=readable)
    assert [facts["number"] for facts in listed] == EXPECTED["listed"]
    assert {facts["number"] for facts in trials} >= {9, 10}
    for facts in (*listed, *trials):
        expected = EXPECTED["experiments"][str(facts["number"])]
        names = (
            "name",
            "plugin",
            "size",
            "window_kind",
            "state",
            "score",
            "spread",
            "score_tta",
            "spread_tta",
            "parent",
        )
        for name in names:
            assert facts[name] == expected[name], (facts["number"], name)
        for mark in ("selected", "leaked"):
            assert facts[mark] == bool(expected[mark])
    archived = document(ichx, "exp", "list", "--archived", cwd=readable)
    assert {facts["number"] for facts in archived} == {*EXPECTED["listed"], 7}
    assert [facts["number"] for facts in document(ichx, "exp", "list", "--trash", cwd=readable)] == [8]


def test_every_experiment_is_shown_with_its_recipe(readable: Path, root: Path, ichx: Program) -> None:
    """Recipes written by the old code keep their digests."""
    for number, expected in EXPECTED["experiments"].items():
        shown = document(ichx, "exp", "show", number, cwd=readable)["experiment"]
        assert shown["score"] == expected["score"]
        text = output(ichx, "exp", "show", number, "--toml", cwd=readable)
        (root / "recipe.toml").write_text(text, encoding="utf-8")
        output(ichx, "exp", "new", "--from", root / "recipe.toml", "--dataset", "phantom", cwd=root)
        (newest,) = query(root, "SELECT recipe_digest FROM experiment ORDER BY number DESC LIMIT 1")
        assert newest == (expected["recipe_digest"],), number


def test_notes_tags_history_and_logs_are_there(readable: Path, ichx: Program) -> None:
    notes = document(ichx, "exp", "note", 1, cwd=readable)
    assert [note["text"] for note in notes] == EXPECTED["notes"]["1"]
    assert document(ichx, "exp", "tags", cwd=readable) == {"baseline": 1, "best": 1, "sigmoid": 1}
    rows = list(csv.DictReader(output(ichx, "exp", "history", 1, "--csv", cwd=readable).splitlines()))
    assert [(row["fold"], row["epoch"]) for row in rows] == [(fold, str(n)) for fold in "01" for n in range(1, 5)]
    recorded = query(
        readable, "SELECT fold, score FROM prediction WHERE experiment=1 AND role='oof' AND view='identity'"
    )
    assert {int(row["fold"]): float(row["score"]) for row in rows} == dict(recorded)
    assert "rebalanced 1: loss" in output(ichx, "exp", "log", 4, cwd=readable)


def test_run_states(readable: Path, ichx: Program) -> None:
    for number, state in ((4, "stopped"), (5, "failed"), (6, "dead"), (12, "new")):
        assert document(ichx, "exp", "show", number, cwd=readable)["experiment"]["state"] == state


def test_datasets_are_shown_with_defects_checks_and_folds(readable: Path, ichx: Program) -> None:
    for expected in EXPECTED["datasets"]:
        shown = document(ichx, "data", "show", expected["dataset"], "--version", expected["number"], cwd=readable)
        for name in ("digest", "label_digest", "slices", "defects"):
            assert shown["version"][name] == expected[name]
    first = document(ichx, "data", "show", "phantom", "--version", 1, cwd=readable)
    assert {(of["reason"], of["files"]) for of in first["defects"]} == {("no_pixels", 1), ("not_dicom", 1)}
    assert (first["check"]["refused_in_headers"], first["check"]["refused_in_decoding"]) == (2, 0)
    folds = document(ichx, "data", "folds", "phantom", cwd=readable)["version"]["folds"]
    expected_folds = [f for f in EXPECTED["folds"] if (f["dataset"], f["number"]) == ("phantom", 2)]
    for name in ("name", "k", "digest", "leaking_patients"):
        assert [fold[name] for fold in folds] == [fold[name] for fold in expected_folds]


# Recompute from what is stored


@pytest.mark.usefixtures("intervals_of_few")
@pytest.mark.parametrize("number", FINISHED)
def test_scores_are_equal(readable: Path, ichx: Program, number: int) -> None:
    card = document(ichx, "scores", number, "--tta", "hflip", "--average", "probability", cwd=readable)
    found = {name: card[name]["scores"]["log_loss"] for name in ("slices", "studies")}
    assert found["slices"] == pytest.approx(EXPECTED["log_loss_hflip"][str(number)], rel=1e-12)
    assert found["studies"] == pytest.approx(EXPECTED["study_log_loss_hflip"][str(number)], rel=1e-12)
    interval = card["slices"]["log_loss"]
    recorded = EXPECTED["experiments"][str(number)]
    for end in ("low", "high"):
        assert interval[end] == pytest.approx(recorded[f"score_tta_{end}"], rel=1e-12)


@pytest.mark.parametrize("number", WITH_PREDICTIONS)
def test_audits_pass(readable: Path, ichx: Program, number: int) -> None:
    """The current code computes the recorded digests of data, labels, folds, recipe, weights and predictions."""
    checks = document(ichx, "audit", number, cwd=readable)["audit"]["checks"]
    assert [check for check in checks if check["state"] != "ok"] == []
    assert len(checks) >= EXPECTED["audit_checks"][str(number)]


def test_an_audit_finds_a_changed_prediction(root: Path, ichx: Program) -> None:
    folder = root / "experiments" / "1" / "fold-0"
    shutil.copy(folder / "oof-hflip.parquet", folder / "oof-identity.parquet")
    done = ichx("audit", 1, "--json", cwd=root)
    assert done.code == 1
    wrong = [check["subject"] for check in json.loads(done.out)["audit"]["checks"] if check["state"] == "wrong"]
    assert "fold 0 predictions" in wrong


def test_experiments_are_compared(readable: Path, ichx: Program) -> None:
    found = document(ichx, "exp", "diff", 1, 2, cwd=readable)
    assert found["values"]["batch"] == {"1": 8, "2": 4}
    assert found["values"]["seed"] == {"1": 0, "2": 3}
    scores = [EXPECTED["experiments"][number]["score"] for number in "12"]
    assert [found["scores"][name] for name in ("first", "second")] == pytest.approx(scores, rel=1e-12)


@pytest.mark.parametrize(
    ("number", "options"),
    [(2, ("--method", "convex", "--no-smooth", "--no-calibrate"))],
)
def test_reblended_ensembles_have_equal_scores(
    root: Path, ichx: Program, number: int, options: tuple[str, ...]
) -> None:
    expected = EXPECTED["ensembles"][number - 1]
    older = ("--average", "probability", "--dataset", "phantom")
    document(ichx, "ensemble", "--members", "1,2", *options, *older, cwd=root)
    (row,) = query(root, "SELECT method, tta, score, nested_score FROM ensemble WHERE number = 3")
    assert row[:2] == (expected["method"], expected["tta"])
    assert row[2] == pytest.approx(expected["score"], rel=1e-9)
    assert row[3] == pytest.approx(expected["nested_score"], rel=0.1), "patients are held out in parts, not in folds"
    weights = dict(query(root, "SELECT experiment, weight FROM ensemble_member WHERE ensemble = 3"))
    assert weights == pytest.approx({int(n): weight for n, weight in expected["weights"].items()}, rel=1e-6)
    before, after = (read_submission(root / "ensembles" / str(n) / "phantom-test.csv") for n in (number, 3))
    assert list(before) == list(after)
    assert list(after.values()) == pytest.approx(list(before.values()), abs=1e-8)


def read_submission(path: Path) -> dict[str, float]:
    with path.open(encoding="utf-8") as handle:
        return {row["ID"]: float(row["Label"]) for row in csv.DictReader(handle)}


def test_stored_submissions_pass_their_check(readable: Path, ichx: Program) -> None:
    for ensemble in EXPECTED["ensembles"]:
        for file, digest in ensemble["submissions"].items():
            assert hashlib.sha256((readable / file).read_bytes()).hexdigest() == digest
            sample = readable / "datasets" / "phantom-test" / "v1" / "sample.csv"
            found = document(ichx, "submit", "check", file, "--sample", sample, cwd=readable)
            assert found["problems"] == []


def test_a_report_is_written(root: Path, ichx: Program) -> None:
    output(ichx, "report", "--ensemble", 1, "--out", root / "ensemble.html", cwd=root)
    page = (root / "ensemble.html").read_text(encoding="utf-8")
    assert f"{EXPECTED['ensembles'][0]['nested_score']:.5f}" in page


def test_gc_selects_only_the_trash(readable: Path, ichx: Program) -> None:
    found = document(ichx, "gc", "--dry-run", cwd=readable)
    paths = {Path(item["path"]).relative_to(readable).as_posix() for item in found}
    assert "experiments/8" in paths
    assert not any(path.startswith(("cache/phantom", "datasets", "ensembles")) for path in paths)
    assert {path.split("/")[1] for path in paths if path.startswith("experiments/")} <= {"8"}


# Networks


def _without_new_arithmetic(recipe: Recipe) -> Recipe:
    rates = {"dropout": 0.0, "drop_path": 0.0} if recipe.model.bn_momentum else {}
    return replace(
        recipe,
        model=replace(recipe.model, bn_momentum=0.0, **rates),
        optimizer=replace(recipe.optimizer, decoupled=False),
        augmentation=replace(recipe.augmentation, crop_first=False),
    )


def test_built_in_networks_and_recipes_are_the_same() -> None:
    """Compare recipe digests, state dict names and shapes, and the logits of seeded random weights."""
    from ichx.plugins import load_registry
    from ichx.recipe import digest

    registry = load_registry()
    # Plugins of the reference have its arithmetic since then; without that, their recipes are the old ones.
    former = {name: _without_new_arithmetic(registry.get(name).recipe) for name in EXPECTED["plugins"]}
    assert {name: digest(recipe) for name, recipe in former.items()} == EXPECTED["plugins"]
    for name, expected in EXPECTED["networks"].items():
        plugin = registry.get(name)
        torch.manual_seed(0)
        model = plugin.build(plugin.recipe, False).eval()
        names = [f"{key} {value.dtype} {tuple(value.shape)}" for key, value in sorted(model.state_dict().items())]
        assert hashlib.sha256("\n".join(names).encode()).hexdigest() == expected["state"], name
        pixels = torch.linspace(0, 1, 2 * plugin.recipe.input.channels * 64 * 64).reshape(2, -1, 64, 64)
        with torch.inference_mode():
            logits = model(pixels * torch.cos(400 * pixels))
        np.testing.assert_allclose(logits.numpy(), expected["logits"], rtol=1e-3, atol=1e-4, err_msg=name)


def test_predictions_from_stored_weights_are_equal(root: Path, ichx: Program) -> None:
    found = document(ichx, "predict", 1, root / "phantom.zip" / "stage_2_test", "--fold", 0, *CPU, cwd=root)
    rows = {row["slice_id"]: row["any"] for row in found["slices"]}
    stored = pq.read_table(root / "experiments" / "1" / "fold-0" / "test-phantom-test-v1-identity.parquet").to_pydict()
    expected = {i: 1 / (1 + np.exp(-logit)) for i, logit in zip(stored["slice_id"], stored["any"], strict=True)}
    assert rows == pytest.approx(expected, abs=PROBABILITY)


def test_weights_are_exported(root: Path, ichx: Program) -> None:
    for name, digest in EXPECTED["weights"].items():
        assert tensor_digest(root / name) == digest
    target = root / "first.safetensors"
    output(ichx, "export", 1, "--format", "safetensors", "--fold", 0, "--out", target, cwd=root)
    exported, stored = load_file(target), load_file(root / "experiments" / "1" / "fold-0" / "weights.safetensors")
    assert exported.keys() == stored.keys()
    assert all(torch.equal(exported[name], stored[name]) for name in stored)


@pytest.mark.slow
def test_a_network_is_exported_as_onnx(root: Path, ichx: Program) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    output(ichx, "export", 2, "--format", "onnx", "--fold", 1, "--out", root / "second.onnx", cwd=root)
    assert len(onnxruntime.InferenceSession(root / "second.onnx").get_inputs()) == 2


# Continue


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_weights_of_version_0_1(root: Path, ichx_process: Program) -> None:
    """The checkpoint is from the middle of an epoch. The run needs the cache only, not the DICOM source."""
    (checkpoint,) = (root / "experiments" / "4" / "fold-0").glob("checkpoint-*.pt")
    assert not checkpoint.name.endswith("-000000000.pt")
    output(ichx_process, "run", 4, "--fold", 0, *CPU, cwd=root)
    assert not checkpoint.exists()
    weights = root / "experiments" / "4" / "fold-0" / "weights.safetensors"
    assert_same_weights(weights, root / "resumed-4-fold-0.safetensors", EXPECTED["resumed"]["tensors"])
    ((score,),) = query(root, "SELECT score FROM prediction WHERE experiment=4 AND role='oof' AND view='identity'")
    assert score == pytest.approx(EXPECTED["resumed"]["score"], rel=1e-12 if same_arithmetic() else 1e-3)
    attempts = query(root, "SELECT attempt, state FROM run WHERE experiment = 4 ORDER BY attempt")
    assert attempts == [(1, "stopped"), (2, "done")]
    epochs = query(
        root,
        "SELECT DISTINCT m.stage_index, m.epoch FROM epoch_metric m JOIN run r ON r.id = m.run_id "
        "WHERE r.experiment = 4 ORDER BY 1, 2",
    )
    assert epochs == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]


def test_rerunning_a_failed_run_reports_the_missing_start_weights(root: Path, ichx: Program) -> None:
    done = ichx("run", 5, "--fold", 0, *CPU, cwd=root)
    assert done.code == 1
    assert "/tmp/ichx-0.1-huge.safetensors" in done.err


def test_finished_folds_are_not_retrained(root: Path, ichx: Program) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "experiments" / "1").rglob("*.safetensors")}
    found = document(ichx, "run", 1, *CPU, cwd=root)
    assert (found["trained"], found["score"]) == ([], EXPECTED["experiments"]["1"]["score"])
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_moved_source_is_re_registered_and_trains_to_equal_weights(root: Path, ichx_process: Program) -> None:
    """Moved files become a new dataset version; the cloned experiment trains on rebuilt caches."""
    add_datasets(ichx_process, root)
    old = EXPECTED["datasets"][0]
    new = document(ichx_process, "data", "show", "phantom", cwd=root)["version"]
    assert (old["dataset"], old["number"], new["number"]) == ("phantom", 1, 3)
    for name in ("digest", "label_digest", "slices", "defects"):
        assert new[name] == old[name], name
    shutil.rmtree(root / "cache")
    number = document(ichx_process, "exp", "clone", 1, "--dataset-version", 3, cwd=root)["number"]
    output(ichx_process, "run", number, "--fold", 0, *CPU, cwd=root)
    keys = {path.parent.name: json.loads(path.read_text())["key"] for path in root.glob("cache/*/cache.json")}
    assert keys == EXPECTED["caches"]
    stored, made = (root / "experiments" / str(n) / "fold-0" / "weights.safetensors" for n in (1, number))
    assert_same_weights(made, stored, EXPECTED["weights"]["experiments/1/fold-0/weights.safetensors"])


def add_datasets(program: Program, root: Path, source: Path | None = None) -> None:
    source = source or root / "phantom.zip"
    train = ("data", "add", "phantom", source / "stage_2_train", "--labels", source / "stage_2_train.csv")
    output(program, *train, "--masks", source / "stage_2_train_masks", "--folds", 2, cwd=root)
    sample = source / "stage_2_sample_submission.csv"
    test = ("data", "add", "phantom-test", source / "stage_2_test", "--test-of", "phantom", "--sample", sample)
    output(program, *test, cwd=root)


def test_another_dataset_is_evaluated_with_an_equal_score(root: Path, ichx: Program) -> None:
    source = root / "phantom.zip"
    labels = ("--labels", source / "stage_2_test_labels.csv", "--folds", 2)
    output(ichx, "data", "add", "other", source / "stage_2_test", *labels, cwd=root)
    options = ("--dataset", "other", "--tta", "hflip", "--average", "probability", *CPU)
    card = document(ichx, "evaluate", 1, *options, cwd=root)
    assert card["slices"]["scores"]["log_loss"] == pytest.approx(EXPECTED["evaluated"], abs=PROBABILITY)


# Tuning


def test_the_optuna_study_is_shown(readable: Path, ichx: Program) -> None:
    found = document(ichx, "tune", "show", 2, cwd=readable)
    names = ("trial", "state", "score", "experiment")
    assert [{name: trial[name] for name in names} for trial in found["trials"]] == EXPECTED["study"]
    (promoted,) = found["promoted"]
    assert promoted["experiment"] == 11


@pytest.mark.slow
def test_the_optuna_study_is_not_mixed_with_calibrated_scores(root: Path, ichx_process: Program) -> None:
    before = document(ichx_process, "tune", "show", 2, cwd=root)
    refused = ichx_process("tune", 2, "--trials", 3, *SEARCH, *CPU, "--json", cwd=root)
    refused.check_error("conflict", "experiment-2")
    assert "--study NAME" in refused.error["remedy"]
    output(ichx_process, "tune", 2, "--trials", 1, "--study", "next", *SEARCH, *CPU, cwd=root)
    assert document(ichx_process, "tune", "show", 2, "--study", "next", cwd=root)["objective"] == "calibrated_score"
    names = ("trial", "state", "score", "experiment")
    trials = [{name: trial[name] for name in names} for trial in before["trials"]]
    assert trials == EXPECTED["study"]
    after = document(ichx_process, "tune", "show", 2, "--study", "", cwd=root)
    assert after["trials"] == before["trials"]


# Exchange with other workspaces


@pytest.fixture
def fresh(tmp_path: Path, ichx: Program) -> Path:
    """Return a new workspace with the same datasets."""
    root = tmp_path / "fresh"
    output(ichx, "init", root, cwd=tmp_path)
    add_datasets(ichx, root, FIXTURE / "phantom.zip")
    return root


def test_an_archive_is_imported_into_a_fresh_workspace(fresh: Path, ichx: Program) -> None:
    found = document(ichx, "exp", "import", FIXTURE / "first.zip", cwd=fresh)
    assert (found["number"], found["was"], found["left_out"]) == (1, 1, [])
    shown = document(ichx, "exp", "show", 1, cwd=fresh)["experiment"]
    expected = EXPECTED["experiments"]["1"]
    assert (shown["state"], sorted(shown["tags"])) == ("done", ["baseline", "best"])
    assert shown["score"] == pytest.approx(expected["score"], rel=1e-12)
    older = document(ichx, "scores", 1, "--tta", "hflip", "--average", "probability", cwd=fresh)
    assert older["slices"]["log_loss"]["value"] == pytest.approx(expected["score_tta"], rel=1e-12)
    assert [n["text"] for n in document(ichx, "exp", "note", 1, cwd=fresh)] == EXPECTED["notes"]["1"]
    for fold in (0, 1):
        name = f"experiments/1/fold-{fold}/weights.safetensors"
        assert tensor_digest(fresh / name) == EXPECTED["weights"][name]
    checks = document(ichx, "audit", 1, cwd=fresh)["audit"]["checks"]
    assert [check for check in checks if check["state"] == "wrong"] == []


def test_old_work_is_exported_and_imported(root: Path, fresh: Path, ichx: Program) -> None:
    output(ichx, "exp", "export", 2, fresh / "second.zip", "--weights", cwd=root)
    output(ichx, "exp", "import", fresh / "second.zip", cwd=fresh)
    shown = document(ichx, "exp", "show", 1, cwd=fresh)["experiment"]
    assert shown["score"] == pytest.approx(EXPECTED["experiments"]["2"]["score"], rel=1e-12)


@pytest.mark.slow
def test_a_stopped_run_is_moved_with_its_checkpoint_and_resumes(root: Path, fresh: Path, ichx: Program) -> None:
    output(ichx, "exp", "export", 4, fresh / "half.zip", "--checkpoints", cwd=root)
    number = document(ichx, "exp", "import", fresh / "half.zip", cwd=fresh)["number"]
    done = ichx("run", number, "--fold", 0, *CPU, cwd=fresh)
    assert done.code == 0, done.err
    assert "checkpoint after epoch" in done.err
    assert_same_weights(
        fresh / "experiments" / str(number) / "fold-0" / "weights.safetensors",
        root / "resumed-4-fold-0.safetensors",
        EXPECTED["resumed"]["tensors"],
    )


def test_a_submission_is_checked_against_the_sample_of_its_test_set(readable: Path, ichx: Program) -> None:
    (readable / "mine").mkdir(exist_ok=True)
    shutil.copy(readable / "ensembles" / "1" / "phantom-test.csv", readable / "mine" / "final.csv")
    for file in ("ensembles/1/phantom-test.csv", "mine/final.csv"):
        assert document(ichx, "submit", "check", file, cwd=readable)["problems"] == []
    text = (readable / "mine" / "final.csv").read_text().splitlines()
    (readable / "mine" / "final.csv").write_text("\n".join(text[:-1]) + "\n")
    assert ichx("submit", "check", "mine/final.csv", cwd=readable).code == 1


def test_a_backup_of_the_store_is_opened(root: Path, ichx: Program) -> None:
    listed = document(ichx, "exp", "list", cwd=root)
    for name, target in (("ichx.db", "ichx.db"), ("ichx.tuning.db", "tuning.db")):
        (root / "db" / target).write_bytes(gzip.decompress((root / "backup" / f"{name}.gz").read_bytes()))
    assert document(ichx, "exp", "list", cwd=root) == listed
    assert len(document(ichx, "tune", "show", 2, cwd=root)["trials"]) == 2
    assert not any(check["problems"] for check in document(ichx, "store", "check", cwd=root))


def test_the_workspace_gets_an_id_and_its_folders_records(root: Path, ichx: Program) -> None:
    listed = document(ichx, "exp", "list", cwd=root)
    record = json.loads((root / "db" / "workspace.json").read_text())
    ((known,),) = query(root, "SELECT value FROM setting WHERE name = 'workspace'")
    assert json.loads(known)["id"] == record["id"]
    described = {int(path.parent.name) for path in root.glob("experiments/*/experiment.json")}
    assert described == {int(path.name) for path in (root / "experiments").iterdir()} == {1, 2, 3, 4, 5, 6, 9, 10, 11}
    (root / "db" / "ichx.db").unlink()
    rebuilt = document(ichx, "store", "rebuild", cwd=root)
    assert (rebuilt["experiments"], rebuilt["problems"]) == ([1, 2, 3, 4, 5, 6, 9, 10, 11], [])
    restored = document(ichx, "exp", "list", cwd=root)
    for e in (*listed, *restored):  # 0.1 averaged the probabilities of views, and a rebuilt store averages logits
        del e["score_tta"], e["spread_tta"]
    assert [e for e in listed if e["number"] != 12] == restored


def test_another_store_is_refused_at_first_use(root: Path, tmp_path: Path, ichx: Program) -> None:
    (root / "ichx.toml").write_text(f'store = "{tmp_path / "new.db"}"\n')
    ichx("exp", "list", "--json", cwd=root).check_error("conflict", "1, 2, 3, 4, 5, 6, 9, 10, 11")
    assert not (root / "db" / "workspace.json").exists()


def test_the_workspace_is_read_where_nothing_can_be_written(root: Path) -> None:
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for command in ("exp list", "exp show 1", "data list", "scores 1", "gc"):
            done = run_unprivileged("-m", "ichx", *command.split(), "--json", cwd=root)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)
        assert [root, *root.rglob("*")] == paths
    finally:
        for path in paths:
            if path.is_dir():
                path.chmod(0o755)
