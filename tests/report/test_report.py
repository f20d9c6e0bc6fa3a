"""Reports of a trained experiment and of an ensemble: scores, slices, accessibility, privacy."""

import re
from collections.abc import Iterator

import pytest
from report_pages import COMPLETE, NAME, Page, experiment_page, parse, train

from ichx.datasets.dataset import load_version
from ichx.evaluation.bootstrap import loss_interval
from ichx.evaluation.metric import score
from ichx.evaluation.oof import read_oof
from ichx.labels import LABELS
from ichx.project import Project
from ichx.report.build import render
from ichx.report.collect import collect_ensemble, collect_experiment
from ichx.store import Store, open_store
from ichx.workspace import Workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return train(tmp_path_factory.mktemp("report"))


@pytest.fixture
def store(trained: Workspace) -> Iterator[Store]:
    with open_store(trained) as opened:
        yield opened


@pytest.fixture(scope="module")
def complete(trained: Workspace) -> tuple[str, Page]:
    with open_store(trained) as opened:
        return experiment_page(trained, opened, COMPLETE)


@pytest.fixture(scope="module")
def blend(trained: Workspace) -> tuple[str, Page]:
    with open_store(trained) as opened:
        return parse(render(collect_ensemble(Project(trained, opened), 1)))


def test_scores_equal_the_store_and_the_oof_table(trained: Workspace, store: Store, complete: tuple[str, Page]) -> None:
    experiment = store.experiment(COMPLETE)
    assert experiment.score is not None
    assert experiment.score_tta is not None
    _, page = complete
    oof = read_oof(Project(trained, store), experiment)
    head, *folds, pooled = page.tables["fold-scores"]
    assert head[4:] == list(LABELS)
    assert [row[:3] for row in folds] == [[str(k), "12", f"{s:.5f}"] for k, s in oof.fold_scores.items()]
    assert pooled[:4] == ["pooled", "24", f"{experiment.score:.5f}", f"{experiment.score_tta:.5f}"]
    assert f"{experiment.score:.5f} ± {experiment.spread:.5f}" in page.text
    reason = loss_interval(oof.labels, oof.probabilities, oof.patients).undefined  # too few patients
    assert reason
    assert f"undefined {reason}" in page.text
    weighted = sum(float(loss) for loss in (*pooled[4:], pooled[-1])) / 7
    assert weighted == pytest.approx(experiment.score, abs=1e-5)
    assert "partial" not in page.text
    runs = page.tables["runs"][1:]
    assert [row[:4] for row in runs] == [[str(k), "1", "done", "3/3"] for k in range(2)]
    for run in store.runs(COMPLETE):
        for value in (run.host, run.device, run.code_version, f"torch {run.libraries['torch']}"):
            assert value in page.text
    version = store.version("small")
    for digest in (version.digest, experiment.label_digest, experiment.fold_digest, experiment.recipe_digest):
        assert digest in page.text
    assert experiment.recipe in page.text


def test_labels_without_both_classes_are_undefined(complete: tuple[str, Page]) -> None:
    html, page = complete
    rows = {row[0]: row[1:] for row in page.tables["label-scores"][1:]}
    assert list(rows) == list(LABELS)
    for label in ("epidural", "intraparenchymal", "subarachnoid"):
        assert rows[label][3] == "0"
        assert rows[label][1:3] == ["undefined: the label never occurs", "undefined"]
        assert f"{label}: undefined" in page.text
    for label, positives in (("subdural", "12"), ("intraventricular", "4"), ("any", "16")):
        assert rows[label][3] == positives
        numbers = [re.sub("no interval.*| %", "", value) for value in rows[label]]
        assert all(0 <= float(value) <= 100 for value in numbers)
        assert f"{label}: AUC {numbers[1]}" in page.text
    assert "epidural, intraparenchymal, subarachnoid" in html


def test_cards_have_labels_and_probabilities(trained: Workspace, store: Store, complete: tuple[str, Page]) -> None:
    html, page = complete
    oof = read_oof(Project(trained, store), store.experiment(COMPLETE))
    losses = [score(oof.labels[i : i + 1], oof.probabilities[i : i + 1]) for i in range(24)]
    order = sorted(range(24), key=lambda i: -losses[i])
    first = next(rows for name, rows in page.tables.items() if name.startswith("table"))
    assert html.index(f"<code>{oof.slice_ids[order[0]]}</code>") == html.index('<h3 id="w1-name"><code>') + 17
    expected = zip(LABELS, oof.labels[order[0]], oof.probabilities[order[0]], strict=True)
    assert first[1:] == [[label, "yes" if y else "no", "", f"{p:.3f}"] for label, y, p in expected]
    cards = html.count('<article class="card"')
    assert cards == 4 + 8  # one for each series, and the sample
    assert html.count('class="heat"') == cards * len(LABELS)
    assert html.count("data:image/webp") == cards * 3 + 6  # windows, and the strip of one series
    assert html.count("data:image/png") == cards * (len(LABELS) + 1)  # and the scale


def card_of(html: str, name: str) -> str:
    """Return the HTML of a card by its id."""
    return html[html.index(f'id="{name}"') :].split("</article>")[0]


