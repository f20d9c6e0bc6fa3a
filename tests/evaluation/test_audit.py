"""The audit accepts an untouched experiment, and finds changes of files, store and folds."""

import dataclasses
import hashlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd

from ichx.datasets.dataset import load_dataset
from ichx.datasets.folds import fold_digest
from ichx.evaluation.audit import Audit, audit
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.project import Project
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import PredictionDraft, ScoreDraft


def wrong(found: Audit) -> dict[str, str]:
    """Return the details of what is wrong, by subject."""
    details: dict[str, list[str]] = {}
    for check in found.checks:
        if check.state == "wrong":
            details.setdefault(check.subject, []).append(check.detail)
    return {subject: "\n".join(lines) for subject, lines in details.items()}


def oof_file(project: Project, fold: int, view: str = "identity") -> Path:
    return project.workspace.experiment_files(1).fold(fold).predictions("oof", view)


def execute(project: Project, statement: str, *values: object) -> None:
    with sqlite3.connect(project.workspace.root / "db" / "ichx.db") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def record_rows(project: Project, fold: int, rows: np.ndarray) -> None:
    """Rewrite a fold's OOF predictions with `rows` only, and record them as complete."""
    names = [field.name for field in dataclasses.fields(PredictionDraft)]
    for p in [p for p in project.store.predictions(1, role="oof") if p.fold == fold]:
        old = read_predictions(project.workspace.root / p.path)
        digest = write_predictions(project.workspace.root / p.path, Predictions(old.slice_ids[rows], old.logits[rows]))
        values = {name: getattr(p, name) for name in names} | {"slices": len(rows), "digest": digest}
        project.store.add_predictions([PredictionDraft(**values)])


def test_an_untouched_experiment_is_valid(project: Project) -> None:
    found = audit(project, 1)
    assert found.passed
    assert {check.state for check in found.checks} == {"ok"}
    assert [check.subject for check in found.checks] == [
        "recipe",
        "dataset",
        "labels",
        "folds",
        "patients",
        "finished",
        "fold 0 weights",
        "fold 0 predictions",
        "fold 1 weights",
        "fold 1 predictions",
        "complete",
        "score",
    ]
    details = {check.subject: check.detail for check in found.checks}
    experiment = project.store.experiment(1)
    assert experiment.recipe_digest in details["recipe"]
    assert experiment.fold_digest in details["folds"]
    assert " 8 patients " in details["patients"]
    assert f"{experiment.score:.5f} (tta none)" in details["score"]


def test_a_changed_prediction(project: Project) -> None:
    path = oof_file(project, 0)
    old = read_predictions(path)
    old.logits[3] += 1
    write_predictions(path, old)
    found = wrong(audit(project, 1))
    assert set(found) == {"fold 0 predictions", "score"}
    assert found["fold 0 predictions"].startswith("experiments/1/fold-0/oof-identity.parquet ")
    recorded = next(p for p in project.store.predictions(1, role="oof") if (p.fold, p.view) == (0, "identity"))
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] in found["fold 0 predictions"]
    assert recorded.digest[:12] in found["fold 0 predictions"]
    assert str(project.store.experiment(1).score) in found["score"]


def test_dropped_and_repeated_slices(project: Project) -> None:
    for fold, rows in ((0, slice(2, None)), (1, [0, 0, *range(1, 20)])):
        for view in ("identity", "hflip"):
            path = oof_file(project, fold, view)
            old = read_predictions(path)
            write_predictions(path, Predictions(old.slice_ids[rows], old.logits[rows]))
    found = wrong(audit(project, 1))
    assert set(found) == {"fold 0 predictions", "fold 1 predictions", "complete", "score"}
    assert "SHA-256" in found["fold 0 predictions"]
    assert "no prediction of 2 slices: " in found["fold 0 predictions"]
    assert f"1 slice predicted more than once: {old.slice_ids[0]}" in found["fold 1 predictions"]


def test_slices_dropped_in_the_store_too(project: Project) -> None:
    """Digest and count agree, but the cache knows that these slices can be decoded."""
    count = len(read_predictions(oof_file(project, 1)).slice_ids)
    record_rows(project, 1, np.arange(2, count))
    found = wrong(audit(project, 1))
    assert set(found) == {"fold 1 predictions", "complete", "score"}
    assert " 2 slices " in found["complete"]
    shutil.rmtree(project.workspace.cache_dir)
    checks = {check.subject: check for check in audit(project, 1).checks}
    assert checks["complete"].state == "unknown"
    assert " 2 slices " not in checks["score"].detail
    assert checks["complete"].detail.startswith("2 slices ")


def test_a_fold_that_predicts_a_slice_it_trained_on(project: Project) -> None:
    other = read_predictions(oof_file(project, 0))
    path = oof_file(project, 1)
    own = read_predictions(path)
    ids = np.concatenate([own.slice_ids[:-1], other.slice_ids[:1]])
    write_predictions(path, Predictions(ids, own.logits))
    found = wrong(audit(project, 1))
    assert f"1 slice of other folds, which this fold trained on: {ids[-1]}" in found["fold 1 predictions"]


def test_a_changed_fold_file(project: Project) -> None:
    """A patient is moved to the other fold; then patients are missing, repeated, without a fold; then the file is."""
    path = project.workspace.root / project.store.version("ph").path / "folds-default.parquet"
    folds = pd.read_parquet(path)
    folds.assign(fold=[1 - folds["fold"][0], *folds["fold"][1:]]).to_parquet(path, index=False)
    assert project.store.experiment(1).fold_digest in wrong(audit(project, 1))["folds"]
    for changed in (folds[1:], pd.concat([folds, folds[:1]]), folds.drop(columns="fold")):
        changed.to_parquet(path, index=False)
        found = wrong(audit(project, 1))
        assert set(found) == {"folds", "score"}
        assert "default" in found["folds"]
    path.unlink()
    assert "folds-default.parquet" in wrong(audit(project, 1))["folds"]


