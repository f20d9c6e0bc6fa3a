"""The worklist: its rows equal a recomputation from the predictions; filters, pages, exports, keys and neighbours."""

import csv
import io
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pandas as pd
import pytest
from web_site import Serve, Tab

from ichx.datasets.dataset import load_version
from ichx.datasets.reviews import add_review
from ichx.evaluation.metric import weighted_row_losses
from ichx.evaluation.oof import read_oof
from ichx.evaluation.thresholds import operating_points
from ichx.labels import LABELS
from ichx.project import open_project
from ichx.store import ReviewDraft


def oof_frame(root: Path, number: int = 1) -> pd.DataFrame:
    """Return truth (`t0` to `t5`), probabilities (`p0` to `p5`), fold and study by slice."""
    with open_project(root) as project:
        oof = read_oof(project, project.store.experiment(number))
    frame = pd.DataFrame({"fold": oof.folds, "study": oof.studies}, index=oof.slice_ids)
    for k in range(6):
        frame[f"t{k}"], frame[f"p{k}"] = oof.labels[:, k], oof.probabilities[:, k]
    return frame


def exported(client: httpx.Client, query: str) -> list[dict[str, str]]:
    answer = client.get(f"/worklist.csv?{query}")
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def shown(client: httpx.Client, query: str) -> str:
    """Return the page, once its index and predictions are read."""
    while True:
        answer = client.get(f"/worklist?{query}")
        assert answer.status_code == 200, answer.text
        if "reloads itself" not in answer.text:
            return answer.text
        time.sleep(0.05)


@pytest.mark.parametrize("label", ["any", "subdural"])
def test_false_calls_are_those_of_the_oof_predictions(trained_root: Path, serve: Serve, label: str) -> None:
    frame, k = oof_frame(trained_root), LABELS.index(label)
    truth, p = frame[f"t{k}"] > 0.5, frame[f"p{k}"].astype(np.float32)
    threshold = float(p.quantile(0.7))
    with serve(trained_root).client() as client:
        query = f"source=ph@1&of=experiment:1&label={label}&threshold={threshold!r}"
        positives, negatives = (exported(client, f"{query}&kind=false-{kind}") for kind in ("positives", "negatives"))
        in_fold = exported(client, f"{query}&kind=false-positives&fold=1")
    expected = p[~truth & (p >= threshold)].sort_values(ascending=False, kind="stable")
    assert [float(row["probability"]) for row in positives] == pytest.approx(expected.tolist(), abs=1e-6)
    assert {row["slice"] for row in positives} == set(expected.index)
    assert {row["truth"] for row in positives} <= {"0"}
    missed = p[truth & (p < threshold)].sort_values(kind="stable")
    assert [float(row["probability"]) for row in negatives] == pytest.approx(missed.tolist(), abs=1e-6)
    assert {row["slice"] for row in negatives} == set(missed.index)
    assert {row["slice"] for row in in_fold} == set(expected.index[frame.loc[expected.index, "fold"] == 1])
    assert positives
    assert in_fold


def test_a_missing_threshold_is_that_of_95_percent_sensitivity(trained_root: Path, serve: Serve) -> None:
    frame = oof_frame(trained_root)
    truth, p = frame["t5"] > 0.5, frame["p5"].astype(np.float32)
    point = next(one for one in operating_points(truth, p) if one.rule == "sensitivity >= 0.95")
    assert point.threshold is not None
    with serve(trained_root).client() as client:
        rows = exported(client, "of=experiment:1")
        page = shown(client, "of=experiment:1")
    assert {row["slice"] for row in rows} == set(frame.index[truth & (p < point.threshold)])
    assert f"{point.threshold:.4f}" in page
    assert f"{point.specificity:.3f}" in page


