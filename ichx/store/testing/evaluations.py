"""The contract for counted evaluations."""

from datetime import timedelta

from ichx.store import DatasetVersion, EvaluationCount, EvaluationDraft, Store
from ichx.store.testing.datasets import StoreFixtures


class EvaluationContract(StoreFixtures):
    """Rules for evaluations on test sets and external datasets."""

    def test_evaluations_are_returned_as_recorded_oldest_first(self, store: Store, version: DatasetVersion) -> None:
        draft = EvaluationDraft("evaluate", "l1", "p1", 0.25, "train", version.number, experiment=6)
        first = store.add_evaluation(draft)
        second = store.add_evaluation(EvaluationDraft("submit score", "l1", "p2", 0.5, file="x" * 300 + ".csv"))
        assert {name: getattr(first, name) for name in vars(draft)} == vars(draft)
        assert first.created.utcoffset() == timedelta(0)
        assert (second.dataset, second.version, len(second.file or "")) == (None, None, 255)
        assert (second.file or "").endswith("x.csv")
        assert store.evaluations() == [first, second]
        assert store.evaluations("train") == [first]
        assert store.evaluations("train", labels="l1") == [first, second]
        assert store.evaluations(labels="l1") == [first, second]
        assert store.evaluations("absent") == []

    def test_repeated_evaluations_of_the_same_predictions_count_once_as_predictions(self, store: Store) -> None:
        for predictions in ("p1", "p2", "p1"):
            store.add_evaluation(EvaluationDraft("evaluate", "l1", predictions, 0.25, "ours", 1, ensemble=3))
        found = store.evaluations("ours")
        counted = EvaluationCount.of(found)
        assert (counted.evaluations, counted.predictions) == (3, 2)
        assert (counted.first, counted.last) == (found[0].created, found[-1].created)
        assert EvaluationCount.of([]) == EvaluationCount(0, 0, None, None)

    def test_the_count_outlives_the_dataset(self, store: Store, version: DatasetVersion) -> None:
        store.add_evaluation(EvaluationDraft("evaluate", "l1", "p1", 0.25, "train", version.number))
        store.delete_dataset("train")
        assert len(store.evaluations("train")) == 1
