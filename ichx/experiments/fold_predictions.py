"""Predictions of one fold: OOF, test sets, pooled features. The prediction loop is in `ichx.training.prediction`."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ichx.evaluation.choices import views_of
from ichx.evaluation.feature_files import FeatureWriter, features_file
from ichx.evaluation.metric import probabilities
from ichx.evaluation.predictions import Predictions, write_predictions
from ichx.experiment_files import FoldFiles
from ichx.experiments.fold_status import missing_features, missing_tests
from ichx.experiments.lease import Lease
from ichx.experiments.prepare import PreparedFolds
from ichx.store import PredictionDraft
from ichx.training.feed import InferenceFeed, Rows, TrainingFeed
from ichx.training.prediction import PredictionTask, Predictor

if TYPE_CHECKING:
    from ichx.store import DatasetVersion


@dataclass(frozen=True)
class FoldPredictions:
    """Predicts with the trained network of a fold and writes the files; the store learns of them from the drafts."""

    prepared: PreparedFolds
    fold: int
    feed: TrainingFeed
    """The experiment's own slices."""
    files: FoldFiles
    lease: Lease
    workers: int = 0
    """Loader processes."""
    save_features: bool = False

    def oof(self, network: nn.Module, predictor: Predictor) -> tuple[list[PredictionDraft], float]:
        """Write the OOF predictions; return their drafts and the score without test-time augmentation."""
        version = self.prepared.data.version
        rows = self.feed.validation_rows
        return self._write("oof", version, self.feed, rows, network, predictor)

    def tests(self, network: nn.Module, predictor: Predictor) -> list[PredictionDraft]:
        """Write the predictions of every test set that the fold has not predicted; return their drafts."""
        prepared, control = self.prepared, predictor.control
        drafts = list[PredictionDraft]()
        missing = missing_tests(prepared.project, prepared.experiment, self.fold)
        for version in control.group.broadcast(missing):  # one list for all processes, whatever is added meanwhile
            feed, rows = prepared.test_feed(self.fold, version, self.workers, control)
            drafts += self._write("test", version, feed, rows, network, predictor)[0]
        return drafts

    def features(self, network: nn.Module, predictor: Predictor) -> None:
        """Write pooled features next to the recorded predictions of the fold that have none."""
        project = self.prepared.project
        for prediction in missing_features(project, self.prepared.experiment.number, self.fold):
            version = project.store.version_by_id(prediction.version_id)
            feed: InferenceFeed = self.feed
            rows, name = self.feed.validation_rows, version.dataset
            if prediction.role != "oof":
                feed, rows = self.prepared.test_feed(self.fold, version, self.workers, predictor.control)
            with FeatureWriter(features_file(project.workspace.root / prediction.path)) as features:
                phase = f"features of {name}, {prediction.view}"
                task = PredictionTask(prediction.view, phase, "features", features)
                predictor.logits(network, feed, rows, task)

    def _write(
        self,
        role: str,
        version: "DatasetVersion",
        feed: InferenceFeed,
        rows: Rows,
        network: nn.Module,
        predictor: Predictor,
    ) -> tuple[list[PredictionDraft], float]:
        """Write the predictions of every view; return their drafts and the identity view's score or NaN."""
        ids = feed.slice_ids(rows)
        dataset = () if role == "oof" else (version.dataset, version.number)
        drafts, plain = list[PredictionDraft](), float("nan")
        views = views_of(self.prepared.experiment)
        paths = [self.files.predictions(role, view, *dataset) for view in views]
        with ExitStack() as stack:
            tasks = []
            for view, path in zip(views, paths, strict=True):
                features = stack.enter_context(FeatureWriter(features_file(path))) if self.save_features else None
                tasks.append(PredictionTask(view, f"predicting {version.dataset}", path.stem, features))
            of_views = predictor.logits_of_views(network, feed, rows, tasks)
        for view, path, found in zip(views, paths, of_views, strict=True):
            logits, of_studies = feed.slice_logits(rows, found), feed.study_logits_of_slices(rows, found)
            value = self.feed.truth(rows).scored(probabilities(logits)).score if role == "oof" else None
            if view == "identity" and value is not None:
                plain = value
            if not predictor.control.group.leads:
                continue
            self.lease.check()
            drafts.append(
                PredictionDraft(
                    experiment=self.prepared.experiment.number,
                    fold=self.fold,
                    version_id=version.id,
                    role=role,
                    view=view,
                    path=path.relative_to(self.prepared.project.workspace.root).as_posix(),
                    slices=len(ids),
                    digest=write_predictions(path, Predictions(ids, logits, study_logits=of_studies)),
                    score=value,
                )
            )
        return drafts, plain
