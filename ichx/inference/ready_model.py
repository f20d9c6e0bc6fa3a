"""What predicts: the finished folds of an experiment, or an ensemble with its stored blend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.evaluation.averaging import blend_folds, mean_of
from ichx.evaluation.choices import check_average, check_tta
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.recalibration_file import Recalibration
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.stored_members import check_networks
from ichx.evaluation.subject import Subject
from ichx.inference.trained import InferenceOptions, Trained, find_trained
from ichx.store import marks

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class ReadyModel:
    """An experiment or an ensemble that is ready to predict."""

    name: str
    marks: tuple[str, ...]
    members: dict[int, Trained]
    """The experiments that predict, all with the same folds, by their place in `blend`."""
    shown: Trained
    """The one with the largest weight: its windows and heat maps are shown."""
    options: InferenceOptions
    ensemble: int | None = None
    """Its number; None for an experiment."""
    blend: FittedBlend | None = None
    """None for an experiment."""
    recalibration: Recalibration | None = None
    """Applied to the mean; see `ichx.inference.recalibrate`."""

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that predict."""
        return tuple(self.shown.weights)

    def mean(self, members: Mapping[int, Mapping[int, FloatArray]], neighbours: SeriesNeighbours) -> FloatArray:
        """Return the probabilities `(N, 6)` that follow from each member's by fold, the mean over folds."""
        if self.blend is None:
            return mean_of(list(members[0].values()), self.options.average)
        return blend_folds(self.blend, members, neighbours, self.options.average)

    def recalibrated(self, p: FloatArray) -> FloatArray:
        """Return the recalibrated probabilities `(N, 6)`; `p` without a recalibration."""
        return p if self.recalibration is None else self.recalibration.apply(p)

    def of_fold(
        self, members: Mapping[int, Mapping[int, FloatArray]], neighbours: SeriesNeighbours, fold: int
    ) -> FloatArray:
        """Return the probabilities `(N, 6)` of one fold."""
        if self.blend is None:
            return members[0][fold]
        return self.blend.apply({k: folds[fold] for k, folds in members.items()}, neighbours)


def ready_experiment(
    project: "Project", number: int, options: InferenceOptions | None, note: Callable[[str], None]
) -> ReadyModel:
    """Return experiment `number` with the folds of `options`; raises like `find_trained`. `note` receives caveats."""
    options = options or InferenceOptions()
    check_tta(options.tta)
    check_average(options.average)
    trained = find_trained(project, number, options.folds)
    if trained.partial is not None and options.folds is None:
        note(f"experiment {number} predicts with {trained.partial}")
    return ReadyModel(trained.experiment.name, marks(trained.experiment), {0: trained}, trained, options)


def ready_ensemble(project: "Project", number: int, options: InferenceOptions | None) -> ReadyModel:
    """Return ensemble `number`. Its folds, test-time augmentation and average replace those of `options`.

    Raises:
        NotFoundError: There is no such ensemble.
        NotReadyError: It has no stored model, or a member has no finished fold.
        ChangedDataError: Its files, or the weights of its members, have changed since it was blended.
        UnsupportedError: Its format is unknown, or a member has no network.
        CorruptFileError: Its files are invalid.
    """
    ensemble = project.store.ensemble(number)
    model = read_model(project.workspace, ensemble)
    check_networks(project, ensemble, model)
    members = {k: find_trained(project, model.members[k].experiment, model.folds) for k in model.fitted.pool.members}
    heaviest = max(ensemble.members, key=lambda m: m.weight).experiment
    shown = next(trained for trained in members.values() if trained.experiment.number == heaviest)
    options = replace(options or InferenceOptions(), tta=model.tta, average=model.average, folds=model.folds)
    name = ensemble.name or f"ensemble {number}"
    return ReadyModel(name, marks(ensemble), members, shown, options, number, model.fitted)


def ready_model(
    project: "Project", subject: Subject, options: InferenceOptions | None, note: Callable[[str], None]
) -> ReadyModel:
    """Return an experiment or ensemble; raises like `ready_experiment` and `ready_ensemble`."""
    if subject.ensemble:
        return ready_ensemble(project, subject.number, options)
    return ready_experiment(project, subject.number, options, note)
