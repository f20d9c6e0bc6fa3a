"""Reviews of slices outlive the store: the folder of a version has them, and a rebuild restores them."""

import json
from pathlib import Path

import pytest
from conftest import Program

from ichx.datasets.dataset import load_dataset
from ichx.datasets.reviews import REVIEWS_FILE, add_review, restore_reviews, withdraw_review
from ichx.errors import CorruptFileError, NotFoundError
from ichx.project import Project
from ichx.store import ReviewDraft


def slices_of(project: Project) -> list[str]:
    return load_dataset(project, "ph").slices["slice_id"].tolist()


def test_a_lost_store_gets_its_reviews_back(project: Project, ichx: Program) -> None:
    version, root = project.store.version("ph"), project.workspace.root
    for slice_id in slices_of(project)[:3]:
        add_review(project, version, ReviewDraft(0, slice_id, "label wrong", "any", " überlappt\n=1 ", "A"))
    withdraw_review(project, 2)
    before = [vars(one) for one in project.store.reviews("ph", withdrawn=True)]
    assert [one["note"] for one in before] == ["überlappt\n=1"] * 3
    assert [one["withdrawn"] is None for one in before] == [True, False, True]
    project.store.close()
    for file in (root / "db").glob("ichx.db*"):
        file.unlink()
    done = json.loads(ichx("store", "rebuild", "--json", cwd=root).out)
    assert (done["reviews"], done["problems"]) == (3, [])
    after = json.loads(ichx("data", "reviews", "ph", "--all", "--json", cwd=root).out)
    names = ("slice", "finding", "label", "note", "reader", "version")
    assert [[one[name] for name in names] for one in after] == [[one[name] for name in names] for one in before]
    assert [one["created"] for one in after] == [one["created"].isoformat() for one in before]
    assert json.loads(ichx("store", "rebuild", "--json", cwd=root).out)["reviews"] == 0


def test_an_excluded_or_unknown_slice_is_refused(project: Project) -> None:
    version = project.store.version("ph")
    for slice_id in ("", "1.2.3", "' OR 1=1"):
        with pytest.raises(NotFoundError):
            add_review(project, version, ReviewDraft(0, slice_id, "other"))
    assert not (project.workspace.root / version.path / REVIEWS_FILE).exists()


def test_a_review_is_recorded_although_the_folder_cannot_be_written(project: Project) -> None:
    version = project.store.version("ph")
    folder = project.workspace.root / version.path
    (folder / REVIEWS_FILE).mkdir()
    added = add_review(project, version, ReviewDraft(0, slices_of(project)[0], "other"))
    assert project.store.reviews("ph") == [added]


@pytest.mark.parametrize("text", ["", "{}", '{"reviews": [{"slice": "1"}]}', "[]", '{"reviews": 1}'])
def test_a_damaged_file_is_named(project: Project, text: str) -> None:
    version = project.store.version("ph")
    path = project.workspace.root / version.path / REVIEWS_FILE
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=REVIEWS_FILE):
        restore_reviews(project, version)


def test_the_removal_of_a_dataset_names_its_reviews(dataset_copy: Path, ichx: Program) -> None:
    from ichx.project import open_project

    with open_project(dataset_copy) as opened:
        version = opened.store.version("ph-test")
        slice_id = str(load_dataset(opened, "ph-test").slices["slice_id"][0])
        add_review(opened, version, ReviewDraft(0, slice_id, "artefact"))
    found = json.loads(ichx("data", "rm", "ph-test", "--json", cwd=dataset_copy).out)
    assert found[0]["what"] == "catalog, folds, 1 review"
    assert ichx("data", "rm", "ph-test", "--yes", cwd=dataset_copy).code == 0
    with open_project(dataset_copy) as opened:
        assert opened.store.reviews("ph-test", withdrawn=True) == []
