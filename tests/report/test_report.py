"""The report of really trained experiments and their ensemble: complete, partial, unfinished, unknown."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from dicom_files import write_study
from full_disk import run_with_limit
from typer.testing import CliRunner

from ichx.cli.report import report
from ichx.data.dataset import add_dataset, load_version
from ichx.data.predictions import read_predictions, write_predictions
from ichx.errors import IchxError, NotFoundError
from ichx.evaluation.bootstrap import loss_interval
from ichx.evaluation.ensemble import BLEND_FILE, OOF_FILE, make_ensemble
from ichx.evaluation.metric import score
from ichx.evaluation.oof import read_oof
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.report import write_ensemble_report, write_report
from ichx.report.blended import read_blend
from ichx.report.build import render
from ichx.report.collect import collect_ensemble, collect_experiment
from ichx.store import EpochRecord, Store, open_store
from ichx.training.options import RunOptions
from ichx.training.provenance import run_draft
from ichx.training.register import new_experiment
from ichx.training.runner import run_experiment
from ichx.workspace import Workspace, init_workspace, open_workspace

WHOLE, PARTIAL, NEW, OTHER = 1, 2, 3, 4
NAME = "<b>tiny & co</b>"
TRUTH = ((1, "subdural"), (2, "intraventricular"), (3, "subdural"))  # by remainder of the slice's place; the rest: none


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace with two trained experiments, one with a fold left to train, and one that never ran.

    Ensemble 1 blends the two, ensemble 2 has one fold alone.
    """
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
        new_experiment(store, registry, plugin="tiny_resnet", settings=settings, name="other")
        options = RunOptions(device="cpu", workers=0)
        run_experiment(workspace, store, registry, WHOLE, options=options)
        run_experiment(workspace, store, registry, PARTIAL, folds=[1], options=options)
        run_experiment(workspace, store, registry, OTHER, options=options)
        make_ensemble(workspace, store, tta="hflip")
        make_ensemble(workspace, store, tta="none", members=(WHOLE, PARTIAL))
    return workspace


@pytest.fixture
def store(trained: Workspace) -> Iterator[Store]:
    with open_store(trained) as opened:
        yield opened


class Page(HTMLParser):
    """What a browser would see: open tags (for balance), addresses asked for, tables by id, ids, text."""

    VOID = ("meta", "br", "link", "img", "input", "hr", "image", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.named: list[str] = []
        self.unnamed: list[str] = []
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
        self.named += [values.get("aria-labelledby") or ""] if "aria-labelledby" in values else []
        self.unnamed += [tag] if tag == "img" and not values.get("alt") else []
        self.unnamed += (
            [tag] if values.get("role") == "img" and not values.keys() & {"aria-label", "aria-labelledby"} else []
        )
        if tag == "table":
            self._table = values.get("id") or f"table {len(self.tables)}"
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self._table][-1][-1] += data.strip()


def page(workspace: Workspace, store: Store, number: int) -> tuple[str, Page]:
    return seen(render(collect_experiment(workspace, store, number)))


def seen(html: str) -> tuple[str, Page]:
    found = Page(html)
    assert found.open == []
    return html, found


@pytest.fixture(scope="module")
def whole(trained: Workspace) -> tuple[str, Page]:
    with open_store(trained) as opened:
        return page(trained, opened, WHOLE)


@pytest.fixture(scope="module")
def blend(trained: Workspace) -> tuple[str, Page]:
    with open_store(trained) as opened:
        return seen(render(collect_ensemble(trained, opened, 1)))


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
    reason = loss_interval(oof.labels, oof.probabilities, oof.patients).undefined  # four patients are too few
    assert reason
    assert f"undefined {reason}" in seen.text
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
        assert rows[label][3:5] == ["undefined: the label never occurs", "undefined"]
        assert f"{label}: undefined" in seen.text
    for label, positives in (("subdural", "12"), ("intraventricular", "4"), ("any", "16")):
        assert rows[label][0] == positives
        assert all(0 <= float(value) <= 1 for value in rows[label][3:])
        assert f"{label}: AUC {rows[label][3]}" in seen.text
    assert "undefined for epidural, intraparenchymal, subarachnoid" in html


