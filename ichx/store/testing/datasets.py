"""The contract for datasets, versions, folds and test sets."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete

from ichx.errors import ConflictError, InvalidInputError, NotFoundError, StoreError
from ichx.store import DatasetVersion, FoldDraft, ScoreDraft, Selection, Store, marks
from ichx.store.tables import setting
from ichx.store.testing.drafts import ensemble_draft, experiment_draft, run_draft, version_draft


class StoreFixtures:
    """Fixtures that all contracts share."""

    @pytest.fixture
    def url(self) -> str:
        """Return the SQLAlchemy URL of an empty database."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """Yield a new store."""
        with Store(url) as store:
            yield store

    @pytest.fixture
    def version(self, store: Store) -> DatasetVersion:
        """Return the first version of a labelled dataset in `store`."""
        return store.add_version(version_draft())


class DatasetContract(StoreFixtures):
    """Rules for datasets."""

    def test_versions_are_numbered_and_returned_unchanged(self, store: Store, url: str) -> None:
        first = store.add_version(version_draft(digest="d1"))
        second = store.add_version(version_draft(digest="d2"))
        assert (first.number, second.number) == (1, 2)
        with Store(url) as other:
            assert other.version("train") == other.version_by_id(second.id) == second
            assert other.version("train", 1) == first
        assert second.summary == {"positive": {"any": 17}, "spacing": [0.5, 5.0]}
        assert [(f.name, f.k, f.seed, f.digest, f.leaky) for f in second.folds] == [
            ("default", 3, 7, "folds-d2", False)
        ]
        assert second.folds[0].source is None
        assert second.created.utcoffset() == timedelta(0)

    def test_a_read_cannot_write(self, store: Store) -> None:
        store.set_setting("before", 1)
        with pytest.raises(StoreError):
            store._read(lambda connection: connection.execute(delete(setting)))
        store.set_setting("after", 2)  # over the same connection, if there is a pool
        assert (store.setting("before"), store.setting("after")) == (1, 2)

    def test_test_sets_belong_to_a_dataset_and_are_not_trainable(self, store: Store, version: DatasetVersion) -> None:
        store.add_version(version_draft("hidden", test_of="train"))
        latest = store.add_version(version_draft("hidden", test_of="train", digest="d2"))
        labelled = store.add_version(replace(version_draft("open", test_of="train"), label_digest="l"))
        store.add_version(replace(version_draft("other"), label_digest=None))
        assert store.test_sets("train") == [latest, labelled]
        assert store.test_sets("hidden") == []
        found = [(d.name, d.trainable, d.test_of, d.versions) for d in store.datasets()]
        assert found == [
            ("hidden", False, "train", 2),
            ("open", False, "train", 1),
            ("other", False, None, 1),
            ("train", True, None, 1),
        ]
        assert store.dataset("train").created == version.created

    def test_invalid_test_sets_are_rejected_and_leave_no_trace(self, store: Store, version: DatasetVersion) -> None:
        store.add_version(version_draft("hidden", test_of="train"))
        for draft, error, value in (
            (version_draft("new", test_of="absent"), NotFoundError, "absent"),
            (version_draft("new", test_of="hidden"), InvalidInputError, "hidden"),
            (version_draft("new", test_of="new"), InvalidInputError, "new"),
            (version_draft("train", test_of="hidden"), ConflictError, "train"),
            (version_draft("hidden", digest="d2"), ConflictError, "train"),
        ):
            with pytest.raises(error, match=value):
                store.add_version(draft)
        assert [(d.name, d.versions) for d in store.datasets()] == [("hidden", 1), ("train", 1)]

    def test_unknown_things_raise_not_found(self, store: Store, version: DatasetVersion) -> None:
        with pytest.raises(NotFoundError) as caught:
            store.dataset("trian")
        assert "'train'" in caught.value.remedy, "the nearest name"
        for read, value in (
            (lambda: store.version("train", 2), "2"),
            (lambda: store.version("trian"), "trian"),
            (lambda: store.version_by_id(99), "99"),
            (lambda: store.test_sets("trian"), "trian"),
            (lambda: version.fold_set("deflaut"), "deflaut"),
            (lambda: store.experiment(17), "17"),
            (lambda: store.set_scores(17, ScoreDraft(0.1), ScoreDraft()), "17"),
            (lambda: store.start_run(run_draft(17)), "17"),
            (lambda: store.heartbeat(17), "17"),
            (lambda: store.finish_run(17, "done"), "17"),
            (lambda: store.ensemble(17), "17"),
        ):
            with pytest.raises(NotFoundError, match=value) as caught:
                read()
            assert caught.value.remedy

    def test_leaky_folds_mark_experiments_and_ensembles(self, store: Store, version: DatasetVersion) -> None:
        draft = version_draft(digest="d2")
        imported = FoldDraft("theirs", 3, 0, "leak", leaking_patients=4, source="theirs.csv")
        leaky = store.add_version(replace(draft, folds=(*draft.folds, imported)))
        assert [(f.name, f.leaking_patients, f.leaky, f.source) for f in leaky.folds] == [
            ("default", 0, False, None),
            ("theirs", 4, True, "theirs.csv"),
        ]
        honest = experiment_draft(leaky)
        marked = replace(honest, fold_set_id=leaky.folds[1].id, fold_digest="leak")
        drafts = [experiment_draft(version), honest, marked, replace(marked, kind="trial", selected=True)]
        added = store.add_experiments(drafts)
        assert [(e.leaked, e.fold_set) for e in added] == [(False, "default")] * 2 + [(True, "theirs")] * 2
        assert [e.leaked for e in store.experiments(Selection(kind=None))] == [True, True, False, False]
        store.set_scores(3, ScoreDraft(0.1), ScoreDraft())
        assert store.experiment(3).leaked
        assert [marks(e) for e in added[1:]] == [
            ("partial (0 of 3 folds)",),
            ("leaky folds", "partial (0 of 3 folds)"),
            ("selected", "leaky folds", "partial (0 of 3 folds)"),
        ]
        store.add_ensemble(ensemble_draft(leaky, 2))
        store.add_ensemble(ensemble_draft(leaky, 2, 3, partial="1 of 3 folds"))
        store.add_ensemble(ensemble_draft(leaky, 3, 4))
        assert [(e.leaked, e.selected) for e in store.ensembles()] == [(False, False), (True, False), (True, True)]
        assert [marks(e) for e in store.ensembles()] == [
            (),
            ("leaky folds", "partial (1 of 3 folds)"),
            ("selected", "leaky folds"),
        ]
