"""Model cards: numbers, the JSON of RSNA ATLAS, checklists and their links, and what the authors fill in."""

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Program
from pydicom import dcmread

from ichx.errors import InvalidInputError
from ichx.evaluation.recalibration import FittedRecalibration, LabelMap
from ichx.evaluation.recalibration_file import Recalibration, store_recalibration
from ichx.evaluation.subject import Subject
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project
from ichx.publish.about import FIELDS, read_about, write_template
from ichx.publish.atlas import atlas_schema
from ichx.publish.card_facts import card_facts
from ichx.publish.card_markdown import card_markdown
from ichx.publish.card_tables import METRICS
from ichx.publish.checklist_items import CLAIM, TRIPOD
from ichx.publish.checklists import checklist_markdown
from ichx.publish.markdown import number, plain
from ichx.publish.subject import oof_subject

LABEL = "intraparenchymal"
ENDS = ("value", "low", "high")


@pytest.fixture
def intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show intervals although the trained phantom has few patients."""
    for name in ("MIN_PATIENTS", "MIN_IN_CLASS"):
        monkeypatch.setattr(f"ichx.evaluation.patient_sums.{name}", 1)


@pytest.fixture
def written(ichx: Program, trained_copy: Path, tmp_path: Path) -> Path:
    """Return the folder of a card of experiment 2, which has a link and a stored threshold."""
    assert ichx("threshold", 2, "--label", LABEL, "--sensitivity", 0.5, cwd=trained_copy).code == 0
    folder = tmp_path / "card"
    folder.mkdir()
    (folder / "about.toml").write_text(
        'link = "https://example.org/model"\nauthors = ["A. Müller"]\nintended_users = ["Researcher"]\n'
        'license = "CC BY 4.0"\nlimitations = "Trained on phantoms."\n'
    )
    done = ichx("card", 2, "--out", folder, "--by", "pixels", cwd=trained_copy)
    assert done.code == 0, done.err
    assert "Open fields: organizations, contact" in " ".join(done.err.split())
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("intervals")
def test_the_numbers_are_those_of_the_scores(ichx: Program, trained_copy: Path, written: Path) -> None:
    scores = json.loads(ichx("scores", 2, "--json", cwd=trained_copy).out)
    assert json.loads((written / "scores.json").read_text())["out_of_fold"] == scores
    assert scores["studies"]["labels"][LABEL]["auc"]["low"] is not None
    card = (written / "card.md").read_text()
    for unit in ("slices", "studies"):
        assert f"weighted log loss {number(*(scores[unit]['log_loss'][end] for end in ENDS))}" in card
        for point in scores[unit]["scores"]["labels"]:
            found = scores[unit]["labels"][point["label"]]
            cells = [number(*(found[metric][end] for end in ENDS)) for metric in METRICS]
            assert f"| {point['label']} | {point['positives']:,} | {' | '.join(cells)} |" in card
    thresholds = json.loads(ichx("threshold", 2, "--json", cwd=trained_copy).out)
    assert f"{thresholds[0]['threshold']:.4f}" in card


def validator() -> Any:
    return jsonschema.Draft202012Validator(
        atlas_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


@pytest.mark.slow
def test_the_atlas_document_fits_its_schema(written: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(atlas_schema())
    document = json.loads((written / "atlas.json").read_text())
    assert list(validator().iter_errors(document)) == []
    model = document["Model"]
    assert model["Link"] == "https://example.org/model"
    assert model["Descriptors"]["Authors"] == [{"Name": "A. Müller"}]
    assert "Organizations" not in model["Descriptors"], "an open field is absent"
    assert "Trained on phantoms." in model["Model properties"]["Limitations"]
    assert f"{LABEL} per study" in model["Model properties"]["Decision threshold"]
    assert "sensitivity" in model["Model performance"]["Metrics"]
    scores = json.loads((written / "scores.json").read_text())["out_of_fold"]
    assert (
        number(*(scores["slices"]["labels"][LABEL]["auc"][end] for end in ENDS))
        in model["Model performance"]["Comments"]
    )


@pytest.mark.slow
def test_the_schema_refuses_other_documents(written: Path) -> None:
    document = json.loads((written / "atlas.json").read_text())

    def refused(*path: str, value: object = None) -> bool:
        changed = copy.deepcopy(document)
        place = changed
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return bool(list(validator().iter_errors(changed)))

    assert refused("Model", "Link")
    assert refused("Model", "Link", value="no link")
    assert refused("Model", "Name", value="abc")
    assert refused("Model", "Extra", value="x")
    assert refused("$schema", value="https://atlas.rsna.org/schemas/2026-12/model.json")
    assert refused("Model", "Model performance", "Metrics", value=["AUROC"])
    assert refused("Model", "Descriptors", "Authors", value=["A. Müller"])


@pytest.mark.slow
def test_every_link_leads_to_a_file_and_a_heading(written: Path) -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in (written / "card.md").read_text().splitlines()
        if line.startswith("#")
    }
    links = 0
    for name in ("card.md", "claim-2024.md", "tripod-ai.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (written / name).read_text()):
            file, _, anchor = target.partition("#")
            assert (written / file).is_file(), target
            assert not anchor or anchor in headings, target
            links += 1
    assert links > 50
    environment = (written / "environment.json").read_text()
    assert '"libraries"' in environment
    assert '"host"' not in environment
    assert '"command"' not in environment


def test_the_checklists_have_all_items() -> None:
    assert [item.number for item in CLAIM] == [str(n) for n in range(1, 45)]
    assert list(dict.fromkeys(item.number.rstrip("abcdefg") for item in TRIPOD)) == [str(n) for n in range(1, 28)]
    for item in (*CLAIM, *TRIPOD):
        assert item.artefacts or item.authors, item


@pytest.mark.slow
def test_an_item_without_an_artefact_is_left_to_the_authors(written: Path) -> None:
    rows = {
        line.split(" | ")[0].lstrip("| "): line
        for line in (written / "claim-2024.md").read_text().splitlines()
        if line.startswith("| ")
    }
    assert rows["2"].endswith("to be written by the authors |")
    assert "to be written" not in rows["19"]
    assert "operating points" in rows["38"]
    assert rows["33"].endswith("to be written by the authors |"), "no external evaluation is recorded"


@pytest.mark.slow
def test_without_a_link_there_is_no_atlas_document(ichx: Program, trained_copy: Path, written: Path) -> None:
    (written / "about.toml").write_text("")
    done = ichx("card", 2, "--out", written, cwd=trained_copy)
    assert done.code == 0, done.err
    assert "requires a link" in " ".join(done.err.split())
    assert not (written / "atlas.json").exists(), "the document of an earlier card would be out of date"


@pytest.mark.slow
def test_an_external_evaluation_is_counted_and_shown(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    files = write_phantom(tmp_path / "other", patients=4, seed=5, size=64, prevalence={"any": 0.5})
    added = ichx("data", "add", "ours", files.train, "--labels", files.train_labels, "--folds", 0, cwd=trained_copy)
    assert added.code == 0, added.err
    assert "labels used" not in ichx("data", "show", "ours", cwd=trained_copy).out
    for _ in range(2):
        assert ichx("evaluate", 2, "--dataset", "ours", cwd=trained_copy).code == 0
    assert (
        "labels used by 2 evaluations of 1 different prediction" in ichx("data", "show", "ours", cwd=trained_copy).out
    )
    done = ichx("card", 2, "--dataset", "ours", "--out", tmp_path / "card", cwd=trained_copy)
    assert done.code == 0, done.err
    card = (tmp_path / "card" / "card.md").read_text()
    assert "### ours version 1" in card
    assert "| ours | 3 | 1 |" in card
    found = json.loads((tmp_path / "card" / "scores.json").read_text())
    scores = json.loads(ichx("evaluate", 2, "--dataset", "ours", "--json", cwd=trained_copy).out)
    assert found["external"][0]["scores"]["studies"] == scores["studies"]
    assert len(found["evaluations"]) == 3
    shown = json.loads(ichx("data", "show", "ours", "--json", cwd=trained_copy).out)["evaluations"]
    assert (shown["evaluations"], shown["predictions"]) == (4, 1)


def test_scores_that_are_not_defined_are_null(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ichx("card", 2, "--out", tmp_path / "file", "--json", cwd=trained_copy).check_error("storage", "Not a directory")
    found = ichx("card", 2, "--out", tmp_path / "card", "--by", "colour", "--json", cwd=trained_copy)
    found.check_error("invalid_input", "'colour'")
    files = write_phantom(tmp_path / "other", patients=3, seed=5, size=64, prevalence={"any": 0.5})
    studies = sorted({dcmread(file).StudyInstanceUID for file in files.train.rglob("*.dcm")})
    (tmp_path / "reads.csv").write_text("StudyInstanceUID,any\n" + "".join(f"{study},1\n" for study in studies))
    command = ("data", "add", "reads", files.train, "--labels", tmp_path / "reads.csv", "--label", "any=any")
    added = ichx(*command, "--folds", 0, cwd=trained_copy)
    assert added.code == 0, added.err
    done = ichx("card", 2, "--dataset", "reads", "--out", tmp_path / "card", cwd=trained_copy)
    assert done.code == 0, done.err
    text = (tmp_path / "card" / "scores.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["external"][0]["dataset"] == "reads"


@pytest.mark.slow
def test_names_cannot_become_markup(ichx: Program, trained_copy: Path) -> None:
    assert ichx("exp", "name", 2, "a|b <script>", cwd=trained_copy).code == 0
    done = ichx("card", 2, cwd=trained_copy)
    assert done.code == 0, done.err
    assert "<script>" not in done.out
    assert r"a\|b \<script\>" in done.out
    assert plain("x\n# y") == r"x \# y"


def test_the_template_has_every_field_open(tmp_path: Path) -> None:
    path = tmp_path / "about.toml"
    assert write_template(path)
    assert read_about(path).open == [f.title for key, f in FIELDS.items() if key not in ("name", "version")]
    path.write_text('funding = "none"\n')
    assert not write_template(path), "what the authors wrote stays"
    assert read_about(path).text("funding") == "none"


@pytest.mark.slow
def test_all_problems_of_the_authors_file_are_reported(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    (tmp_path / "about.toml").write_text('fundin = "x"\nlink = "model"\nauthors = "A"\nintended_users = ["me"]\n')
    done = ichx("card", 2, "--out", tmp_path, "--json", cwd=trained_root)
    done.check_error("invalid_input", "'fundin'", "'funding'", "link is 'model'", "authors is 'A'", "'me'")
    (tmp_path / "about.toml").write_text("link = [")
    ichx("card", 2, "--out", tmp_path, "--json", cwd=trained_root).check_error("invalid_input", "about.toml")
    shutil.rmtree(tmp_path)
    ichx("card", 9, "--json", cwd=trained_root).check_error("not_found", "9")


@pytest.mark.slow
def test_a_stored_recalibration_is_shown(project: Project) -> None:
    subject = Subject(2)
    maps = tuple(LabelMap(label, "slope" if label == LABEL else "none", 0.25, 1.5) for label in LABELS)
    fitted = FittedRecalibration(maps, (), "slice", 40, 400)
    made = Recalibration("local|site", "ours", 2, "none", "logit", (0, 1), fitted, "0" * 16, "1" * 16, "2026-01-01")
    with pytest.raises(InvalidInputError):
        store_recalibration(project, subject, made)
    store_recalibration(project, subject, replace(made, name="local-site"))
    facts = card_facts(project, oof_subject(project, subject))
    card = card_markdown(facts)
    assert "Recalibration local-site" in card
    assert f"| {LABEL} | 0.2500 + 1.5000 logit |" in card
    rows = [line for line in checklist_markdown("tripod-ai.md", facts).splitlines() if line.startswith("| 24 |")]
    assert "card.md#calibration" in rows[0]
