"""The contract for registering and listing experiments, for scores and for ensembles."""

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from ichx.errors import ConflictError, NotFoundError
from ichx.store import DatasetVersion, EnsembleMember, FeatureTableDraft, ScoreDraft, Selection, Store, marks
from ichx.store.testing.datasets import StoreFixtures
from ichx.store.testing.drafts import ensemble_draft, experiment_draft, run_draft, version_draft


class ExperimentContract(StoreFixtures):
    """Rules for experiments and ensembles."""

    def test_experiments_are_numbered_and_listed_newest_first(self, store: Store, version: DatasetVersion) -> None:
        first, second = store.add_experiments([experiment_draft(version), experiment_draft(version, "second")])
        (third,) = store.add_experiments([experiment_draft(version, "third", parent=1)])
        assert [e.number for e in (first, second, third)] == [1, 2, 3]
        assert store.experiment(3) == third
        assert (third.name, third.parent, third.dataset, third.dataset_version) == ("third", 1, "train", 1)
        assert (third.folds, third.folds_done, third.state, third.kind) == (3, 0, "new", "experiment")
        assert third.recipe == experiment_draft(version).recipe
        assert [e.number for e in store.experiments()] == [3, 2, 1]
        assert [e.number for e in store.experiments(limit=2)] == [3, 2]
        assert store.listing(limit=1)[1] == 3

    def test_summaries_have_the_values_of_the_experiment(self, store: Store, version: DatasetVersion) -> None:
        (added,) = store.add_experiments([experiment_draft(version)])
        (summary,) = store.experiments()
        assert {name: getattr(added, name) for name in vars(summary)} == vars(summary)
        assert not hasattr(summary, "recipe")
        with pytest.raises(FrozenInstanceError):
            added.name = "changed"  # type: ignore[misc]

    def test_experiments_are_listed_by_dataset(self, store: Store, version: DatasetVersion) -> None:
        other = store.add_version(version_draft("other"))
        store.add_experiments([experiment_draft(version), experiment_draft(other), experiment_draft(version)])
        store.start_run(run_draft(2))
        found = [(e.number, e.dataset, e.state) for e in store.experiments(Selection(dataset="train"))]
        assert found == [(3, "train", "new"), (1, "train", "new")]
        assert store.experiments(Selection(dataset="absent")) == []

    def test_trials_are_listed_on_request(self, store: Store, version: DatasetVersion) -> None:
        other = store.add_version(version_draft("other"))
        trial = replace(experiment_draft(version, "trial", parent=1), kind="trial", selected=True)
        clone = experiment_draft(version, "clone", parent=1)
        added = store.add_experiments([experiment_draft(version), trial, clone, experiment_draft(other)])
        assert [e.selected for e in added] == [False, True, False, False]
        assert store.trials(1) == [added[1]]
        cases: list[tuple[list[int], dict[str, Any]]] = [
            ([4, 3, 1], {}),
            ([2], {"kind": "trial"}),
            ([3, 2], {"kind": None, "parent": 1}),
            ([3], {"parent": 1}),
            ([3, 2, 1], {"kind": None, "dataset": "train"}),
        ]
        for numbers, selection in cases:
            assert [e.number for e in store.experiments(Selection(**selection))] == numbers
            assert store.listing(Selection(**selection))[1] == len(numbers)

    def test_wrong_pins_register_no_experiment_and_use_no_number(self, store: Store, version: DatasetVersion) -> None:
        other = store.add_version(version_draft("other", digest="d9"))
        good = experiment_draft(version)
        for wrong in (
            replace(good, fold_digest="x"),
            replace(good, label_digest="x"),
            replace(good, fold_set_id=other.folds[0].id),
        ):
            with pytest.raises(ValueError, match="fold"):
                store.add_experiments([good, wrong])
        assert store.listing()[1] == 0
        assert store.add_experiments([good])[0].number == 1
        assert store.add_experiments([]) == []

    def test_scores_are_recorded_and_finite(self, store: Store, version: DatasetVersion) -> None:
        store.add_experiments([experiment_draft(version)])
        store.set_scores(1, ScoreDraft(0.0731, 0.004, 0.07, 0.08), ScoreDraft(0.07))
        (found,) = store.experiments()
        assert (found.score, found.spread, found.score_tta, found.spread_tta) == (0.0731, 0.004, 0.07, None)
        added = store.experiment(1)
        assert (added.score_low, added.score_high) == (0.07, 0.08)
        assert (added.score_tta_low, added.score_tta_high) == (None, None)
        with pytest.raises(ValueError, match="nan"):
            store.set_scores(1, ScoreDraft(math.nan), ScoreDraft())
        assert store.experiment(1).score == 0.0731

    def test_members_of_a_sequence_experiment(self, store: Store, version: DatasetVersion) -> None:
        store.add_experiments([experiment_draft(version, name) for name in ("a", "b")])
        draft = replace(experiment_draft(version, "heads"), members=(2, 1))
        [heads] = store.add_experiments([draft])
        assert [e.members for e in store.experiments()] == [(2, 1), (), ()]
        assert store.experiment(3) == heads
        assert store.sequences_of([1, 2, 3]) == {1: [3], 2: [3]}
        store.trash([2, 3])
        with pytest.raises(ConflictError, match="experiment 3"):
            store.purge(2)
        store.purge(3)
        store.purge(2)
        assert store.sequences_of([1, 2]) == {}

    def test_feature_tables(self, store: Store, version: DatasetVersion) -> None:
        store.add_experiments([experiment_draft(version)])
        draft = FeatureTableDraft(1, 0, version.id, "identity", "experiments/1/fold-0/f.npy", 40, 512, "d1")
        store.add_feature_table(draft)
        store.add_feature_table(replace(draft, digest="d2"))
        store.add_feature_table(replace(draft, fold=1))
        assert [(t.fold, t.digest, t.width) for t in store.feature_tables(1)] == [(0, "d2", 512), (1, "d1", 512)]
        assert store.feature_tables() == store.feature_tables(1)
        store.trash([1])
        store.purge(1)
        assert store.feature_tables() == []

    def test_external_experiments_are_marked(self, store: Store, version: DatasetVersion) -> None:
        [external] = store.add_experiments([replace(experiment_draft(version), external=True)])
        assert (external.external, "external" in marks(external)) == (True, True)
        heads = replace(experiment_draft(version), members=(external.number,))
        [reader] = store.add_experiments([heads])
        [deeper] = store.add_experiments([replace(heads, members=(reader.number,))])
        [plain] = store.add_experiments([experiment_draft(version)])
        [of_plain] = store.add_experiments([replace(heads, members=(plain.number,))])
        listed = {e.number for e in store.experiments() if "external" in marks(e)}
        assert listed == {external.number, reader.number, deeper.number}
        assert "external" not in marks(of_plain)
        found = [marks(store.add_ensemble(ensemble_draft(version, e.number))) for e in (plain, reader)]
        assert found == [(), ("external",)]

    def test_ensembles_are_named_and_deleted(self, store: Store, version: DatasetVersion) -> None:
        store.add_experiments([experiment_draft(version)])
        first = store.add_ensemble(replace(ensemble_draft(version, 1), average="logit", digest="m1"))
        assert (first.name, first.average, first.digest) == (None, "logit", "m1")
        store.rename_ensemble(1, "best")
        assert store.ensemble(1) == replace(first, name="best")
        store.delete_ensemble(1)
        assert store.ensembles() == []
        assert store.add_ensemble(ensemble_draft(version, 1)).number == 2
        with pytest.raises(NotFoundError, match="1"):
            store.rename_ensemble(1, None)
        with pytest.raises(NotFoundError, match="1"):
            store.delete_ensemble(1)

    def test_ensembles_keep_the_order_of_their_members(self, store: Store, version: DatasetVersion) -> None:
        store.add_experiments([experiment_draft(version), experiment_draft(version)])
        members = (EnsembleMember(2, 0.7, 0.063), EnsembleMember(1, 0.3, 0.066))
        draft = replace(ensemble_draft(version, 1, 2), members=members)
        reserved = store.reserve_ensemble()
        second = store.add_ensemble(ensemble_draft(version, 2, partial="1 of 3 folds"))
        first = store.add_ensemble(draft, reserved)
        assert (first.number, second.number) == (1, 2)
        assert {name: getattr(first, name) for name in vars(draft)} == vars(draft)
        assert store.ensembles() == [first, second]
        assert store.ensemble(2) == second
        with pytest.raises(ValueError, match="other"):
            store.add_ensemble(replace(draft, dataset="other"))
        assert len(store.ensembles()) == 2