def test_slices_are_shown_with_their_labels_and_probabilities(
    trained: Workspace, store: Store, whole: tuple[str, Page]
) -> None:
    html, seen = whole
    oof = read_oof(trained, store, store.experiment(WHOLE))
    losses = [score(oof.labels[i : i + 1], oof.probabilities[i : i + 1]) for i in range(24)]
    order = sorted(range(24), key=lambda i: -losses[i])
    first = next(rows for name, rows in seen.tables.items() if name.startswith("table"))
    assert html.index(f"<code>{oof.slice_ids[order[0]]}</code>") == html.index('<h3 id="w1-name"><code>') + 17
    expected = zip(LABELS, oof.labels[order[0]], oof.probabilities[order[0]], strict=True)
    assert first[1:] == [[label, "yes" if y else "no", "", f"{p:.3f}"] for label, y, p in expected]
    cards = html.count('<article class="card"')
    assert cards == 4 + 8  # one for each series, and the sample
    assert html.count('class="heat"') == cards * len(LABELS)
    assert html.count("data:image/webp") == cards * 3 + 6  # windows, and the strip of one series
    assert html.count("data:image/png") == cards * len(LABELS)


def test_the_page_needs_nothing_but_itself(whole: tuple[str, Page], blend: tuple[str, Page]) -> None:
    for html, seen in (whole, blend):
        assert not seen.tags & {"iframe", "object", "embed", "base", "form", "video", "audio"}
        assert all(address.startswith(("#", "data:")) for address in seen.addresses)
        assert {address[1:] for address in seen.addresses if address.startswith("#")} <= set(seen.ids)
        assert len(seen.ids) == len(set(seen.ids))
        assert not re.findall(r"url\(|@import|https?://(?!www.w3.org/2000/svg)", html)  # a name, not an address
        assert "default-src 'none'" in html
        assert 'name="viewport"' in html
        assert "prefers-color-scheme: dark" in html


def test_every_picture_has_a_text_and_every_figure_keys(whole: tuple[str, Page], blend: tuple[str, Page]) -> None:
    for html, seen in (whole, blend):
        assert seen.unnamed == []
        assert {name for names in seen.named for name in names.split()} <= set(seen.ids)
        assert html.count("<svg ") == len(re.findall(r"<svg [^>]*tabindex=\"0\"", html))
        assert len(re.findall(r'<svg class="chart"', html)) == len(re.findall(r"<desc ", html))


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2.2 has it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_the_paper_in_both_themes(whole: tuple[str, Page]) -> None:
    html, _ = whole
    themes = [
        dict(re.findall(r"(--[\w-]+): (#\w{6})", part)) for part in re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    ]
    light, dark = themes[:2]
    assert set(light) == set(dark)
    for theme in (light, dark, light | themes[2]):  # the third is the print's
        for paper in (theme["--paper"], theme["--panel"]):
            for text in ("--ink", "--quiet", "--mark", "--accent"):
                assert contrast(theme[text], paper) >= 4.5, (text, paper)
            for series in range(10):
                assert contrast(theme[f"--series-{series}"], paper) >= 3, (series, paper)


def test_names_are_text_and_not_markup(whole: tuple[str, Page]) -> None:
    html, seen = whole
    assert "b" not in seen.tags
    assert NAME in seen.text
    assert NAME not in html


def test_no_path_and_no_patient_is_told(trained: Workspace, store: Store, whole: tuple[str, Page]) -> None:
    html, _ = whole
    assert str(trained.root.parent) not in html
    slices = load_version(trained, store.version("small")).slices
    for column in ("patient", "study", "series", "file"):
        assert not any(str(value) in html for value in slices[column].unique())


def test_an_anonymous_page_has_neither_slice_ids_nor_hosts(trained: Workspace, store: Store) -> None:
    ids = read_oof(trained, store, store.experiment(WHOLE)).slice_ids
    host = f"<td>{store.runs(WHOLE)[0].host}</td>"
    plain = render(collect_experiment(trained, store, WHOLE))
    assert any(slice_id in plain for slice_id in ids)
    assert host in plain
    for data in (
        collect_experiment(trained, store, WHOLE, anonymous=True),
        collect_ensemble(trained, store, 1, anonymous=True),
    ):
        html, found = seen(render(data))
        assert not any(slice_id in html for slice_id in ids)
        assert host not in html
        assert "image 1" in found.text


def test_the_same_again_gives_the_same_bytes(trained: Workspace, store: Store, whole: tuple[str, Page]) -> None:
    assert render(collect_experiment(trained, store, WHOLE)) == whole[0]


def test_a_partial_experiment_says_so(trained: Workspace, store: Store) -> None:
    _, seen = page(trained, store, PARTIAL)
    assert "partial (1 of 2 folds)" in seen.text
    assert [row[0] for row in seen.tables["fold-scores"][1:]] == ["1", "pooled"]
    assert "over folds" not in seen.text
    written = write_report(trained, store, PARTIAL)
    assert written.marks == ("partial (1 of 2 folds)",)
    assert written.score == store.experiment(PARTIAL).score


