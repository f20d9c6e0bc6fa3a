"""The report of a really trained experiment: complete, partial, unfinished, unknown."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
import typer
from dicom_files import write_study
from typer.testing import CliRunner

from ichx.cli.report import report
from ichx.data.dataset import add_dataset
from ichx.errors import IchxError, NotFoundError
from ichx.evaluation.oof import read_oof
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.report import write_report
from ichx.report.build import collect, render
from ichx.store import EpochRecord, Store, open_store
from ichx.training.fold import RunOptions
from ichx.training.provenance import run_draft
from ichx.training.register import new_experiment
from ichx.training.runner import run_experiment
from ichx.workspace import Workspace, init_workspace

WHOLE, PARTIAL, NEW = 1, 2, 3
NAME = "<b>tiny & co</b>"
TRUTH = ((1, "subdural"), (2, "intraventricular"), (3, "subdural"))  # by remainder of the slice's place; the rest: none


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace with a trained experiment, one with a fold left to train, and one that never ran."""
    folder = tmp_path_factory.mktemp("report")
    workspace = init_workspace(folder / "workspace")
    lines = ["ID,Label"]
    for patient in range(4):
        for place, slice_id in enumerate(write_study(folder / "files", str(patient), 6)):
            positive = {label for rest, label in TRUTH if place % 4 == rest}
            positive |= {"any"} if positive else set()
            lines += [f"{slice_id}_{label},{int(label in positive)}" for label in LABELS]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    registry = load_registry()
    stages = ("balanced", "rebalanced", "full")
    settings = (
        "batch=4",
        "input.size=32",
        "input.crop=0",
        *(f"stage.{s}.{v}" for s in stages for v in ("epochs=1", "milestones=[]")),
    )
    with open_store(workspace) as store:
        add_dataset(workspace, store, "small", folder / "files", labels=folder / "labels.csv", folds=2)
        for name in (NAME, "half", "never"):
            new_experiment(store, registry, plugin="tiny_byobnet", settings=settings, name=name)
        options = RunOptions(device="cpu", workers=0)
        run_experiment(workspace, store, registry, WHOLE, options=options)
        run_experiment(workspace, store, registry, PARTIAL, folds=[1], options=options)
    return workspace


@pytest.fixture
def store(trained: Workspace) -> Iterator[Store]:
    with open_store(trained) as opened:
        yield opened