def test_leaky_folds_with_recorded_digests(project: Project) -> None:
    data = load_dataset(project, "ph")
    path = project.workspace.root / data.version.path / "folds-default.parquet"
    patients = pd.read_parquet(path).set_index("patient")["fold"]
    split = data.slices[["slice_id"]].assign(fold=patients.reindex(data.slices["patient"]).to_numpy())
    split.loc[0, "fold"] = 1 - split["fold"][0]
    split.to_parquet(path, index=False)
    forged = fold_digest(split["slice_id"].to_numpy(object), split["fold"].to_numpy(np.int16))
    execute(project, "UPDATE fold_set SET digest = ? WHERE id = ?", forged, data.version.folds[0].id)
    execute(project, "UPDATE experiment SET fold_digest = ? WHERE number = 1", forged)
    found = wrong(audit(project, 1))
    assert "folds" not in found
    assert found["patients"].startswith("1 of 8 patients ")
    assert "not marked" in found["patients"]
    assert forged in found["fold 0 weights"]


def test_a_changed_recipe(project: Project) -> None:
    experiment = project.store.experiment(1)
    text = experiment.recipe
    execute(project, "UPDATE experiment SET recipe = ? WHERE number = 1", text.replace("seed = 0", "seed = 1"))
    found = wrong(audit(project, 1))
    assert set(found) == {"recipe"}
    assert experiment.recipe_digest in found["recipe"]
    execute(project, "UPDATE experiment SET recipe = 'x' WHERE number = 1")
    assert "recipe" in wrong(audit(project, 1))


def test_a_changed_recipe_with_its_digest(project: Project) -> None:
    """The weight files store the digest of their recipe."""
    text = project.store.experiment(1).recipe.replace("seed = 0", "seed = 1")
    forged = digest(from_toml(text))
    execute(project, "UPDATE experiment SET recipe = ?, recipe_digest = ? WHERE number = 1", text, forged)
    found = wrong(audit(project, 1))
    assert set(found) == {"fold 0 weights", "fold 1 weights"}
    assert forged in found["fold 0 weights"]


def test_changed_labels_and_a_changed_catalog(project: Project) -> None:
    path = project.workspace.root / project.store.version("ph").path / "catalog.parquet"
    catalog = pd.read_parquet(path)
    catalog.assign(any=1 - catalog["any"]).to_parquet(path, index=False)
    found = wrong(audit(project, 1))
    assert {"labels", "score", "fold 0 predictions"} <= set(found)
    assert "dataset" not in found, "the catalog's digest covers the files, not the labels"
    catalog.assign(rows=catalog["rows"] + 1).to_parquet(path, index=False)
    assert project.store.version("ph").digest in wrong(audit(project, 1))["dataset"]
    path.unlink()
    assert "catalog.parquet" in wrong(audit(project, 1))["dataset"]


def test_missing_and_foreign_weights(project: Project) -> None:
    first, second = (project.workspace.experiment_files(1).fold(k).weights for k in (0, 1))
    shutil.copy(first, second)
    assert "fold '0' instead of '1'" in wrong(audit(project, 1))["fold 1 weights"]
    second.write_bytes(b"no weights")
    assert "cannot be read" in wrong(audit(project, 1))["fold 1 weights"]
    second.unlink()
    found = wrong(audit(project, 1))
    assert found == {"fold 1 weights": "experiments/1/fold-1/weights.safetensors is missing"}


def test_a_changed_score(project: Project) -> None:
    e = project.store.experiment(1)
    assert e.score is not None
    project.store.set_scores(1, ScoreDraft(e.score - 1e-6, e.spread), ScoreDraft(e.score_tta, e.spread_tta))
    found = wrong(audit(project, 1))
    assert set(found) == {"score"}
    assert f"{e.score:.9f}" in found["score"]
    assert str(e.score - 1e-6) in found["score"]


def test_a_score_of_an_older_version(project: Project) -> None:
    """It averaged the probabilities of views, not their logits."""
    e = project.store.experiment(1)
    older = read_oof(project, e, "hflip", average="probability")
    assert older.score != e.score_tta
    project.store.set_scores(1, ScoreDraft(e.score, e.spread), ScoreDraft(older.score, older.spread))
    found = audit(project, 1)
    assert found.passed
    (detail,) = (check.detail for check in found.checks if check.subject == "score")
    assert f"{older.score:.5f} (tta hflip, by averaged probabilities" in detail
    project.store.set_scores(1, ScoreDraft(e.score, e.spread), ScoreDraft(older.score + 1e-6, older.spread))
    assert set(wrong(audit(project, 1))) == {"score"}


def test_a_missing_view_and_one_in_another_order(project: Project) -> None:
    execute(project, "DELETE FROM prediction WHERE experiment = 1 AND fold = 0 AND view = 'hflip' AND role = 'oof'")
    path = oof_file(project, 1, "hflip")
    old = read_predictions(path)
    write_predictions(path, Predictions(old.slice_ids[::-1], old.logits[::-1]))
    found = wrong(audit(project, 1))
    assert found["fold 0 predictions"].endswith(" view hflip")
    assert "another order" in found["fold 1 predictions"]


def test_an_experiment_that_was_never_run(project: Project) -> None:
    experiment = new_experiment(project.store, project.registry, ExperimentRequest(plugin="tiny_resnet"))
    assert set(wrong(audit(project, experiment.number))) == {"finished"}
