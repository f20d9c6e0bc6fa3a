"""Everything stored about a model that its card shows. Nothing is trained or predicted for it, and nothing invented."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ichx.datasets.subgroups import UNKNOWN, fields_with_values, group_names, reported_fields
from ichx.errors import IchxError
from ichx.evaluation.calibration_line import calibration_lines
from ichx.evaluation.choices import check_tta
from ichx.evaluation.evaluation_count import count_evaluations
from ichx.evaluation.operating_points import AppliedThreshold, apply_thresholds
from ichx.evaluation.recalibration_file import Recalibration, stored_recalibrations
from ichx.evaluation.scorecard import Scorecard, oof_scores, part_scores
from ichx.evaluation.subgroup_scores import MAX_GROUPS, SubgroupScores, subgroup_scores
from ichx.evaluation.threshold_file import ChosenThreshold, applicable, stale_warnings, stored_thresholds
from ichx.inference.trained import Trained, find_trained
from ichx.labels import ANY
from ichx.plugins.licences import licence_notice, weights_licence
from ichx.publish.about import About
from ichx.publish.model_identity import digest_of
from ichx.publish.subject import PublishedPredictions
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import EvaluationCount, EvaluationRecord, Experiment, Run


@dataclass(frozen=True)
class NetworkFacts:
    """An experiment whose networks predict."""

    experiment: "Experiment"
    weight: float | None
    """Its weight in the ensemble; None for an experiment, and for what a sequence experiment reads."""
    plugin: "Plugin | None"
    """None if it is not installed, or another tool made the predictions."""
    recipe: Recipe | None
    """None if another tool made the predictions."""
    licence: str
    """Licence of the pretrained weights; empty if it is unknown."""
    notice: str
    """What a user must know about them."""
    runs: "tuple[Run, ...]"
    """Finished runs."""


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions with their scores."""

    published: PublishedPredictions
    card: Scorecard
    """The scores as `ichx scores` computes them."""
    subgroups: tuple[SubgroupScores, ...]
    """Of `any`, per study."""
    calls: tuple[AppliedThreshold, ...]
    """What stored thresholds do; on an external dataset only."""
    missing: tuple[str, ...] = ()
    """Requested fields of subgroups that no slice has."""


@dataclass(frozen=True)
class GroupCount:
    """A group of the training data by a header field."""

    name: str
    slices: int
    patients: int


@dataclass(frozen=True)
class CardFacts:
    """The content of a model card."""

    scored: ScoredPredictions
    """Out-of-fold predictions."""
    networks: tuple[NetworkFacts, ...]
    weights: str | None
    """SHA-256 of the weights; None if they are not available."""
    weights_problem: str | None
    groups: dict[str, tuple[GroupCount, ...]]
    """Of the dataset of the experiment, by field."""
    thresholds: tuple[ChosenThreshold, ...]
    stale: tuple[str, ...]
    """Warnings about thresholds that were chosen on other OOF predictions."""
    recalibrations: tuple[Recalibration, ...]
    """Stored ones; the scores above are those without."""
    external: tuple[ScoredPredictions, ...]
    """Evaluations on other datasets, as far as they were requested."""
    evaluations: "tuple[EvaluationRecord, ...]"
    """Recorded evaluations of this model, oldest first."""
    counts: "dict[str, EvaluationCount]"
    """How often the labels of evaluated datasets and of test sets were used by any model."""
    about: About

    @property
    def published(self) -> PublishedPredictions:
        """The out-of-fold predictions."""
        return self.scored.published


def card_facts(
    project: "Project",
    published: PublishedPredictions,
    external: Sequence[PublishedPredictions] = (),
    *,
    fields: Sequence[str] = (),
    about: About | None = None,
) -> CardFacts:
    """Return what is stored about the model of `published`, its OOF predictions.

    Args:
        project: The open project.
        published: OOF predictions.
        external: Predictions of the same model on other datasets.
        fields: Fields of subgroups; none for those of a report.
        about: What the authors say.

    Raises:
        InvalidInputError: A field is unknown.
        CorruptFileError: The stored thresholds or recalibrations are damaged.
    """
    subject = published.subject
    thresholds = tuple(stored_thresholds(project, subject))
    networks = tuple(_networks(project, published))
    weights, problem = _weights(project, published)
    of_model = [
        one
        for one in project.store.evaluations()
        if one.dataset is not None and (one.ensemble if subject.ensemble else one.experiment) == subject.number
    ]
    evaluated = [one.dataset for one in of_model if one.dataset is not None]
    tests = [one.name for one in project.store.datasets() if one.test_of == published.data.version.dataset]
    return CardFacts(
        scored=scored_predictions(published, fields, ()),
        networks=networks,
        weights=weights,
        weights_problem=problem,
        groups=_groups(published),
        thresholds=thresholds,
        stale=tuple(stale_warnings(project, subject, thresholds)),
        recalibrations=tuple(stored_recalibrations(project, subject)),
        external=tuple(scored_predictions(one, fields, thresholds) for one in external),
        evaluations=tuple(of_model),
        counts={name: count_evaluations(project, name) for name in dict.fromkeys([*evaluated, *tests])},
        about=about or About(),
    )


