"""Thresholds, recalibrations and evaluations on the pages of experiments and ensembles."""

from pathlib import Path

from conftest import Program
from test_data_page import rows_of, shown
from web_site import Serve

from ichx.evaluation.subject import Subject
from ichx.evaluation.threshold_file import stored_thresholds
from ichx.project import open_project
from ichx.store import EvaluationDraft


def test_the_part_shows_what_is_stored_or_the_command(trained_copy: Path, ichx: Program, serve: Serve) -> None:
    with serve(trained_copy).client() as client:
        page = client.get("/api/experiments/1/operating").text
        assert "ichx threshold 1 --label any --sensitivity 0.95" in page
        assert "ichx recalibrate 1 --dataset NAME" in page
        assert "ichx evaluate 1 --dataset NAME" in page
        chosen = ichx("threshold", 1, "--per", "slice", "--sensitivity", 0.9, cwd=trained_copy)
        assert chosen.code == 0, chosen.err
        with open_project(trained_copy) as project:
            (stored,) = stored_thresholds(project, Subject(1))
            version = project.store.version("ph")
            draft = EvaluationDraft("evaluate", "a" * 64, "b" * 64, 0.2, version.dataset, version.number, experiment=1)
            project.store.add_evaluation(draft)
        page = client.get("/api/experiments/1/operating").text
        row = rows_of(page, "Thresholds")[0]
        assert row[:3] == ["any", "slice", "sensitivity >= 0.9"]
        assert row[3].startswith(f"{stored.threshold:.4f}")
        assert "No threshold is stored" not in page
        assert rows_of(page, "Evaluations on other datasets")[0][:2] == ["ph version 1", "evaluate"]
        assert client.get("/api/experiments/99/operating").status_code == 404
        assert 'data-source="/api/experiments/1/operating"' in client.get("/experiments/1").text
        counted = shown(client, "/data/ph@1")
        assert rows_of(counted, "Evaluations")[0][1:] == ["evaluate", "experiment 1", "1"]
