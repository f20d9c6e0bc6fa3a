"""Data of the report's tuning section: the Optuna studies of an experiment, or the trial that it was promoted from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from ichx.errors import IchxError
from ichx.report import tuning_plots as plots
from ichx.tuning import may_have_studies
from ichx.tuning.describe import format_verdict
from ichx.tuning.promoted import Promoted, read_one

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.tuning.results import StudyView


@dataclass(frozen=True)
class TuningSection:
    """Tuning of one experiment; false if there is nothing to show."""

    studies: "tuple[StudyView, ...]"
    promoted: Promoted | None
    """Set if the experiment was promoted from a trial."""
    notes: tuple[str, ...]
    """What cannot be read, and why."""

    def __bool__(self) -> bool:
        """Return whether there is something to show."""
        return bool(self.studies or self.promoted)


def read_tuning(project: "Project", experiment: "Experiment") -> TuningSection:
    """Return the tuning of `experiment`; an Optuna study that cannot be read becomes a note."""
    if experiment.tuned is None and not may_have_studies(project.workspace):
        return TuningSection((), None, ())
    from ichx.tuning.results import read_study, study_names  # imports Optuna

    studies, notes = [], []
    try:
        for name in study_names(project.workspace, experiment.number):
            try:
                studies.append(read_study(project, experiment.number, name))
            except IchxError as error:
                notes.append(error.problem.splitlines()[0])
    except IchxError as error:
        notes.append(error.problem.splitlines()[0])
    promoted = read_one(project, experiment)
    problems = (p.problem for p in (promoted, *(p for study in studies for p in study.promoted)) if p is not None)
    notes += [problem.splitlines()[0] for problem in problems if problem]
    return TuningSection(tuple(study for study in studies if study.trials), promoted, tuple(notes))


def study_figures(section: TuningSection) -> list[Mapping[str, object]]:
    """Return the diagrams of each study, by the names that the template uses."""
    figures: list[Mapping[str, object]] = []
    for index, view in enumerate(section.studies):
        parallel = plots.parallel_coordinates(view, f"tuning-{index}-values")
        figures.append(
            {
                "history": plots.history(view, f"tuning-{index}-history"),
                "value_plots": plots.value_plots(view, f"tuning-{index}-slice"),
                "parallel": parallel[0] if parallel else Markup(),
                "width": parallel[1] if parallel else 0.0,
                "clipped": plots.clipped_count(view),
                "high": plots.score_axis(view).high,
                "verdict": format_verdict(view),
            }
        )
    return figures