def test_losses_disagreements_and_uncertainty_are_sorted(trained_root: Path, serve: Serve) -> None:
    one, two = oof_frame(trained_root, 1), oof_frame(trained_root, 2)
    p, q = (frame[[f"p{k}" for k in range(6)]].to_numpy() for frame in (one, two.loc[one.index]))
    losses = pd.Series(weighted_row_losses(one[[f"t{k}" for k in range(6)]].to_numpy(), p), one.index)
    with serve(trained_root).client() as client:
        found = exported(client, "of=experiment:1&kind=highest-loss&label=all")
        differ = exported(client, "of=experiment:1&versus=experiment:2&kind=disagreement&label=epidural")
        unsure = exported(client, "of=experiment:1&kind=uncertain&truth=positive")
    assert [float(row["value"]) for row in found] == pytest.approx(sorted(losses, reverse=True), abs=1e-5)
    assert found[0]["slice"] == losses.idxmax()
    k = LABELS.index("epidural")
    differences = pd.Series(np.abs(p[:, k] - q[:, k]), one.index)
    assert [float(row["value"]) for row in differ] == pytest.approx(sorted(differences, reverse=True), abs=1e-5)
    for row in differ[:5]:
        place = one.index.get_loc(row["slice"])
        got = float(row["probability"]), float(row["other_probability"])
        assert got == pytest.approx((p[place, k], q[place, k]), abs=1e-5)
    away = [abs(float(row["probability"]) - 0.5) for row in unsure]
    assert away == sorted(away)
    assert len(unsure) == int((one["t5"] > 0.5).sum())


def test_studies_are_listed_once_with_their_largest_probability(trained_root: Path, serve: Serve) -> None:
    frame = oof_frame(trained_root)
    studies = frame.groupby("study")[["t5", "p5"]].max()
    with serve(trained_root).client() as client:
        rows = exported(client, "of=experiment:1&kind=false-positives&per=study&threshold=0")
    expected = studies[studies["t5"] == 0]["p5"]
    assert {row["study"]: round(float(row["value"]), 5) for row in rows} == expected.round(5).to_dict()
    assert len(rows) == len(expected)


def test_pages_link_rows_to_the_viewer_and_to_each_other(trained_root: Path, serve: Serve) -> None:
    query = "of=experiment:1&kind=highest-loss&label=all"
    with serve(trained_root).client() as client:
        rows = exported(client, query)
        first, second = shown(client, query), shown(client, query + "&page=2")
        links = [
            link.replace("&amp;", "&")
            for page in (first, second)
            for link in re.findall(r'class="open" href="([^"]+)"', page)
        ]
        assert len(links) == min(100, len(rows))
        assert [urlsplit(link).path.rpartition("/")[2] for link in links] == [row["slice"] for row in rows[:100]]
        opened = client.get(links[50], follow_redirects=False)
        assert opened.status_code == 303
        parameters = parse_qs(urlsplit(opened.headers["location"]).query)
        assert parameters["of"] == ["experiment:1"]
        assert parameters["slice"] == [rows[50]["slice"]]
        at = f"{parameters['list'][0]}&at={parameters['at'][0]}&slice={rows[50]['slice']}"
        found = client.get(f"/api/worklist?{at}").json()
        assert (found["at"], found["total"]) == (51, len(rows))
        assert (found["previous"], found["next"]) == (links[49], links[51])
        assert found["list"].endswith("&page=2")
        start = client.get(f"/api/worklist?{query}&at=1&slice={rows[0]['slice']}").json()
        assert start["previous"] is None
        end = client.get(f"/api/worklist?{query}&at={len(rows)}&slice={rows[-1]['slice']}").json()
        assert end["next"] is None
        gone = client.get(f"/api/worklist?{query}&label=any&truth=negative&at=3&slice=none").json()
        assert gone["next"] is not None
        for page in ("0", "-1", "x", "99999999", "9" * 40):
            assert client.get(f"/worklist?{query}&page={page}").status_code == 200


def test_reviews_filter_and_form_a_list(trained_copy: Path, serve: Serve) -> None:
    with open_project(trained_copy) as project:
        version = project.store.version("ph")
        ids = load_version(project.workspace, version).slices["slice_id"].tolist()[:2]
        for slice_id in ids:
            add_review(project, version, ReviewDraft(0, slice_id, "label wrong", "any", "<img src=x onerror=alert(1)>"))
    with serve(trained_copy).client() as client:
        listed = exported(client, "kind=reviewed")
        every, yes, no = (exported(client, f"kind=uncertain&reviewed={one}") for one in ("all", "yes", "no"))
        page = shown(client, "kind=reviewed")
    assert [row["slice"] for row in listed] == ids[::-1], "the newest first"
    assert [row["reviews"] for row in listed] == ["label wrong"] * 2
    assert {row["slice"] for row in yes} == set(ids)
    assert {row["slice"] for row in no} == {row["slice"] for row in every} - set(ids)
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror" in page


