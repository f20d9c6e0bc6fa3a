"""The part of a store's contract that is about finding experiments and keeping order among them, as a test class.

Derive from `OrganiseContract` and give it a `url` fixture that names an empty database. Needs pytest.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ichx.errors import IchxError, NotFoundError
from ichx.store import (
    EnsembleDraft,
    EnsembleMember,
    EpochRecord,
    ScoreDraft,
    Selection,
    Store,
)
from ichx.store.testing import experiment_draft, prediction_draft, run_draft, version_draft

RECIPES = ("batch = 16\n[input]\nsize = 64\n", "batch = 32\n[input]\nsize = 128\n", "batch = 64\n[input]\nsize = 64\n")


class OrganiseContract:
    """What every store finds and keeps in order, whatever its database."""

    @pytest.fixture
    def url(self) -> str:
        """Return the SQLAlchemy URL of an empty database."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """Return a store with three experiments: done with 0.3, partial with 0.1, and new."""
        with Store(url) as store:
            version = store.add_version(version_draft())
            store.add_experiments(
                [
                    replace(experiment_draft(version, name), plugin=plugin, size=size, recipe=recipe)
                    for (name, plugin, size), recipe in zip(
                        (("one", "a", 64), ("two", "b", 128), ("three", "a", 64)), RECIPES, strict=True
                    )
                ]
            )
            for number, folds, score in ((1, (0, 1, 2), 0.3), (2, (1,), 0.1)):
                for fold in folds:
                    run = store.start_run(run_draft(number, fold))
                    store.record_epoch(run.id, EpochRecord("full", 0, 1, {"loss": 0.5}))
                    store.finish_run(run.id, "done")
                store.set_scores(number, ScoreDraft(score=score, spread=0.01), ScoreDraft(score=score - 0.05))
            yield store

    @pytest.mark.parametrize(
        ("wanted", "numbers"),
        [
            ({}, [3, 2, 1]),
            ({"where": 'plugin == "a"'}, [3, 1]),
            ({"where": "score < 0.2"}, [2]),
            ({"where": "not score < 0.2"}, [3, 1]),
            ({"where": "score == None"}, [3]),
            ({"where": 'state == "done" or folds_done == 0'}, [3, 1]),
            ({"where": 'name in ("one", "two") and size > 64'}, [2]),
            ({"where": '"hre" in name'}, [3]),
            ({"where": "batch >= 32"}, [3, 2]),
            ({"where": "input.size == size and batch == 16"}, [1]),
            ({"where": "16 < batch <= 64"}, [3, 2]),
            ({"where": "optimizer.weight_decay < 1"}, []),
            ({"where": 'stage == "full" and seconds >= 0'}, [2, 1]),
            ({"where": 'created > "2020-01-01"'}, [3, 2, 1]),
            ({"where": 'created < "2020-01-01"'}, []),
            ({"states": ("partial",)}, [2]),
            ({"states": ("done", "new")}, [3, 1]),
            ({"sort": "score"}, [2, 1, 3]),
            ({"sort": "-score"}, [1, 2, 3]),
            ({"sort": "name"}, [1, 3, 2]),
            ({"sort": "-batch"}, [3, 2, 1]),
            ({"sort": "folds_done"}, [3, 2, 1]),
            ({"since": datetime.now(UTC) + timedelta(days=1)}, []),
            ({"since": datetime.now(UTC) - timedelta(days=1)}, [3, 2, 1]),
        ],
    )
    def test_experiments_are_found_and_ordered(self, store: Store, wanted: dict[str, Any], numbers: list[int]) -> None:
        """Experiments are found and ordered."""
        found, total = store.listing(Selection(**wanted))
        assert [e.number for e in found] == numbers
        assert total == len(numbers)
        assert [e.number for e in store.experiments(Selection(**wanted), limit=1)] == numbers[:1]
        by_number = {e.number: e for e in store.experiments()}
        assert found == [by_number[number] for number in numbers], "what is found is what is listed"

    def test_tags_are_found_counted_and_removed(self, store: Store) -> None:
        """Tags are found counted and removed."""
        store.change_tags(1, add=["best", "paper", "best"])
        store.change_tags(2, add=["best"])
        store.change_tags(2, add=["best", "odd"], remove=["absent"])
        assert store.experiment(1).tags == ("best", "paper")
        assert [e.tags for e in store.experiments()] == [(), ("best", "odd"), ("best", "paper")]
        assert store.tags() == {"best": 2, "odd": 1, "paper": 1}
        assert [e.number for e in store.experiments(Selection(tags=("best",)))] == [2, 1]
        assert [e.number for e in store.experiments(Selection(tags=("best", "paper")))] == [1]
        assert [e.number for e in store.experiments(Selection(where='"odd" in tags or "paper" in tags'))] == [2, 1]
        store.change_tags(1, remove=["paper"])
        assert store.experiment(1).tags == ("best",)

    def test_names_and_notes(self, store: Store) -> None:
        """Names and notes."""
        store.rename(3, "better")
        assert store.experiment(3).name == "better"
        first = store.add_note(3, "weak on epidural")
        store.add_note(3, "again")
        assert [note.text for note in store.notes(3)] == ["weak on epidural", "again"]
        assert store.notes(3)[0] == first
        assert store.notes(1) == []

    def test_archived_ones_are_listed_when_asked_for(self, store: Store) -> None:
        """Archived ones are listed when asked for."""
        store.archive([1, 2])
        assert [e.number for e in store.experiments(Selection(archived=False))] == [3]
        assert [e.number for e in store.experiments(Selection(archived=True))] == [2, 1]
        store.archive([1], archived=False)
        assert [e.archived for e in store.experiments()] == [False, True, False]

    def test_what_is_in_the_trash_is_in_no_list_and_comes_back_whole(self, store: Store) -> None:
        """What is in the trash is in no list and comes back whole."""
        before = store.experiment(1)
        store.trash([1])
        assert [e.number for e in store.experiments()] == [3, 2]
        assert [e.number for e in store.experiments(Selection(trashed=True))] == [1]
        assert store.experiment(1).trashed is not None
        with pytest.raises(IchxError, match="experiment 1 is in the trash"):
            store.start_run(run_draft(1, 0))
        store.restore([1])
        assert store.experiment(1) == before

    def test_a_running_experiment_is_not_put_into_the_trash(self, store: Store) -> None:
        """A running experiment is not put into the trash."""
        store.start_run(run_draft(3, 0))
        with pytest.raises(IchxError, match="fold 0 of experiment 3 is being run"):
            store.trash([2, 3])
        assert [e.number for e in store.experiments()] == [3, 2, 1], "all or none"

    def test_only_what_is_in_the_trash_and_in_no_ensemble_is_deleted(self, store: Store) -> None:
        """Only what is in the trash and in no ensemble is deleted."""
        version = store.version("train")
        store.add_predictions([prediction_draft(version.id)])
        store.change_tags(1, add=["gone"])
        store.add_note(1, "gone")
        store.add_experiments([experiment_draft(version, "child", parent=1)])
        with pytest.raises(IchxError, match="not in the trash"):
            store.purge(1)
        store.trash([1, 2])
        blend = EnsembleDraft(
            dataset="train",
            version_id=version.id,
            fold_digest=version.folds[0].digest,
            tta="none",
            method="mean",
            score=0.1,
            nested_score=None,
            partial=None,
            submissions=(),
            members=(EnsembleMember(2, 1.0, 0.1),),
        )
        store.add_ensemble(blend)
        assert store.blended_in([1, 2]) == {2: [1]}
        with pytest.raises(IchxError, match="member of ensemble 1"):
            store.purge(2)
        store.purge(1)
        with pytest.raises(NotFoundError):
            store.experiment(1)
        assert not any((store.runs(1), store.history(1, 0), store.predictions(1), store.notes(1)))
        assert store.experiment(4).parent is None
        assert store.tags() == {}
        assert store.add_experiments([experiment_draft(version)])[0].number == 5, "numbers never come back"

    def test_a_dataset_goes_where_nothing_stands_on_it_and_takes_its_predictions_along(self, store: Store) -> None:
        """A dataset goes where nothing stands on it, with all its versions, and takes predictions of it along."""
        for digest in ("d1", "d2"):
            test = store.add_version(version_draft("test", test_of="train", digest=digest))
        store.add_predictions([prediction_draft(test.id, fold, role="test") for fold in (0, 1)])
        store.add_predictions([prediction_draft(store.version("train").id)])
        with pytest.raises(IchxError) as caught:
            store.delete_dataset("train")
        assert caught.value.problem.splitlines() == [
            "train is in use: experiments 1, 2, 3 stand on it",
            "train is in use: test set test stands on it",
        ]
        store.trash([1])
        with pytest.raises(IchxError, match="experiments 1, 2, 3 stand on it"):
            store.check_unused("train")
        store.restore([1])
        run = store.start_run(run_draft(3, 0))
        with pytest.raises(IchxError, match="fold 0 of experiment 3 is being run, and predicts train's test sets"):
            store.delete_dataset("test")
        store.finish_run(run.id, "stopped")
        assert [p.fold for p in store.predictions_of("test")] == [0, 1]
        store.delete_dataset("test")
        assert [d.name for d in store.datasets()] == ["train"]
        assert [p.role for p in store.predictions(1)] == ["oof"]
        for act in (store.delete_dataset, store.predictions_of, store.check_unused):
            with pytest.raises(NotFoundError, match="no dataset is called 'test'"):
                act("test")
        assert store.add_version(version_draft("test", test_of="train")).number == 1
        for number in (1, 2, 3):
            store.trash([number])
            store.purge(number)
        store.delete_dataset("test")
        store.delete_dataset("train")
        assert store.datasets() == []

    def test_choices_are_remembered_and_forgotten(self, store: Store) -> None:
        """Choices are remembered and forgotten."""
        assert store.choice("columns") is None
        store.remember("columns", ["number", "score"])
        store.remember("columns", ["number"])
        assert store.choice("columns") == ["number"]
        store.remember("columns", None)
        assert store.choice("columns") is None

    @pytest.mark.parametrize("act", ["rename", "change_tags", "add_note", "archive", "trash", "restore", "purge"])
    def test_an_unknown_experiment_is_named(self, store: Store, act: str) -> None:
        """An unknown experiment is named."""
        arguments: dict[str, tuple[Any, ...]] = {
            "rename": (9, "x"),
            "change_tags": (9,),
            "add_note": (9, "x"),
            "purge": (9,),
        }
        with pytest.raises(NotFoundError, match="no experiment has the number 9"):
            getattr(store, act)(*arguments.get(act, ([1, 9],)))
        assert not store.experiment(1).archived
        assert store.experiment(1).trashed is None
