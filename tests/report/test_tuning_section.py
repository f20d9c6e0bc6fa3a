"""The tuning section of a report: Optuna studies with their diagrams, promoted experiments with both scores."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from optuna_studies import fill, frozen, new_study, register, score_of, storage
from report_browser import OpenReport
from report_pages import Page, experiment_page

from ichx.errors import NotReadyError
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.report import write_report
from ichx.report.build import render
from ichx.report.collect import collect_experiment
from ichx.report.tuning_plots import clipped_count, score_axis
from ichx.store import Store, open_store
from ichx.tuning.results import read_study
from ichx.workspace import Workspace, open_workspace

PROMOTED_TRIAL = 12
"""Index of the promoted trial."""


@pytest.fixture(scope="module")
def tuned(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace in which experiment 1 has two studies, and a trial of the first is promoted and run."""
    root = tmp_path_factory.mktemp("tuned") / "workspace"
    workspace = open_workspace(Path(shutil.copytree(trained_root, root)))
    with open_store(workspace) as store, storage(workspace) as optuna_storage:
        parent = store.experiment(1)
        study = new_study(optuna_storage, parent)
        numbers = fill(store, parent, study, 24)
        values = {"stage.balanced.lr": 1e-2, "model.dropout": 0.1, "batch": "16"}
        limited = register(store, parent, study.study_name, 24, values)
        study.add_trial(frozen(values, TrialState.COMPLETE, 0.09, [("minutes", 5.0)], experiment=limited))
        study.add_trial(frozen(values | {"batch": "32"}, TrialState.COMPLETE, 7.5))
        fill(store, parent, new_study(optuna_storage, parent, "wide <b>", subset=0.5), 5)
        promoted = register(
            store, parent, study.study_name, 5, {"stage.balanced.lr": 2e-3}, of=numbers[PROMOTED_TRIAL], score=0.0998
        )
        run_experiment(Project(workspace, store, load_registry()), promoted)
    return workspace


@pytest.fixture
def store(tuned: Workspace) -> Iterator[Store]:
    with open_store(tuned) as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(tuned: Workspace) -> tuple[str, Page]:
    with open_store(tuned) as opened:
        return experiment_page(tuned, opened, 1)


def test_scores_of_a_study_have_marks(tuned: Workspace, store: Store, shown: tuple[str, Page]) -> None:
    html, page = shown
    text = " ".join(page.text.split())
    view = read_study(Project(tuned, store), 1, "")
    assert view.best is not None
    assert view.baseline is not None
    assert "26 trials on fold 0: 19 done, 6 pruned, 1 failed." in text
    assert f"Best trial: experiment {view.best.experiment} with {view.best.score:.5f} selected." in text
    assert f"Unchanged recipe: {view.baseline.score:.5f} selected." in text
    assert "The scores on fold 0 selected the best trials" in text
    assert "5 trials on fold 0, with 50 % of the patients" in text
    section = html[html.index('<section id="tuning">') : html.index('<section id="folds">')]
    assert section.count("<figure") == section.count("<figcaption><strong>")
    assert len(re.findall(r"</strong> <span class=\"mark\">selected</span>", section)) == section.count("<figure")
    assert "study wide &lt;b&gt;" in section
    assert "no memory" not in html, "errors may contain paths"
    assert "experiments/9/t.log" not in html
    head, *rows = page.tables["tuning-0-learned"]
    assert head[:6] == ["value", "range", "unchanged recipe", "best trial", "best quarter", "importance"]
    assert [row[0] for row in rows] == [learned.name for learned in view.learned]
    assert rows[0][5] == f"{100 * (view.learned[0].importance or 0):.0f} %"
    assert {row[5] for row in page.tables["tuning-1-learned"][1:]} == {"–"}


def test_trials_are_drawn_by_state(tuned: Workspace, store: Store, shown: tuple[str, Page]) -> None:
    html, page = shown
    view = read_study(Project(tuned, store), 1, "")
    drawn = html[html.index('id="tuning-0-history"') :]
    drawn = drawn[: drawn.index("</svg>")]
    assert drawn.count('class="dot"') == view.count("done")
    assert drawn.count('class="ring"') == view.count("pruned")
    assert drawn.count("l3.5 3.5m0 -7l-7 7m0 -7l3.5 3.5") == view.count("failed")
    assert clipped_count(view) >= 1
    assert score_axis(view).high < 7.5
    assert "score 7.50000" in drawn, "the tooltip of a clipped score has its value"
    assert f"({clipped_count(view)} trials)" in " ".join(page.text.split())
    charts = {name for name in page.ids if name.startswith("tuning-0-")}
    assert {"tuning-0-history", "tuning-0-values", *(f"tuning-0-slice-{i}" for i in range(3))} <= charts
    assert len(page.ids) == len(set(page.ids))
    assert page.unnamed == []
    rate = html[html.index('id="tuning-0-slice-0"') :]
    assert re.search(r">0\.0001<.*>0\.001<.*>0\.01<.*>0\.1<", rate[: rate.index("</svg>")]), "a logarithmic axis"