def scored_predictions(
    published: PublishedPredictions, fields: Sequence[str], thresholds: Sequence[ChosenThreshold]
) -> ScoredPredictions:
    """Return the scores of predictions: of slices, studies, subgroups by `fields` and of stored `thresholds`."""
    table = published.table
    slices, studies = oof_scores(table, published.pooling)
    card = Scorecard(
        experiment=None if published.subject.ensemble else published.subject.number,
        name=published.name,
        tta=check_tta(published.tta),
        marks=published.marks,
        folds=table.fold_scores,
        slices=slices,
        studies=studies,
        left_out=table.left_out,
        calibration=calibration_lines(table.labels, table.probabilities, table.patients),
        parts=part_scores(table, published.pooling),
        ensemble=published.subject.number if published.subject.ensemble else None,
        nested=published.nested,
    )
    with_groups = published.predicted.slices
    names, missing = fields_with_values(with_groups, fields, required=False)
    if not fields:
        names = [
            field
            for field in reported_fields(with_groups)
            if len(pd.unique(group_names(with_groups, field))) <= MAX_GROUPS
        ]
    groups = subgroup_scores(published.predicted, names, label=ANY, unit="study", pooling=published.pooling)
    fitting = applicable(thresholds, tta=published.tta, average=published.average, pooling=published.pooling)
    calls = apply_thresholds(fitting, published.predicted)
    return ScoredPredictions(published, card, tuple(groups), tuple(calls), tuple(missing))


def scores_document(facts: CardFacts) -> dict[str, Any]:
    """Return all scores for JSON."""
    return {
        "out_of_fold": facts.scored.card,
        "subgroups": facts.scored.subgroups,
        "thresholds": facts.thresholds,
        "recalibrations": facts.recalibrations,
        "external": [
            {
                "dataset": one.published.data.version.dataset,
                "version": one.published.data.version.number,
                "scores": one.card,
                "subgroups": one.subgroups,
                "thresholds": one.calls,
            }
            for one in facts.external
        ],
        "evaluations": facts.evaluations,
    }


def _networks(project: "Project", published: PublishedPredictions) -> list[NetworkFacts]:
    weights: dict[int, float | None] = {published.experiment.number: None}
    if published.subject.ensemble:
        members = project.store.ensemble(published.subject.number).members
        weights = {member.experiment: member.weight for member in members}
    waiting = list(weights)
    while waiting:
        for member in project.store.experiment(waiting.pop()).members:
            if member not in weights:
                weights[member] = None
                waiting.append(member)
    return [_network(project, number, weight) for number, weight in weights.items()]


def _network(project: "Project", number: int, weight: float | None) -> NetworkFacts:
    experiment = project.store.experiment(number)
    plugin = project.registry.plugins.get(experiment.plugin)
    recipe = None
    if not experiment.external:
        recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    licence = notice = ""
    if plugin is not None and recipe is not None and recipe.model.pretrained:
        licence, notice = weights_licence(plugin, recipe), licence_notice(plugin, recipe)
    return NetworkFacts(
        experiment=experiment,
        weight=weight,
        plugin=plugin,
        recipe=recipe,
        licence=licence,
        notice=notice,
        runs=tuple(run for run in project.store.runs(number) if run.state == "done"),
    )


def _weights(project: "Project", published: PublishedPredictions) -> tuple[str | None, str | None]:
    subject = published.subject
    try:
        if not subject.ensemble:
            return digest_of([find_trained(project, subject.number)]), None
        from ichx.inference.ready_model import ready_ensemble

        members: list[Trained] = list(ready_ensemble(project, subject.number, None).members.values())
        return digest_of(members), None
    except (IchxError, OSError) as error:
        reason = error.problem if isinstance(error, IchxError) else str(error)
        return None, reason


def _groups(published: PublishedPredictions) -> dict[str, tuple[GroupCount, ...]]:
    slices = published.data.slices
    found: dict[str, tuple[GroupCount, ...]] = {}
    for field in reported_fields(slices):
        table = pd.DataFrame({"group": group_names(slices, field), "patient": slices["patient"].to_numpy(object)})
        counts = table.groupby("group")["patient"].agg(["size", "nunique"]).sort_values("size", ascending=False)
        if len(counts) <= MAX_GROUPS:
            found[field] = tuple(
                GroupCount(str(name), int(row["size"]), int(row["nunique"]))
                for name, row in sorted(counts.iterrows(), key=lambda item: item[0] == UNKNOWN)
            )
    return found
