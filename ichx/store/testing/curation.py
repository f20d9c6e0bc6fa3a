"""The contract for selecting experiments, for tags, notes, archive, trash, deletion and settings."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ichx.errors import ConflictError, InvalidInputError, NotFoundError
from ichx.store import DatasetVersion, EpochRecord, ScoreDraft, Selection, Store
from ichx.store.selection import FIELD_TYPES, STATES
from ichx.store.testing.datasets import StoreFixtures
from ichx.store.testing.drafts import ensemble_draft, experiment_draft, prediction_draft, run_draft, version_draft

EXPERIMENTS = (
    ("one", "a", 64, "batch = 16\n[input]\nsize = 64\n"),
    ("two", "b", 128, "batch = 32\n[input]\nsize = 128\n"),
    ("three", "a", 64, "batch = 64\n[input]\nsize = 64\n"),
)


class CurationContract(StoreFixtures):
    """Rules for finding, annotating and deleting experiments and datasets."""

    @pytest.fixture
    def populated(self, store: Store, version: DatasetVersion) -> Store:
        """Return a store with three experiments: done with score 0.3, partial with 0.1, new."""
        store.add_experiments(
            [
                replace(experiment_draft(version, name), plugin=plugin, size=size, recipe=recipe)
                for name, plugin, size, recipe in EXPERIMENTS
            ]
        )
        for number, folds, score in ((1, (0, 1, 2), 0.3), (2, (1,), 0.1)):
            for fold in folds:
                run = store.start_run(run_draft(number, fold))
                store.record_epoch(run.id, EpochRecord("full", 0, 1, {"loss": 0.5}))
                store.finish_run(run.id, "done")
            store.set_scores(number, ScoreDraft(score=score, spread=0.01), ScoreDraft(score=score - 0.05))
        return store

    @pytest.mark.parametrize("selection", [{}, {"sort": "-number"}, {"where": "number > 0"}, {"states": STATES}])
    def test_lists_have_pages(self, populated: Store, selection: dict[str, Any]) -> None:
        def page(limit: int | None, offset: int) -> tuple[list[int], int]:
            found, count = populated.listing(Selection(**selection), limit=limit, offset=offset)
            return [e.number for e in found], count

        assert [page(2, 0), page(2, 2), page(2, 4)] == [([3, 2], 3), ([1], 3), ([], 3)]
        assert [page(None, 1), page(1, 1)] == [([2, 1], 3), ([2], 3)]

    @pytest.mark.parametrize("name", [name for name, kind in FIELD_TYPES.items() if kind is not str])
    def test_lists_are_sorted_by_the_values_that_they_show(self, populated: Store, name: str) -> None:
        populated.change_tags(2, add=["a"])
        shown = populated.experiments()
        missing = [e.number for e in shown if getattr(e, name) is None]
        present = [e for e in shown if getattr(e, name) is not None]
        for prefix in ("", "-"):
            expected = sorted(
                present, key=lambda e: getattr(e, name), reverse=prefix == "-"
            )  # stable: the newest first
            for where in (None, "number > 0"):
                found = populated.experiments(Selection(sort=prefix + name, where=where))
                assert [e.number for e in found] == [e.number for e in expected] + missing

    def test_conditions_on_the_progress(self, populated: Store) -> None:
        seconds = populated.experiment(1).seconds
        assert seconds is not None
        near = Selection(where=f"{seconds - 0.01} < seconds < {seconds + 0.01} and number == 1 and folds_done == 3")
        assert [e.number for e in populated.experiments(near)] == [1]
        late = EpochRecord("late", 1, 1, {"loss": 0.5})
        populated.record_epoch(populated.start_run(run_draft(2, 0)).id, late)
        assert [e.number for e in populated.experiments(Selection(where='stage == "late"'))] == [2]
        assert [e.number for e in populated.experiments(Selection(where="stage == None and seconds == None"))] == [3]

    def test_values_that_summaries_lack(self, populated: Store) -> None:
        populated.start_run(run_draft(3, 1, host="there"))
        populated.start_run(run_draft(3, 0, host="here"))
        for number, text in ((1, "same"), (2, "x"), (1, "other"), (1, "same")):
            populated.add_note(number, text)
        found = populated.list_values([3, 1], {"batch", "input.size", "host", "device", "note", "stage.full.lr"})
        assert list(found) == [3, 1]
        assert {name: found[3][name] for name in ("batch", "input.size", "host", "device", "note")} == {
            "batch": 64,
            "input.size": 64,
            "host": "here, there",
            "device": "cpu, fp32",
            "note": None,
        }
        assert (found[1]["note"], found[1]["stage.full.lr"]) == ("same", None)
        assert populated.list_values([1, 2], {"batch"}) == {1: {"batch": 16}, 2: {"batch": 32}}
        assert populated.list_values([], {"batch", "host"}) == {}

    def test_tags_of_several_experiments_change_together(self, populated: Store) -> None:
        populated.change_tags([1, 3], add=["best", "old"])
        populated.change_tags([1, 2, 3], add=["new"], remove=["old"])
        assert [e.tags for e in populated.experiments()] == [("best", "new"), ("new",), ("best", "new")]
        with pytest.raises(NotFoundError, match="9"):
            populated.change_tags([1, 9], add=["lost"])
        assert populated.experiment(1).tags == ("best", "new")

    @pytest.mark.parametrize(
        ("selection", "numbers"),
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
    def test_experiments_are_selected_and_sorted(
        self, populated: Store, selection: dict[str, Any], numbers: list[int]
    ) -> None:
        found, total = populated.listing(Selection(**selection))
        assert [e.number for e in found] == numbers
        assert total == len(numbers)
        assert [e.number for e in populated.experiments(Selection(**selection), limit=1)] == numbers[:1]
        by_number = {e.number: e for e in populated.experiments()}
        assert found == [by_number[number] for number in numbers]

    def test_tags_select_experiments(self, populated: Store) -> None:
        store = populated
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

    def test_names_and_notes(self, populated: Store) -> None:
        populated.rename(3, "better")
        assert populated.experiment(3).name == "better"
        first = populated.add_note(3, "weak on epidural")
        populated.add_note(3, "second")
        assert [note.text for note in populated.notes(3)] == ["weak on epidural", "second"]
        assert populated.notes(3)[0] == first
        assert populated.notes(1) == []

    def test_archived_experiments_can_be_selected(self, populated: Store) -> None:
        populated.archive([1, 2])
        assert [e.number for e in populated.experiments(Selection(archived=False))] == [3]
        assert [e.number for e in populated.experiments(Selection(archived=True))] == [2, 1]
        populated.archive([1], archived=False)
        assert [e.archived for e in populated.experiments()] == [False, True, False]

    def test_the_trash_is_not_listed_and_can_be_restored(self, populated: Store) -> None:
        before = populated.experiment(1)
        populated.trash([1])
        assert [e.number for e in populated.experiments()] == [3, 2]
        assert [e.number for e in populated.experiments(Selection(trashed=True))] == [1]
        assert populated.experiment(1).trashed is not None
        with pytest.raises(ConflictError, match="1"):
            populated.start_run(run_draft(1, 0))
        populated.restore([1])
        assert populated.experiment(1) == before

    def test_a_running_experiment_cannot_be_trashed(self, populated: Store) -> None:
        run = populated.start_run(run_draft(3, 0))
        with pytest.raises(ConflictError, match=f"0 of experiment 3 .* {run.pid}"):
            populated.trash([2, 3])
        assert [e.number for e in populated.experiments()] == [3, 2, 1], "all or none"

    def test_purge_needs_the_trash_and_no_ensemble(self, populated: Store, version: DatasetVersion) -> None:
        store = populated
        store.add_predictions([prediction_draft(version.id)])
        store.change_tags(1, add=["gone"])
        store.add_note(1, "gone")
        store.add_experiments([experiment_draft(version, "child", parent=1)])
        with pytest.raises(ConflictError, match="1"):
            store.purge(1)
        store.trash([1, 2])
        store.add_ensemble(ensemble_draft(version, 2))
        assert store.ensembles_containing([1, 2]) == {2: [1]}
        with pytest.raises(ConflictError, match=r"2 .* ensemble 1"):
            store.purge(2)
        store.purge(1)
        with pytest.raises(NotFoundError, match="1"):
            store.experiment(1)
        assert not any((store.runs(1), store.history(1, 0), store.predictions(1), store.notes(1)))
        assert store.experiment(4).parent is None
        assert store.tags() == {}
        assert store.add_experiments([experiment_draft(version)])[0].number == 5, "numbers are never reused"

    def test_only_unused_datasets_can_be_deleted(self, populated: Store, version: DatasetVersion) -> None:
        store = populated
        for digest in ("d1", "d2"):
            test = store.add_version(version_draft("test", test_of="train", digest=digest))
        store.add_predictions([prediction_draft(test.id, fold, role="test") for fold in (0, 1)])
        store.add_predictions([prediction_draft(version.id)])
        with pytest.raises(ConflictError) as caught:
            store.delete_dataset("train")
        experiments, tests = caught.value.problem.splitlines()
        assert "train" in experiments
        assert "1, 2, 3" in experiments
        assert "test set test" in tests
        store.trash([1])
        with pytest.raises(ConflictError, match="1, 2, 3"):
            store.check_unused("train")
        store.restore([1])
        run = store.start_run(run_draft(3, 0))
        with pytest.raises(ConflictError, match=r"0 of experiment 3 .* train"):
            store.delete_dataset("test")
        store.finish_run(run.id, "stopped")
        assert [p.fold for p in store.predictions_of("test")] == [0, 1]
        store.delete_dataset("test")
        assert [d.name for d in store.datasets()] == ["train"]
        assert [p.role for p in store.predictions(1)] == ["oof"]
        methods: tuple[Callable[[str], object], ...] = (store.delete_dataset, store.predictions_of, store.check_unused)
        for method in methods:
            with pytest.raises(NotFoundError, match="'test'"):
                method("test")
        assert store.add_version(version_draft("test", test_of="train")).number == 1
        for number in (1, 2, 3):
            store.trash([number])
            store.purge(number)
        store.delete_dataset("test")
        store.delete_dataset("train")
        assert store.datasets() == []

    def test_settings_are_saved_and_removed(self, store: Store) -> None:
        assert store.setting("columns") is None
        store.set_setting("columns", ["number", "score"])
        store.set_setting("columns", ["number"])
        assert store.setting("columns") == ["number"]
        store.set_setting("columns", None)
        assert store.setting("columns") is None

    @pytest.mark.parametrize("method", ["rename", "change_tags", "add_note", "archive", "trash", "restore", "purge"])
    def test_an_unknown_experiment_changes_nothing(self, populated: Store, method: str) -> None:
        arguments: dict[str, tuple[Any, ...]] = {
            "rename": (9, "x"),
            "change_tags": (9,),
            "add_note": (9, "x"),
            "purge": (9,),
        }
        with pytest.raises(NotFoundError, match="9"):
            getattr(populated, method)(*arguments.get(method, ([1, 9],)))
        assert not populated.experiment(1).archived
        assert populated.experiment(1).trashed is None

    @pytest.mark.parametrize(
        ("selection", "value"),
        [({"states": ("runing",)}, "runing"), ({"where": "nothing > 1"}, "nothing"), ({"sort": "-nothing"}, "nothing")],
    )
    def test_invalid_selections_are_rejected(self, selection: dict[str, Any], value: str) -> None:
        with pytest.raises(InvalidInputError, match=value):
            Selection(**selection)