def test_rendering_is_deterministic(tuned: Workspace, store: Store, shown: tuple[str, Page]) -> None:
    assert render(collect_experiment(Project(tuned, store), 1)) == shown[0]


def test_a_promoted_experiment_has_both_scores(tuned: Workspace, store: Store, shown: tuple[str, Page]) -> None:
    (one,) = read_study(Project(tuned, store), 1, "").promoted
    assert one.score is not None
    assert one.parent_score is not None
    row = shown[1].tables["tuning-0-promoted"][1]
    assert re.search(r"<td class=\"number\">0\.09980 <span class=\"mark\">selected</span>", shown[0])
    assert row == [
        str(one.experiment), str(one.trial), "0.09980", f"{one.score:.5f}", f"{one.parent_score:.5f}",
        f"{one.better_by:+.5f}", "1 of 1",
    ]  # fmt: skip
    _, own = experiment_page(tuned, store, one.experiment)
    text = " ".join(own.text.split())
    assert f"study experiment-1 (experiment {one.trial}), which tuned experiment 1." in text
    assert "score on fold 0, 0.09980 selected, which is optimistic" in text
    sign = "better" if one.score < one.parent_score else "worse"
    assert f"its score is {one.score:.5f}. Experiment 1 scores {one.parent_score:.5f} on the same folds" in text
    assert f"{abs(one.parent_score - one.score):.5f} {sign}." in text


def test_a_tuned_experiment_without_epochs_has_a_report(tuned: Workspace, store: Store) -> None:
    created = new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32))
    with pytest.raises(NotReadyError, match=str(created.number)):
        collect_experiment(Project(tuned, store), created.number)
    with storage(tuned) as optuna_storage:
        study = new_study(optuna_storage, created)
        study.add_trial(frozen({"stage.balanced.lr": 1e-3}, TrialState.FAIL))
    html, page = experiment_page(tuned, store, created.number)
    assert "No trial is done within the limits yet." in page.text
    assert 'id="tuning-0-history"' in html
    with storage(tuned) as optuna_storage:
        study = new_study(optuna_storage, created, "next")
        for rate in (1e-3, 1e-2):
            values = {"stage.balanced.lr": rate}
            study.add_trial(frozen(values, TrialState.COMPLETE, score_of(values)))
    assert "2 done" in experiment_page(tuned, store, created.number)[1].text


def test_a_study_with_calibrated_scores_says_so(tuned: Workspace, store: Store) -> None:
    created = new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32))
    with storage(tuned) as optuna_storage:
        study = new_study(optuna_storage, created, objective="calibrated_score")
        attrs = {"raw_score": 0.5, "warm_start": "trial 4 of experiment-9"}
        study.add_trial(frozen({"stage.balanced.lr": 1e-3}, TrialState.COMPLETE, 0.2, baseline=True))
        study.add_trial(frozen({"stage.balanced.lr": 1e-2}, TrialState.COMPLETE, 0.3, **attrs))
    _, page = experiment_page(tuned, store, created.number)
    text = " ".join(page.text.split())
    assert "No trial is better than the recipe: the unchanged recipe has the best score on fold 0." in text
    assert "The calibrated scores on fold 0 selected the best trials" in text
    assert "Trial 2 is a warm start with the values of trial 4 of experiment-9." in text
    assert "Calibrated score by trial" in text


def test_without_studies_there_is_no_section(tuned: Workspace, store: Store) -> None:
    html, _ = experiment_page(tuned, store, 2)
    assert "tuning" not in html.split("<body>")[1].lower().replace("fine-tuning", "")


def test_an_unreadable_study_becomes_a_note(trained_copy: Path) -> None:
    workspace = open_workspace(trained_copy)
    (workspace.root / "db" / "tuning.db").write_text("no database")
    with open_store(workspace) as store:
        written = write_report(Project(workspace, store), 1)
    assert any("tuning.db" in note for note in written.notes)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_all_figures_are_drawn(
    tuned: Workspace, store: Store, tmp_path: Path, open_report: OpenReport, width: int, dark: bool
) -> None:
    path = write_report(Project(tuned, store), 1, tmp_path / "page.html").path
    viewport = {"width": width, "height": 900}
    view = open_report(path, viewport=viewport, color_scheme="dark" if dark else "light", is_mobile=width < 500)
    assert view.figures()["problems"] == []
    assert view.run("document.documentElement.scrollWidth") <= width
    assert view.errors == []
