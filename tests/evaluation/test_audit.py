"""The audit proves a sound experiment, and names what was tampered with: files, store, folds."""

import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ichx.datasets.dataset import load_dataset
from ichx.evaluation.audit import Audit, audit
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.experiments.register import new_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import PredictionDraft, ScoreDraft, Store, open_store
from ichx.workspace import Workspace, open_workspace


@pytest.fixture
def place(trained_copy: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        yield workspace, store


def wrong(found: Audit) -> dict[str, str]:
    """Return what was found wrong, by subject."""
    told: dict[str, list[str]] = {}
    for check in found.checks:
        if check.state == "wrong":
            told.setdefault(check.subject, []).append(check.told)
    return {subject: "\n".join(lines) for subject, lines in told.items()}


def oof_file(workspace: Workspace, fold: int, view: str = "identity") -> Path:
    return workspace.experiment_dir(1) / f"fold-{fold}" / f"oof-{view}.parquet"


def execute(workspace: Workspace, statement: str, *values: object) -> None:
    with sqlite3.connect(workspace.root / "db" / "ichx.db") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def record_again(workspace: Workspace, store: Store, fold: int, rows: np.ndarray) -> None:
    """Keep `rows` of a fold's OOF predictions, and record these as if they had always been all."""
    names = [field.name for field in dataclasses.fields(PredictionDraft)]
    for p in [p for p in store.predictions(1, role="oof") if p.fold == fold]:
        old = read_predictions(workspace.root / p.path)
        digest = write_predictions(workspace.root / p.path, Predictions(old.slice_ids[rows], old.logits[rows]))
        values = {name: getattr(p, name) for name in names} | {"slices": len(rows), "digest": digest}
        store.add_predictions([PredictionDraft(**values)])


def test_a_sound_experiment_is_proven(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    found = audit(Project(workspace, store), 1)
    assert found.sound
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
    told = {check.subject: check.told for check in found.checks}
    experiment = store.experiment(1)
    assert experiment.recipe_digest in told["recipe"]
    assert experiment.fold_digest in told["folds"]
    assert told["patients"] == "each of 8 patients is in one fold"
    assert f"{experiment.score:.5f} (tta none)" in told["score"]


def test_a_changed_prediction(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    path = oof_file(workspace, 0)
    old = read_predictions(path)
    old.logits[3] += 1
    write_predictions(path, old)
    found = wrong(audit(Project(workspace, store), 1))
    assert set(found) == {"fold 0 predictions", "score"}
    assert found["fold 0 predictions"].startswith("experiments/1/fold-0/oof-identity.parquet was changed: SHA-256 ")
    assert "was recorded" in found["score"]


def test_a_dropped_slice_and_a_doubled_one(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    for fold, rows in ((0, slice(2, None)), (1, [0, 0, *range(1, 20)])):
        for view in ("identity", "hflip"):
            path = oof_file(workspace, fold, view)
            old = read_predictions(path)
            write_predictions(path, Predictions(old.slice_ids[rows], old.logits[rows]))
    gone = old.slice_ids
    found = wrong(audit(Project(workspace, store), 1))
    assert "was changed" in found["fold 0 predictions"]
    assert "incomplete: " in found["fold 0 predictions"]
    assert "no prediction of 2 slices: " in found["fold 0 predictions"]
    assert f"1 slice predicted more than once: {gone[0]}" in found["fold 1 predictions"]
    assert "that can be decoded" not in found.get("fold 0 predictions", "")
    assert "that can be decoded, " in found["complete"]
    assert "score" in found


def test_slices_dropped_in_the_store_as_well(place: tuple[Workspace, Store]) -> None:
    """Digest and count agree; the cache knows that these slices can be decoded."""
    workspace, store = place
    count = len(read_predictions(oof_file(workspace, 1)).slice_ids)
    record_again(workspace, store, 1, np.arange(2, count))
    found = wrong(audit(Project(workspace, store), 1))
    assert found["complete"].startswith("no prediction of 2 slices that can be decoded: ")
    shutil.rmtree(workspace.cache_dir)
    checks = {check.subject: check for check in audit(Project(workspace, store), 1).checks}
    assert checks["complete"].state == "unknown"
    assert "the cache, which knows whether they can be decoded, is gone" in checks["complete"].told


def test_a_fold_that_predicts_what_it_trained_on(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    other = read_predictions(oof_file(workspace, 0))
    path = oof_file(workspace, 1)
    own = read_predictions(path)
    ids = np.concatenate([own.slice_ids[:-1], other.slice_ids[:1]])
    write_predictions(path, Predictions(ids, own.logits))
    found = wrong(audit(Project(workspace, store), 1))
    assert f"1 slice of other folds, which this one trained on: {ids[-1]}" in found["fold 1 predictions"]


def test_a_changed_fold_file(place: tuple[Workspace, Store]) -> None:
    """A patient moved to the other fold: its digest tells, and so do predictions of slices not of their fold."""
    workspace, store = place
    path = workspace.root / store.version("ph").path / "folds-default.parquet"
    folds = pd.read_parquet(path)
    folds.assign(fold=[1 - folds["fold"][0], *folds["fold"][1:]]).to_parquet(path, index=False)
    found = wrong(audit(Project(workspace, store), 1))
    assert found["folds"].startswith("the fold file was changed: its digest is ")
    folds[1:].to_parquet(path, index=False)
    found = wrong(audit(Project(workspace, store), 1))
    assert found["folds"].startswith("the file of the folds default of ph version 1 was changed: ")
    assert "in none of its 2 folds, e.g. " in found["folds"]
    pd.concat([folds, folds[:1]]).to_parquet(path, index=False)
    assert wrong(audit(Project(workspace, store), 1))["folds"].endswith("it does not give each patient one fold")
    folds.drop(columns="fold").to_parquet(path, index=False)
    assert "folds" in wrong(audit(Project(workspace, store), 1))
    path.unlink()
    assert "folds-default.parquet" in wrong(audit(Project(workspace, store), 1))["folds"]


def test_folds_that_split_a_patient_are_no_proof(place: tuple[Workspace, Store]) -> None:
    """Even where every digest was made to agree."""
    from ichx.datasets.folds import fold_digest

    workspace, store = place
    data = load_dataset(Project(workspace, store), "ph")
    path = workspace.root / data.version.path / "folds-default.parquet"
    patients = pd.read_parquet(path).set_index("patient")["fold"]
    split = data.slices[["slice_id"]].assign(fold=patients.reindex(data.slices["patient"]).to_numpy())
    split.loc[0, "fold"] = 1 - split["fold"][0]
    split.to_parquet(path, index=False)
    digest = fold_digest(split["slice_id"].to_numpy(object), split["fold"].to_numpy(np.int16))
    execute(workspace, "UPDATE fold_set SET digest = ? WHERE id = ?", digest, data.version.folds[0].id)
    execute(workspace, "UPDATE experiment SET fold_digest = ? WHERE number = 1", digest)
    found = wrong(audit(Project(workspace, store), 1))
    assert found["patients"].startswith("a fold trained on patients that it predicts: 1 of 8 patients in more than one")
    assert "and the score is not marked so" in found["patients"]
    assert "trained on something else" in found["fold 0 weights"]


def test_a_changed_recipe(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    text = store.experiment(1).recipe
    execute(workspace, "UPDATE experiment SET recipe = ? WHERE number = 1", text.replace("seed = 0", "seed = 1"))
    found = wrong(audit(Project(workspace, store), 1))
    assert set(found) == {"recipe"}
    assert found["recipe"].startswith("the recipe was changed: its digest is ")
    execute(workspace, "UPDATE experiment SET recipe = 'x' WHERE number = 1")
    assert "recipe" in wrong(audit(Project(workspace, store), 1))


def test_a_changed_recipe_with_its_digest(place: tuple[Workspace, Store]) -> None:
    """The weights remember what they were trained with."""
    from ichx.recipe import digest
    from ichx.recipe_text import from_toml

    workspace, store = place
    text = store.experiment(1).recipe.replace("seed = 0", "seed = 1")
    execute(
        workspace, "UPDATE experiment SET recipe = ?, recipe_digest = ? WHERE number = 1", text, digest(from_toml(text))
    )
    found = wrong(audit(Project(workspace, store), 1))
    assert set(found) == {"fold 0 weights", "fold 1 weights"}
    assert "was trained on something else: fits " in found["fold 0 weights"]


def test_changed_labels_and_a_changed_catalog(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    path = workspace.root / store.version("ph").path / "catalog.parquet"
    catalog = pd.read_parquet(path)
    catalog.assign(any=1 - catalog["any"]).to_parquet(path, index=False)
    found = wrong(audit(Project(workspace, store), 1))
    assert {"labels", "score", "fold 0 predictions"} <= set(found)
    assert "dataset" not in found, "the catalog's digest is of the files, not of their labels"
    catalog.assign(rows=catalog["rows"] + 1).to_parquet(path, index=False)
    assert wrong(audit(Project(workspace, store), 1))["dataset"].startswith("the catalog of ph version 1 was changed")
    path.unlink()
    assert "catalog.parquet" in wrong(audit(Project(workspace, store), 1))["dataset"]


def test_weights_that_are_gone_or_another_folds(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    first, second = (workspace.experiment_dir(1) / f"fold-{k}" / "weights.safetensors" for k in (0, 1))
    shutil.copy(first, second)
    assert "fold '0' instead of '1'" in wrong(audit(Project(workspace, store), 1))["fold 1 weights"]
    second.write_bytes(b"no weights")
    assert "cannot be read" in wrong(audit(Project(workspace, store), 1))["fold 1 weights"]
    second.unlink()
    found = wrong(audit(Project(workspace, store), 1))
    assert found == {"fold 1 weights": "experiments/1/fold-1/weights.safetensors is missing"}


def test_a_score_that_does_not_follow(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    e = store.experiment(1)
    assert e.score is not None
    store.set_scores(1, ScoreDraft(e.score - 1e-6, e.spread), ScoreDraft(e.score_tta, e.spread_tta))
    found = wrong(audit(Project(workspace, store), 1))
    assert set(found) == {"score"}
    assert found["score"].startswith("the OOF score, tta none, is ")


def test_a_view_that_is_missing_and_one_in_another_order(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    execute(workspace, "DELETE FROM prediction WHERE experiment = 1 AND fold = 0 AND view = 'hflip' AND role = 'oof'")
    path = oof_file(workspace, 1, "hflip")
    old = read_predictions(path)
    write_predictions(path, Predictions(old.slice_ids[::-1], old.logits[::-1]))
    found = wrong(audit(Project(workspace, store), 1))
    assert found["fold 0 predictions"] == "no prediction is recorded of the view hflip"
    assert "its views predict different slices, or the same in another order" in found["fold 1 predictions"]


def test_an_experiment_that_was_never_run(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    fresh = new_experiment(store, load_registry(), plugin="tiny_resnet")
    found = audit(Project(workspace, store), fresh.number)
    assert wrong(found) == {"finished": "no fold is finished: there is no score"}