@pytest.mark.parametrize(
    ("query", "status", "value"),
    [
        ("kind=nothing", 400, "nothing"),
        ("label=fracture", 400, "fracture"),
        ("threshold=2", 400, "2"),
        ("threshold=nan", 400, "nan"),
        ("threshold=abc", 400, "abc"),
        ("fold=x", 400, "x"),
        ("per=head", 400, "head"),
        ("of=6", 400, "6"),
        ("of=experiment:99", 404, "99"),
        ("of=ensemble:99", 404, "99"),
        ("source=hp@1", 404, "hp"),
        ("source=../../etc", 404, "etc"),
        ("source=ph-test@1&of=experiment:1&kind=disagreement&versus=experiment:77", 404, "77"),
    ],
)
def test_invalid_queries_are_named(trained_root: Path, serve: Serve, query: str, status: int, value: str) -> None:
    with serve(trained_root).client() as client:
        answer = client.get(f"/worklist.csv?{query}")
        assert answer.status_code == status
        assert value in answer.text
        assert client.get(f"/worklist?{query}").status_code in (200, status)


def test_a_test_set_without_labels_has_no_false_calls(trained_root: Path, serve: Serve) -> None:
    with serve(trained_root).client() as client:
        assert exported(client, "source=ph-test@1&of=experiment:1&kind=false-positives") == []
        rows = exported(client, "source=ph-test@1&of=experiment:1&kind=uncertain")
    assert rows
    assert {row["truth"] for row in rows} == {""}


def test_missing_predictions_are_reported_on_the_page(dataset_root: Path, trained_copy: Path, serve: Serve) -> None:
    with serve(dataset_root).client() as client:
        assert "ichx run" in shown(client, "kind=uncertain")
        assert "No slice has been reviewed yet" in shown(client, "")
    for file in trained_copy.glob("experiments/1/fold-0/*.parquet"):
        file.unlink()
    with serve(trained_copy).client() as client:
        assert client.get("/worklist.csv?of=experiment:1").status_code == 500
        assert exported(client, "of=experiment:2&kind=uncertain")


def test_a_workspace_without_datasets_says_how_to_add_one(tmp_path: Path, serve: Serve) -> None:
    from ichx.workspace import init_workspace

    init_workspace(tmp_path / "new")
    with serve(tmp_path / "new").client() as client:
        assert "ichx data add" in client.get("/worklist").text


def test_thumbnails_are_small_pngs(trained_root: Path, serve: Serve) -> None:
    slice_id = oof_frame(trained_root).index[0]
    with serve(trained_root).client() as client:
        page = shown(client, "of=experiment:1&kind=uncertain")
        url = re.findall(r'<img src="([^"]+)"', page)[0].replace("&amp;", "&")
        answer = client.get(url)
        assert answer.headers["content-type"] == "image/png"
        assert "immutable" in answer.headers["cache-control"]
        assert client.get(f"/api/thumbnails/ph@1/{slice_id}").headers["cache-control"] == "no-store"
        assert client.get("/api/thumbnails/ph@1/none").status_code == 404
    assert answer.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert answer.content[16:24] == (96).to_bytes(4, "big") * 2
    size = int.from_bytes(answer.content[33:37], "big")
    pixels = np.frombuffer(zlib.decompress(answer.content[41 : 41 + size]), np.uint8).reshape(96, 97)
    assert not pixels[:, 0].any(), "no line is filtered"
    assert len(np.unique(pixels)) > 10


def test_keys_move_through_rows_and_filters_change_the_url(
    trained_root: Path, serve: Serve, tab: Callable[..., Tab]
) -> None:
    served = serve(trained_root)
    with served.client() as client:
        exported(client, "of=experiment:1&kind=highest-loss")
    page: Any = tab(served).open("/worklist?of=experiment:1&kind=highest-loss")
    links = page.locator("a.open")
    page.keyboard.press("j")
    assert links.nth(0).evaluate("e => e === document.activeElement")
    page.keyboard.press("j")
    assert links.nth(1).evaluate("e => e === document.activeElement")
    page.keyboard.press("k")
    assert links.nth(0).evaluate("e => e === document.activeElement")
    page.keyboard.press("n")
    page.wait_for_url("**page=2*")
    page.locator("select[name=per]").select_option("study")
    page.wait_for_url("**per=study*")
    assert "page=2" not in page.url
    page.go_back()
    page.wait_for_url("**page=2*")
    assert page.locator("select[name=per]").input_value() == "slice"
    page.locator("img").first.evaluate("e => e.decode()")
