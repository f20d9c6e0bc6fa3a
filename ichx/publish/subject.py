"""What is published: an experiment or ensemble with its OOF predictions, or its predictions of another dataset."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.datasets.study_labels import has_study_labels
from ichx.evaluation.choices import Average, Pooling, Tta
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.subgroup_scores import Predicted, predicted_of
from ichx.evaluation.subject import Subject
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import marks

if TYPE_CHECKING:
    from ichx.inference.trained import InferenceOptions
    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.training.callbacks import Callbacks


@dataclass(frozen=True)
class PublishedPredictions:
    """Predictions with labels, and whose they are."""

    subject: Subject
    name: str
    marks: tuple[str, ...]
    tta: str
    average: Average
    pooling: Pooling
    data: LoadedDataset
    """The dataset of the predictions."""
    table: OofTable
    """One row per slice."""
    predicted: Predicted
    """The same with rows of the catalog."""
    experiment: "Experiment"
    """The experiment, or the member with the largest weight, whose heat maps are shown."""
    recipe: Recipe
    """Its recipe."""
    external: bool
    """Whether the dataset is another one than that of the experiment; otherwise predictions are out of fold."""
    nested: bool = True
    """False for the in-sample predictions of an ensemble."""

    @property
    def source(self) -> str:
        """Where the predictions come from, e.g. `out of fold on rsna version 1`."""
        version = self.data.version
        place = f"{version.dataset} version {version.number}"
        if self.external:
            return f"on {place}, an external dataset"
        return f"out of fold on {place}" if self.nested else f"in-sample on {place}"


def oof_subject(
    project: "Project",
    subject: Subject,
    *,
    tta: Tta = "none",
    average: Average = "logit",
    pooling: Pooling = "max",
) -> PublishedPredictions:
    """Return the OOF predictions of an experiment or ensemble, which has its own views; raises like `read_oof`."""
    nested = True
    if subject.ensemble:
        ensemble = project.store.ensemble(subject.number)
        heaviest = max(ensemble.members, key=lambda member: member.weight).experiment
        experiment = project.store.experiment(heaviest)
        blend = read_ensemble_oof(project, ensemble)
        table, nested = blend.oof, blend.nested
        name, kinds, views, mean = ensemble.name or str(subject), marks(ensemble), ensemble.tta, ensemble.average
        average = "logit" if mean == "logit" else "probability"
    else:
        experiment = project.store.experiment(subject.number)
        table = read_oof(project, experiment, tta, average=average)
        name, kinds, views = experiment.name, marks(experiment), str(tta)
    data = load_version(project.workspace, project.store.version_by_id(experiment.version_id))
    return PublishedPredictions(
        subject=subject,
        name=name,
        marks=kinds,
        tta=views,
        average=average,
        pooling=pooling,
        data=data,
        table=table,
        predicted=predicted_of(table, data.slices),
        experiment=experiment,
        recipe=from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}"),
        external=False,
        nested=nested,
    )


def external_subject(
    project: "Project",
    subject: Subject,
    dataset: str,
    options: "InferenceOptions",
    *,
    callbacks: "Callbacks",
    pooling: Pooling = "max",
) -> PublishedPredictions:
    """Return the predictions of another labelled dataset; predict what is missing, and count the evaluation.

    Raises like `ichx.inference.evaluate.evaluate_slices`.
    """
    from ichx.inference.evaluate import evaluate_slices
    from ichx.inference.ready_model import ready_model

    model = ready_model(project, subject, options, callbacks.note)
    evaluation, found = evaluate_slices(project, model, dataset, callbacks=callbacks, pooling=pooling)
    rows = found.slices
    table = OofTable(
        slice_ids=rows["slice_id"].to_numpy(object),
        folds=np.full(len(rows), next(iter(evaluation.folds)), np.int16),
        labels=found.labels,
        probabilities=found.probabilities,
        left_out=evaluation.left_out,
        patients=rows["patient"].to_numpy(object),
        studies=rows["study"].to_numpy(object),
    )
    to_pool = found.labels_to_pool if has_study_labels(rows) else None
    table = replace(table, study_probabilities=found.study_probabilities, study_labels=to_pool)
    return PublishedPredictions(
        subject=subject,
        name=model.name,
        marks=evaluation.marks,
        tta=evaluation.tta,
        average=evaluation.average,
        pooling=pooling,
        data=found.data,
        table=table,
        predicted=found.predicted,
        experiment=model.shown.experiment,
        recipe=model.shown.recipe,
        external=True,
    )
