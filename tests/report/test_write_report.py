"""Marks, notes and errors of reports, and the command `ichx report`."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from full_disk import run_with_limit
from report_pages import COMPLETE, NEW, PARTIAL, Page, experiment_page, parse, train
from typer.testing import CliRunner

from ichx.cli.report import report
from ichx.errors import (
    ChangedDataError,
    CorruptFileError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    StorageError,
)
from ichx.evaluation.ensemble import BLEND_FILE, OOF_FILE
from ichx.evaluation.ensemble_file import MODEL_FILE
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.predictions import read_predictions, write_predictions
from ichx.experiments.provenance import run_draft
from ichx.project import Project
from ichx.report import write_report
from ichx.report.build import render
from ichx.report.collect import collect_ensemble, collect_experiment
from ichx.store import EpochRecord, Store, open_store
from ichx.workspace import Workspace, open_workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return train(tmp_path_factory.mktemp("report"))


@pytest.fixture
def store(trained: Workspace) -> Iterator[Store]:
    with open_store(trained) as opened:
        yield opened


@pytest.fixture(scope="module")
def blend(trained: Workspace) -> tuple[str, Page]:
    with open_store(trained) as opened:
        return parse(render(collect_ensemble(Project(trained, opened), 1)))


def test_a_partial_experiment_is_marked(trained: Workspace, store: Store) -> None:
    _, page = experiment_page(trained, store, PARTIAL)
    assert "partial (1 of 2 folds)" in page.text
    assert [row[0] for row in page.tables["fold-scores"][1:]] == ["1", "pooled"]
    assert "±" not in page.text
    written = write_report(Project(trained, store), PARTIAL)
    assert written.marks == ("partial (1 of 2 folds)",)
    assert written.score == store.experiment(PARTIAL).score


def test_marks_appear_in_each_section_with_scores(trained: Workspace, store: Store) -> None:
    data = collect_experiment(Project(trained, store), COMPLETE)
    marked = render(replace(data, experiment=replace(data.experiment, selected=True, leaked=True)))
    assert "selected</span>" not in render(data)
    assert "leaky folds</span>" not in render(data)
    for heading in ("Learning curves", "Score by fold and label", "Labels", "Slices with the highest loss"):
        assert f'<h2>{heading} <span class="mark">selected</span> <span class="mark">leaky folds</span></h2>' in marked


def test_the_score_of_an_ensemble_is_its_nested_score(
    trained: Workspace, store: Store, blend: tuple[str, Page]
) -> None:
    ensemble = store.ensemble(1)
    assert ensemble.nested_score is not None
    html, found = blend
    pooled = found.tables["fold-scores"][-1]
    assert pooled[:3] == ["pooled", "24", f"{ensemble.nested_score:.5f}"]
    assert f'<p class="score">{ensemble.nested_score:.5f}' in html
    assert f"{ensemble.score:.5f}" in found.text
    assert f"{ensemble.nested_score - ensemble.score:+.5f}" in found.text
    members = found.tables["members"][1:]
    expected = [[str(m.experiment), f"{m.score:.5f}", f"{m.weight:.4f}"] for m in ensemble.members]
    assert [[row[0], row[2], row[3]] for row in members] == expected
    for member in ensemble.members:
        experiment = store.experiment(member.experiment)
        assert experiment.recipe in found.text
        assert experiment.recipe_digest in found.text
    written = write_report(Project(trained, store), 1, ensemble=True)
    assert written.path == trained.ensembles_dir / "1" / "report.html"
    assert (written.ensemble, written.experiment, written.score) == (1, None, pytest.approx(ensemble.nested_score))
    assert read_ensemble_oof(Project(trained, store), ensemble).nested


def test_an_ensemble_of_one_fold_is_marked_in_sample(trained: Workspace, store: Store) -> None:
    html = render(collect_ensemble(Project(trained, store), 2))
    assert write_report(Project(trained, store), 2, ensemble=True).marks == ("partial (1 of 2 folds)", "in-sample")
    assert f'<p class="score">{store.ensemble(2).score:.5f} <span class="mark">partial (1 of 2 folds)</span>' in html


def test_changed_predictions_of_an_ensemble_raise(trained: Workspace, tmp_path: Path) -> None:
    workspace = open_workspace(Path(shutil.copytree(trained.root, tmp_path / "workspace")))
    with open_store(workspace) as opened:
        path = workspace.ensembles_dir / "1" / OOF_FILE
        before = read_predictions(path)
        write_predictions(path, replace(before, logits=before.logits + 1))
        recorded = opened.ensemble(1).nested_score
        with pytest.raises(ChangedDataError, match=rf"nsemble 1 .*{recorded:.5f}"):
            write_report(Project(workspace, opened), 1, ensemble=True)
        write_predictions(path, replace(before, slice_ids=before.slice_ids[1:], logits=before.logits[1:]))
        with pytest.raises(ChangedDataError, match=r"nsemble 1 .* 24 .* 23"):
            write_report(Project(workspace, opened), 1, ensemble=True)
        for damage in (path.unlink, path.mkdir):
            damage()
            with pytest.raises((ChangedDataError, CorruptFileError), match=re.escape(str(path))) as caught:
                write_report(Project(workspace, opened), 1, ensemble=True)
            assert "ichx ensemble --members" in caught.value.remedy
        path.rmdir()
        write_predictions(path, before)
        for file, forget in ((MODEL_FILE, False), (BLEND_FILE, True)):  # ichx 0.1 stored no model
            if forget:
                with sqlite3.connect(workspace.root / "db" / "ichx.db") as connection:
                    connection.execute("UPDATE ensemble SET digest = NULL")
                connection.close()
            (path.parent / file).unlink()
            with pytest.raises(ChangedDataError, match=re.escape(file)) as caught:
                write_report(Project(workspace, opened), 1, ensemble=True)
            assert "ichx ensemble --members" in caught.value.remedy


def test_an_experiment_without_finished_fold_has_curves_only(trained: Workspace, store: Store) -> None:
    with pytest.raises(NotReadyError, match=f"{NEW}"):
        write_report(Project(trained, store), NEW)
    run = store.start_run(run_draft(NEW, 0, "cpu, fp32", 0, trained.experiment_dir(NEW) / "fold-0"))
    store.record_epoch(run.id, EpochRecord("balanced", 0, 1, {"loss": 0.7, "score": float("nan"), "lr": 1e-3}))
    store.finish_run(run.id, "stopped")
    html, found = experiment_page(trained, store, NEW)
    assert "no score yet" in found.text
    assert html.count("<svg ") == 3
    assert set(found.tables) == {"runs"}
    assert "partial" not in found.text
    assert write_report(Project(trained, store), NEW).score is None


def test_missing_files_become_notes(trained: Workspace, tmp_path: Path) -> None:
    """Without a cache the files are decoded; without both there are no slices, without weights no heat maps."""
    workspace = open_workspace(Path(shutil.copytree(trained.root, tmp_path / "workspace")))
    with open_store(workspace) as opened:
        assert render(collect_experiment(Project(workspace, opened), COMPLETE)).count('class="heat"') > 0
        shutil.rmtree(workspace.cache_dir)
        decoded = render(collect_experiment(Project(workspace, opened), COMPLETE))
        assert decoded == render(collect_experiment(Project(trained, opened), COMPLETE))
        assert not workspace.cache_dir.exists()
        source = (trained.root.parent / "files").rename(trained.root.parent / "moved")
        try:
            data = collect_experiment(Project(workspace, opened), COMPLETE)
        finally:
            source.rename(trained.root.parent / "files")
        assert data.gallery is not None
        assert (data.gallery.worst, data.gallery.strip, len(data.gallery.notes)) == ((), None, 1)
        (workspace.experiment_dir(COMPLETE) / "fold-0" / "weights.safetensors").unlink()
        notes = write_report(Project(workspace, opened), COMPLETE).notes
        assert len(notes) == 1
        assert "fold 0" in notes[0]
        (workspace.experiment_dir(COMPLETE) / "fold-0" / "oof-identity.parquet").unlink()
        with pytest.raises(ChangedDataError, match=r"oof-identity\.parquet"):
            write_report(Project(workspace, opened), COMPLETE)


def test_unknown_numbers_and_unwritable_files_raise(trained: Workspace, store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="experiment.*9"):
        write_report(Project(trained, store), 9)
    with pytest.raises(NotFoundError, match="ensemble.*9"):
        write_report(Project(trained, store), 9, ensemble=True)
    (tmp_path / "file").write_text("mine")
    steps: list[int] = []
    for kind, out in ((InvalidInputError, tmp_path), (StorageError, tmp_path / "file" / "report.html")):
        with pytest.raises(kind, match=re.escape(str(out))):
            write_report(Project(trained, store), COMPLETE, out, progress=lambda done, total: steps.append(done))
    assert steps == []
    for name in ("fig.svg", "fig.PDF", "fig.png"):
        with pytest.raises(InvalidInputError, match=re.escape(str(tmp_path / name))) as caught:
            write_report(Project(trained, store), COMPLETE, tmp_path / name)
        assert ".html" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_the_old_page(trained: Workspace, store: Store, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    done = run_with_limit(40, "-m", "ichx", "report", COMPLETE, "--out", out, cwd=trained.root)
    assert done.code == 1
    assert str(out) in done.err.replace("\n", "")
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert out.read_text() == "old"


def test_command(trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICHX_WORKSPACE", str(trained.root))
    app = typer.Typer()
    app.command()(report)

    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.stderr
        return result.stdout, result.stderr

    out, err = run(COMPLETE)
    default = trained.experiment_dir(COMPLETE) / "report.html"
    assert out.strip() == str(default)
    assert f"experiment {COMPLETE}" in err
    out, _ = run(PARTIAL, "--out", tmp_path / "new" / "page.html", "--json")
    written = json.loads(out)
    assert written["marks"] == ["partial (1 of 2 folds)"]
    assert Path(written["path"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert default.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not list(default.parent.glob(".report*"))
    out, err = run("--ensemble", 1, "--anonymous", "--out", tmp_path / "blend.html")
    assert out.strip() == str(tmp_path / "blend.html")
    assert "ensemble 1" in err
    assert "ichx report 6" in run("--help")[0]
    for arguments in ((), (COMPLETE, "--ensemble", 1)):
        assert "--ensemble" in run(*arguments, code=2)[1]
