"""Reports of what is partial, marked, unfinished, changed, missing or unknown; and the command."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from full_disk import run_with_limit
from report_pages import NEW, PARTIAL, WHOLE, Page, page, seen, train
from typer.testing import CliRunner

from ichx.cli.report import report
from ichx.errors import IchxError, NotFoundError
from ichx.evaluation.ensemble import BLEND_FILE, OOF_FILE
from ichx.evaluation.predictions import read_predictions, write_predictions
from ichx.experiments.provenance import run_draft
from ichx.project import Project
from ichx.report import write_report
from ichx.report.blended import read_blend
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
        return seen(render(collect_ensemble(Project(trained, opened), 1)))


def test_a_partial_experiment_says_so(trained: Workspace, store: Store) -> None:
    _, seen = page(trained, store, PARTIAL)
    assert "partial (1 of 2 folds)" in seen.text
    assert [row[0] for row in seen.tables["fold-scores"][1:]] == ["1", "pooled"]
    assert "over folds" not in seen.text
    written = write_report(Project(trained, store), PARTIAL)
    assert written.marks == ("partial (1 of 2 folds)",)
    assert written.score == store.experiment(PARTIAL).score


def test_marks_are_shown_beside_each_score(trained: Workspace, store: Store) -> None:
    data = collect_experiment(Project(trained, store), WHOLE)
    marked = render(replace(data, experiment=replace(data.experiment, selected=True, leaked=True)))
    found, plain = Page(marked), Page(render(data))
    for expected in ("selected", "leaky folds", "was looked at to choose", "in several folds"):
        assert expected in found.text
        assert expected not in plain.text
    for heading in ("Learning curves", "Score by fold and label", "Labels", "Slices with the highest loss", "One head"):
        assert f'<h2>{heading} <span class="mark">selected</span> <span class="mark">leaky folds</span></h2>' in marked


def test_an_ensemble_claims_its_nested_score(trained: Workspace, store: Store, blend: tuple[str, Page]) -> None:
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
    assert read_blend(Project(trained, store), ensemble).nested


def test_an_ensemble_of_one_fold_is_marked(trained: Workspace, store: Store) -> None:
    html, found = seen(render(collect_ensemble(Project(trained, store), 2)))
    assert write_report(Project(trained, store), 2, ensemble=True).marks == ("partial (1 of 2 folds)", "in-sample")
    assert "it flatters" in found.text
    assert f'<p class="score">{store.ensemble(2).score:.5f} <span class="mark">partial (1 of 2 folds)</span>' in html


def test_an_ensemble_whose_predictions_changed_is_refused(trained: Workspace, tmp_path: Path) -> None:
    workspace = open_workspace(Path(shutil.copytree(trained.root, tmp_path / "workspace")))
    with open_store(workspace) as opened:
        path = workspace.ensembles_dir / "1" / OOF_FILE
        before = read_predictions(path)
        write_predictions(path, replace(before, logits=before.logits + 1))
        with pytest.raises(IchxError, match=r"ensemble 1 cannot be reported: .* score .* now, and not"):
            write_report(Project(workspace, opened), 1, ensemble=True)
        write_predictions(path, replace(before, slice_ids=before.slice_ids[1:], logits=before.logits[1:]))
        with pytest.raises(IchxError, match="its members predict other slices now"):
            write_report(Project(workspace, opened), 1, ensemble=True)
        (path.parent / BLEND_FILE).unlink()
        with pytest.raises(IchxError, match=r"blend.json cannot be read") as caught:
            write_report(Project(workspace, opened), 1, ensemble=True)
        assert "ichx ensemble --members" in caught.value.remedy


def test_without_a_finished_fold_there_are_curves_and_no_score(trained: Workspace, store: Store) -> None:
    with pytest.raises(IchxError, match="experiment 3 has nothing to report: no epoch of it is trained"):
        write_report(Project(trained, store), NEW)
    run = store.start_run(run_draft(NEW, 0, "cpu, fp32", 0, trained.experiment_dir(NEW) / "fold-0"))
    store.record_epoch(run.id, EpochRecord("balanced", 0, 1, {"loss": 0.7, "score": float("nan"), "lr": 1e-3}))
    store.finish_run(run.id, "stopped")
    html, found = page(trained, store, NEW)
    assert "no score yet" in found.text
    assert html.count("<svg ") == 3
    assert set(found.tables) == {"runs"}
    assert "partial" not in found.text
    assert write_report(Project(trained, store), NEW).score is None


def test_what_is_missing_is_told(trained: Workspace, tmp_path: Path) -> None:
    """Without a cache the files are read; without weights there are no heat maps; without files, no slices."""
    workspace = open_workspace(Path(shutil.copytree(trained.root, tmp_path / "workspace")))
    source = Path(shutil.copytree(trained.root.parent / "files", tmp_path / "files", copy_function=shutil.copy2))
    with open_store(workspace) as opened:
        version = replace(opened.version("small"), source=str(source))
        assert render(collect_experiment(Project(workspace, opened), WHOLE)).count('class="heat"') > 0
        shutil.rmtree(workspace.cache_dir)
        again = render(collect_experiment(Project(workspace, opened), WHOLE))
        assert again == render(collect_experiment(Project(trained, opened), WHOLE))
        assert not workspace.cache_dir.exists()
        (workspace.experiment_dir(WHOLE) / "fold-0" / "weights.safetensors").unlink()
        notes = write_report(Project(workspace, opened), WHOLE).notes
        assert [note.partition(":")[0] for note in notes] == ["no heat maps for fold 0"]
        (workspace.experiment_dir(WHOLE) / "fold-0" / "oof-identity.parquet").unlink()
        with pytest.raises(IchxError, match=r"oof-identity.parquet are missing"):
            write_report(Project(workspace, opened), WHOLE)
        assert version.source == str(source)


def test_unknown_numbers_and_unwritable_files_are_told(trained: Workspace, store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no experiment 9"):
        write_report(Project(trained, store), 9)
    with pytest.raises(NotFoundError, match="no ensemble 9"):
        write_report(Project(trained, store), 9, ensemble=True)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(IchxError, match="cannot write"):
            write_report(Project(trained, store), WHOLE, out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_the_old_page(trained: Workspace, store: Store, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    done = run_with_limit(40, "-m", "ichx", "report", WHOLE, "--out", out, cwd=trained.root)
    assert done.code == 1
    assert "cannot write" in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert out.read_text() == "old"


def test_the_command(trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICHX_WORKSPACE", str(trained.root))
    app = typer.Typer()
    app.command()(report)

    def typed(*arguments: object, code: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.stderr
        return result.stdout, result.stderr

    out, err = typed(WHOLE)
    default = trained.experiment_dir(WHOLE) / "report.html"
    assert out.strip() == str(default)
    assert "OOF score" in err
    out, _ = typed(PARTIAL, "--out", tmp_path / "new" / "page.html", "--json")
    told = json.loads(out)
    assert told["marks"] == ["partial (1 of 2 folds)"]
    assert Path(told["path"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert default.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not list(default.parent.glob(".report*"))
    out, err = typed("--ensemble", 1, "--anonymous", "--out", tmp_path / "blend.html")
    assert out.strip() == str(tmp_path / "blend.html")
    assert "ensemble 1" in err
    assert "ichx report 6" in typed("--help")[0]
    for wrong in ((), (WHOLE, "--ensemble", 1)):
        assert "one of them" in typed(*wrong, code=2)[1]