class Page(HTMLParser):
    """What a browser would see: open tags (for balance), addresses asked for, tables by id, ids, text."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.text = ""
        self._table = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.open += [tag] if tag not in self.VOID else []
        self.addresses += [values[a] or "" for a in ("href", "src", "xlink:href", "action", "data") if a in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag == "table":
            self._table = values.get("id") or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self._table][-1][-1] += data.strip()


def page(workspace: Workspace, store: Store, number: int) -> tuple[str, Page]:
    html = render(collect(workspace, store, number))
    seen = Page(html)
    assert seen.open == []
    return html, seen


@pytest.fixture(scope="module")
def whole(trained: Workspace) -> tuple[str, Page]:
    with open_store(trained) as opened:
        return page(trained, opened, WHOLE)


def test_figures_are_those_of_the_store_and_the_oof_table(
    trained: Workspace, store: Store, whole: tuple[str, Page]
) -> None:
    experiment = store.experiment(WHOLE)
    assert experiment.score is not None
    assert experiment.score_tta is not None
    _, seen = whole
    oof = read_oof(trained, store, experiment)
    head, *folds, pooled = seen.tables["fold-scores"]
    assert head[4:] == list(LABELS)
    assert [row[:3] for row in folds] == [[str(k), "12", f"{s:.5f}"] for k, s in oof.fold_scores.items()]
    assert pooled[:4] == ["pooled", "24", f"{experiment.score:.5f}", f"{experiment.score_tta:.5f}"]
    assert f"{experiment.score:.5f} ± {experiment.spread:.5f} over folds" in seen.text
    weighted = sum(float(loss) for loss in (*pooled[4:], pooled[-1])) / 7
    assert weighted == pytest.approx(experiment.score, abs=1e-5)
    assert "partial" not in seen.text
    runs = seen.tables["runs"][1:]
    assert [row[:4] for row in runs] == [[str(k), "1", "done", "3/3"] for k in range(2)]
    for run in store.runs(WHOLE):
        for known in (run.host, run.device, run.code_version, f"torch {run.libraries['torch']}"):
            assert known in seen.text
    version = store.version("small")
    for digest in (version.digest, experiment.label_digest, experiment.fold_digest, experiment.recipe_digest):
        assert digest in seen.text
    assert experiment.recipe in seen.text


def test_labels_without_both_classes_are_undefined(whole: tuple[str, Page]) -> None:
    html, seen = whole
    rows = {row[0]: row[1:] for row in seen.tables["label-scores"][1:]}
    assert list(rows) == list(LABELS)
    for label in ("epidural", "intraparenchymal", "subarachnoid"):
        assert rows[label][0] == "0"
        assert rows[label][-1] == "undefined: no positive slices"
        assert f"{label}: undefined" in html
    for label, positives in (("subdural", "12"), ("intraventricular", "4"), ("any", "16")):
        assert rows[label][0] == positives
        assert 0 <= float(rows[label][-1]) <= 1
        assert f"{label}: AUC {rows[label][-1]}" in html


def test_reliability_of_a_single_class_is_undefined(trained: Workspace, store: Store) -> None:
    data = collect(trained, store, WHOLE)
    assert data.scores is not None
    assert "reliability-" in render(data)
    without = render(replace(data, scores=replace(data.scores, reliability=None)))
    assert "reliability-" not in without
    assert "undefined, as these slices do not have both classes" in without


def test_the_page_needs_nothing_but_itself(whole: tuple[str, Page]) -> None:
    html, seen = whole
    assert not seen.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "image"}
    assert all(address.startswith("#") for address in seen.addresses)
    assert {address[1:] for address in seen.addresses} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    references = set(re.findall(r"url\(([^)]*)\)", html))
    assert references
    assert {reference[1:] for reference in references} <= set(seen.ids)
    assert "@import" not in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_plots_use_the_colours_of_the_page(whole: tuple[str, Page]) -> None:
    html, _ = whole
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert html.count("<svg ") == 3
    assert not re.findall(r"(?:fill|stroke): #\w+", drawn)
    used = set(re.findall(r"var\((--[\w-]+)\)", drawn))
    assert {"--line", "--series-0", "--series-5"} <= used
    assert all(html.count(f"{name}: #") == 2 for name in used)  # light and dark


def test_names_are_text_and_not_markup(whole: tuple[str, Page]) -> None:
    html, seen = whole
    assert "b" not in seen.tags
    assert NAME in seen.text
    assert NAME not in html


def test_no_path_and_no_slice_id_is_told(trained: Workspace, whole: tuple[str, Page]) -> None:
    html, _ = whole
    assert str(trained.root.parent) not in html
    assert "ID_" not in html


def test_the_same_again_gives_the_same_bytes(trained: Workspace, store: Store) -> None:
    before = dict(mpl.rcParams)
    first = render(collect(trained, store, WHOLE))
    assert render(collect(trained, store, WHOLE)) == first
    assert dict(mpl.rcParams) == before


def test_a_partial_experiment_says_so(trained: Workspace, store: Store) -> None:
    _, seen = page(trained, store, PARTIAL)
    assert "partial (1 of 2 folds)" in seen.text
    assert [row[0] for row in seen.tables["fold-scores"][1:]] == ["1", "pooled"]
    assert "over folds" not in seen.text
    written = write_report(trained, store, PARTIAL)
    assert written.marks == ("partial (1 of 2 folds)",)
    assert written.score == store.experiment(PARTIAL).score


def test_marks_are_shown_beside_the_score(trained: Workspace, store: Store) -> None:
    data = collect(trained, store, WHOLE)
    seen = Page(render(replace(data, experiment=replace(data.experiment, selected=True, leaked=True))))
    plain = Page(render(data))
    for expected in ("selected", "leaky folds", "was looked at to choose", "in several folds"):
        assert expected in seen.text
        assert expected not in plain.text


def test_without_a_finished_fold_there_are_curves_and_no_score(trained: Workspace, store: Store) -> None:
    html, seen = page(trained, store, NEW)
    assert "no epoch is trained" in seen.text
    assert "<svg" not in html
    run = store.start_run(run_draft(NEW, 0, "cpu, fp32"))
    store.record_epoch(run.id, EpochRecord("balanced", 0, 1, {"loss": 0.7, "score": float("nan"), "lr": 1e-3}))
    store.finish_run(run.id, "stopped")
    html, seen = page(trained, store, NEW)
    assert "no score yet" in seen.text
    assert html.count("<svg ") == 1
    assert set(seen.tables) == {"runs"}
    assert "partial" not in seen.text
    assert write_report(trained, store, NEW).score is None


def test_unknown_experiments_and_unwritable_files_are_told(trained: Workspace, store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no experiment has the number 9"):
        write_report(trained, store, 9)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(IchxError, match="cannot write"):
            write_report(trained, store, WHOLE, out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command(trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICHX_WORKSPACE", str(trained.root))
    app = typer.Typer()
    app.command()(report)

    def typed(*arguments: object) -> tuple[str, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
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
    assert "ichx report 6" in typed("--help")[0]