def test_marks_are_shown_beside_each_score(trained: Workspace, store: Store) -> None:
    data = collect_experiment(trained, store, WHOLE)
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
    written = write_ensemble_report(trained, store, 1)
    assert written.path == trained.ensembles_dir / "1" / "report.html"
    assert (written.ensemble, written.experiment, written.score) == (1, None, pytest.approx(ensemble.nested_score))
    assert read_blend(trained, store, ensemble).nested


def test_an_ensemble_of_one_fold_is_marked(trained: Workspace, store: Store) -> None:
    html, found = seen(render(collect_ensemble(trained, store, 2)))
    assert write_ensemble_report(trained, store, 2).marks == ("partial (1 of 2 folds)", "in-sample")
    assert "it flatters" in found.text
    assert f'<p class="score">{store.ensemble(2).score:.5f} <span class="mark">partial (1 of 2 folds)</span>' in html


def test_an_ensemble_whose_predictions_changed_is_refused(trained: Workspace, tmp_path: Path) -> None:
    workspace = open_workspace(Path(shutil.copytree(trained.root, tmp_path / "workspace")))
    with open_store(workspace) as opened:
        path = workspace.ensembles_dir / "1" / OOF_FILE
        before = read_predictions(path)
        write_predictions(path, replace(before, logits=before.logits + 1))
        with pytest.raises(IchxError, match=r"ensemble 1 cannot be reported: .* score .* now, and not"):
            write_ensemble_report(workspace, opened, 1)
        write_predictions(path, replace(before, slice_ids=before.slice_ids[1:], logits=before.logits[1:]))
        with pytest.raises(IchxError, match="its members predict other slices now"):
            write_ensemble_report(workspace, opened, 1)
        (path.parent / BLEND_FILE).unlink()
        with pytest.raises(IchxError, match=r"blend.json cannot be read") as caught:
            write_ensemble_report(workspace, opened, 1)
        assert "ichx ensemble --members" in caught.value.remedy


def test_without_a_finished_fold_there_are_curves_and_no_score(trained: Workspace, store: Store) -> None:
    with pytest.raises(IchxError, match="experiment 3 has nothing to report: no epoch of it is trained"):
        write_report(trained, store, NEW)
    run = store.start_run(run_draft(NEW, 0, "cpu, fp32"))
    store.record_epoch(run.id, EpochRecord("balanced", 0, 1, {"loss": 0.7, "score": float("nan"), "lr": 1e-3}))
    store.finish_run(run.id, "stopped")
    html, found = page(trained, store, NEW)
    assert "no score yet" in found.text
    assert html.count("<svg ") == 3
    assert set(found.tables) == {"runs"}
    assert "partial" not in found.text
    assert write_report(trained, store, NEW).score is None


def test_what_is_missing_is_told(trained: Workspace, tmp_path: Path) -> None:
    """Without a cache the files are read; without weights there are no heat maps; without files, no slices."""
    workspace = open_workspace(Path(shutil.copytree(trained.root, tmp_path / "workspace")))
    source = Path(shutil.copytree(trained.root.parent / "files", tmp_path / "files", copy_function=shutil.copy2))
    with open_store(workspace) as opened:
        version = replace(opened.version("small"), source=str(source))
        assert render(collect_experiment(workspace, opened, WHOLE)).count('class="heat"') > 0
        shutil.rmtree(workspace.cache_dir)
        again = render(collect_experiment(workspace, opened, WHOLE))
        assert again == render(collect_experiment(trained, opened, WHOLE))
        assert not workspace.cache_dir.exists()
        (workspace.experiment_dir(WHOLE) / "fold-0" / "weights.safetensors").unlink()
        notes = write_report(workspace, opened, WHOLE).notes
        assert [note.partition(":")[0] for note in notes] == ["no heat maps for fold 0"]
        (workspace.experiment_dir(WHOLE) / "fold-0" / "oof-identity.parquet").unlink()
        with pytest.raises(IchxError, match=r"oof-identity.parquet are missing"):
            write_report(workspace, opened, WHOLE)
        assert version.source == str(source)


def test_unknown_numbers_and_unwritable_files_are_told(trained: Workspace, store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no experiment has the number 9"):
        write_report(trained, store, 9)
    with pytest.raises(NotFoundError, match="no ensemble has the number 9"):
        write_ensemble_report(trained, store, 9)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(IchxError, match="cannot write"):
            write_report(trained, store, WHOLE, out)
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