def test_cards_have_the_place_the_sides_and_the_scale(
    trained: Workspace, store: Store, complete: tuple[str, Page]
) -> None:
    """The files have six slices at 0, 5, ... 25 mm; their rows run from right to left."""
    html, _ = complete
    data = collect_experiment(Project(trained, store), COMPLETE)
    assert data.gallery is not None
    positions = load_version(trained, store.version("small")).slices.set_index("slice_id")["pos_z"]
    for number, card in enumerate(data.gallery.worst, 1):
        above = round((25 - positions[card.name]) / 5)
        text = card_of(html, f"w{number}")
        assert f"slice {above + 1} of 6, {5 * above:.1f} of 25.0 mm" in text
        assert f'<i style="left:{20 * above:.1f}%">' in text
        sides = re.findall(r'<text class="side" x="([\d.]+)"(?: text-anchor="end")? y="[\d.]+"[^>]*>(\w)', text)
        assert [side for _, side in sides] == ["R", "L"] * 4  # three windows and the heat map
        assert all(float(left) < float(right) for (left, _), (right, _) in zip(sides[::2], sides[1::2], strict=True))
        values = re.findall(r'data-heat="(\w+)".*?</text>\s*<text[^>]*>([^<]+)</text>', text, re.DOTALL)
        assert values == [
            (label, f"{heat.full:.2g}" if heat.full > 0 else "none")
            for label, heat in zip(LABELS, card.heat, strict=True)
        ]


def test_without_files_there_are_no_sides(trained: Workspace, store: Store) -> None:
    source = trained.root.parent / "files"
    moved = source.rename(source.with_name("moved"))
    try:
        html, _ = experiment_page(trained, store, COMPLETE)
    finally:
        moved.rename(source)
    assert "left of the image" not in html
    assert 'class="side"' not in html
    assert html.count('<article class="card"') == 12
    assert re.search(r"slice \d of 6, \d+\.0 of 25\.0 mm", html)


def test_the_page_references_nothing_external(complete: tuple[str, Page], blend: tuple[str, Page]) -> None:
    for html, found in (complete, blend):
        assert not found.tags & {"iframe", "object", "embed", "base", "form", "video", "audio"}
        assert all(address.startswith(("#", "data:")) for address in found.addresses)
        assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
        assert len(found.ids) == len(set(found.ids))
        assert not re.findall(r"url\(|@import|https?://(?!www.w3.org/2000/svg)", html)  # a namespace
        assert "default-src 'none'" in html
        assert 'name="viewport"' in html
        assert "prefers-color-scheme: dark" in html


def test_images_have_alternative_texts_and_figures_are_focusable(
    complete: tuple[str, Page], blend: tuple[str, Page]
) -> None:
    for html, found in (complete, blend):
        assert found.unnamed == []
        assert {name for names in found.named for name in names.split()} <= set(found.ids)
        assert html.count("<svg ") == len(re.findall(r"<svg [^>]*tabindex=\"0\"", html))
        assert len(re.findall(r'<svg class="chart"', html)) == len(re.findall(r"<desc ", html))


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours by WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_sufficient_contrast_in_both_themes(complete: tuple[str, Page]) -> None:
    html, _ = complete
    themes = [
        dict(re.findall(r"(--[\w-]+): (#\w{6})", part)) for part in re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    ]
    light, dark = themes[:2]
    assert set(light) == set(dark)
    for theme in (light, dark, light | themes[2]):  # the third theme is for print
        for paper in (theme["--paper"], theme["--panel"]):
            for text in ("--ink", "--quiet", "--mark", "--accent"):
                assert contrast(theme[text], paper) >= 4.5, (text, paper)
            for series in range(10):
                assert contrast(theme[f"--series-{series}"], paper) >= 3, (series, paper)


def test_names_are_escaped(complete: tuple[str, Page]) -> None:
    html, page = complete
    assert "b" not in page.tags
    assert NAME in page.text
    assert NAME not in html


def test_the_page_has_no_paths_and_no_patient_ids(trained: Workspace, store: Store, complete: tuple[str, Page]) -> None:
    html, _ = complete
    assert str(trained.root.parent) not in html
    slices = load_version(trained, store.version("small")).slices
    for column in ("patient", "study", "series", "file"):
        assert not any(str(value) in html for value in slices[column].unique())


def test_an_anonymous_page_has_no_slice_ids_and_no_hosts(trained: Workspace, store: Store) -> None:
    ids = read_oof(Project(trained, store), store.experiment(COMPLETE)).slice_ids
    host = f"<td>{store.runs(COMPLETE)[0].host}</td>"
    plain = render(collect_experiment(Project(trained, store), COMPLETE))
    assert any(slice_id in plain for slice_id in ids)
    assert host in plain
    for data in (
        collect_experiment(Project(trained, store), COMPLETE, anonymous=True),
        collect_ensemble(Project(trained, store), 1, anonymous=True),
    ):
        html, found = parse(render(data))
        assert not any(slice_id in html for slice_id in ids)
        assert host not in html
        assert "image 1" in found.text


def test_rendering_is_deterministic(trained: Workspace, store: Store, complete: tuple[str, Page]) -> None:
    assert render(collect_experiment(Project(trained, store), COMPLETE)) == complete[0]
