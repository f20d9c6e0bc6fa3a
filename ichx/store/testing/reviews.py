"""The contract for readers' reviews of slices."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ichx.errors import NotFoundError
from ichx.store import DatasetVersion, ReviewDraft, Store
from ichx.store.testing.datasets import StoreFixtures
from ichx.store.testing.drafts import version_draft


class ReviewContract(StoreFixtures):
    """Rules for reviews."""

    def test_reviews_are_returned_as_recorded_oldest_first(self, store: Store, version: DatasetVersion) -> None:
        draft = ReviewDraft(version.id, "1.2.3", "label wrong", "epidural", "=2+2 überlappt <b>", "A. Müller")
        first = store.add_review(draft)
        second = store.add_review(ReviewDraft(version.id, "1.2.4", "artefact"))
        assert {name: getattr(first, name) for name in vars(draft)} == vars(draft)
        assert (first.dataset, first.version, first.withdrawn) == ("train", 1, None)
        assert first.created.utcoffset() == timedelta(0)
        assert (second.label, second.note, second.reader) == (None, "", None)
        assert store.reviews("train") == [first, second]
        assert store.reviews("train", slices=["1.2.4", "9"]) == [second]
        assert store.reviews("train", slices=[]) == []
        assert store.reviews("absent") == []

    def test_reviews_of_all_versions_belong_to_a_dataset(self, store: Store, version: DatasetVersion) -> None:
        later = store.add_version(version_draft(digest="d2"))
        other = store.add_version(version_draft("other"))
        for one in (version, later, other):
            store.add_review(ReviewDraft(one.id, "1.2.3", "other"))
        assert [(r.dataset, r.version) for r in store.reviews("train")] == [("train", 1), ("train", 2)]
        assert [r.version_id for r in store.reviews("train", number=2)] == [later.id]

    def test_a_withdrawn_review_stays_in_the_history(self, store: Store, version: DatasetVersion) -> None:
        one, other = (store.add_review(ReviewDraft(version.id, name, "other")) for name in ("1", "2"))
        withdrawn = store.withdraw_review(one.id)
        assert withdrawn.withdrawn is not None
        assert replace(withdrawn, withdrawn=None) == one
        assert store.withdraw_review(one.id) == withdrawn, "the first time counts"
        assert store.reviews("train") == [other]
        assert store.reviews("train", withdrawn=True) == [withdrawn, other]
        with pytest.raises(NotFoundError, match=str(other.id + 1)):
            store.withdraw_review(other.id + 1)

    def test_lost_reviews_are_restored_once(self, store: Store, version: DatasetVersion) -> None:
        kept, changed, lost = (store.add_review(ReviewDraft(version.id, name, "other")) for name in ("1", "2", "3"))
        withdrawn = replace(changed, withdrawn=changed.created)
        later = store.add_version(version_draft(digest="d2"))
        assert store.restore_reviews(later.id, [kept]) == 1
        assert store.restore_reviews(version.id, [kept, withdrawn, replace(lost, note="another")]) == 2
        assert store.restore_reviews(version.id, [kept, withdrawn, replace(lost, note="another")]) == 0
        found = store.reviews("train", number=1, withdrawn=True)
        assert [(r.slice, r.note, r.withdrawn, r.created) for r in found] == [
            ("1", "", None, kept.created),
            ("2", "", changed.created, changed.created),
            ("3", "", None, lost.created),
            ("3", "another", None, lost.created),
        ]

    def test_a_deleted_dataset_has_no_reviews(self, store: Store, version: DatasetVersion) -> None:
        other = store.add_version(version_draft("other"))
        remaining = store.add_review(ReviewDraft(other.id, "1", "other"))
        store.add_review(ReviewDraft(version.id, "1", "other"))
        store.delete_dataset("train")
        assert (store.reviews("train"), store.reviews("other")) == ([], [remaining])
