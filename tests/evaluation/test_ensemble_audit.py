"""The audit accepts an untouched ensemble, and finds changes of its files, members, scores and submissions."""

import dataclasses
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from ichx.errors import NotReadyError
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_audit import EnsembleAudit, audit_ensemble
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.project import Project


def wrong(found: EnsembleAudit) -> dict[str, str]:
    assert found.passed == all(check.state != "wrong" for check in found.checks)
    return {check.subject: check.detail for check in found.checks if check.state == "wrong"}


def states(found: EnsembleAudit) -> dict[str, str]:
    return {check.subject: check.state for check in found.checks}


def execute(project: Project, statement: str, *values: object) -> None:
    with sqlite3.connect(project.workspace.root / "db" / "ichx.db") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


@pytest.mark.parametrize(
    "request_",
    [
        EnsembleRequest(top=2, smooth=True),
        EnsembleRequest(members=(1, 2), method="stack", tta="none"),
        EnsembleRequest(members=(1, 2), method="mean", average="probability"),
    ],
)
def test_an_untouched_ensemble_is_valid(project: Project, request_: EnsembleRequest) -> None:
    report = make_ensemble(project, request_)
    found = audit_ensemble(project, 1)
    assert set(states(found).values()) == {"ok"}, found
    assert {"model", "dataset", "folds", "score", "nested score", "submission ensembles/1/ph-test.csv"} <= set(
        states(found)
    )
    details = {check.subject: check.detail for check in found.checks}
    assert str(report.ensemble.digest) in details["model"]
    assert f"{report.ensemble.score:.5f}" in details["score"]
    assert f"{report.ensemble.nested_score:.5f}" in details["nested score"]


def test_changed_files(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean", calibrate=False))
    folder = project.workspace.ensemble_dir(1)
    submission = folder / "ph-test.csv"
    lines = submission.read_text().splitlines()
    name, value = lines[1].rsplit(",", 1)
    submission.write_text("\n".join([lines[0], f"{name},{float(value) + 1e-4}", *lines[2:], ""]))
    oof = read_predictions(folder / "oof.parquet")
    write_predictions(folder / "oof.parquet", Predictions(oof.slice_ids, oof.logits + np.float32(1e-3)))
    weights = project.workspace.experiment_files(2).fold(0).weights
    weights.write_bytes(weights.read_bytes() + b" ")
    view = project.workspace.experiment_files(1).fold(1).predictions("oof", "hflip")
    old = read_predictions(view)
    write_predictions(view, Predictions(old.slice_ids, old.logits + np.float32(0.1)))
    found = wrong(audit_ensemble(project, 1))
    assert set(found) == {
        "submission ensembles/1/ph-test.csv",
        "experiment 2 weights",
        "experiment 1 predictions",
        "score",
        "nested score",
    }
    assert "0.0001" in found["submission ensembles/1/ph-test.csv"]
    assert "fold 1, hflip" in found["experiment 1 predictions"]
    assert str(report.ensemble.score) in found["score"]
    write_predictions(view, old)
    found = wrong(audit_ensemble(project, 1))
    assert "oof.parquet" in found["nested score"]
    (folder / "model.npz").unlink()
    assert set(wrong(audit_ensemble(project, 1))) == {"model"}


def test_a_changed_record(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean"))
    assert report.ensemble.nested_score is not None
    execute(project, "UPDATE ensemble SET score = score - 1e-6, nested_score = nested_score - 2e-6")
    found = wrong(audit_ensemble(project, 1))
    assert set(found) == {"score", "nested score"}
    assert f"{report.ensemble.nested_score:.9f}" in found["nested score"]
    (project.workspace.root / report.submissions[0].path).unlink()
    assert "missing" in wrong(audit_ensemble(project, 1))["submission ensembles/1/ph-test.csv"]


def test_a_deleted_candidate_without_weight(project: Project) -> None:
    """The blend can be checked without it; the choice of members cannot be made again."""
    report = make_ensemble(project, EnsembleRequest(top=1, method="mean"))
    (used,) = (m.experiment for m in report.ensemble.members)
    gone = next(n for n in (1, 2, 3) if n != used)
    project.store.trash([gone])
    project.store.purge(gone)
    found = audit_ensemble(project, 1)
    assert found.passed
    assert states(found)[f"experiment {gone} predictions"] == "unknown"
    assert states(found)["nested score"] == "unknown"
    assert states(found)["score"] == "ok"


def test_a_submission_elsewhere(project: Project, tmp_path: Path) -> None:
    make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean", out=tmp_path / "final.csv"))
    subject = f"submission {tmp_path / 'final.csv'}"
    assert states(audit_ensemble(project, 1))[subject] == "ok"
    (tmp_path / "final.csv").unlink()
    found = audit_ensemble(project, 1)
    assert (states(found)[subject], found.passed) == ("unknown", True)


def test_an_ensemble_of_an_older_version(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean"))
    execute(project, "UPDATE ensemble SET digest = NULL")
    with pytest.raises(NotReadyError, match="ensemble 1|Ensemble 1") as caught:
        audit_ensemble(project, 1)
    assert "ichx ensemble --members 1,2 --tta hflip" in caught.value.remedy
    assert dataclasses.replace(report.ensemble, digest=None) == project.store.ensemble(1)
