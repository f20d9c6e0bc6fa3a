"""What a report says of tuning: the studies of an experiment, or the trial that it was promoted from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from ichx.errors import IchxError
from ichx.report import tuning_plots as plots
from ichx.tuning import database_path
from ichx.tuning.promoted import Promoted, read_one

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.tuning.results import StudyView


@dataclass(frozen=True)
class Tuning:
    """The `studies` of an experiment; `promoted` where it comes from a trial. `notes` say what could not be read."""

    studies: "tuple[StudyView, ...]"
    promoted: Promoted | None
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is something to show."""
        return bool(self.studies or self.promoted)


def read_tuning(project: "Project", experiment: "Experiment") -> Tuning:
    """Return what is known of the tuning of `experiment`; a study that cannot be read is a note."""
    if experiment.tuned is None and not database_path(project.workspace).is_file():
        return Tuning((), None, ())
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
    return Tuning(tuple(study for study in studies if study.trials), promoted, tuple(notes))


def pictures(tuning: Tuning) -> list[Mapping[str, object]]:
    """Return what the page draws of each study."""
    drawn: list[Mapping[str, object]] = []
    for place, view in enumerate(tuning.studies):
        side = plots.parallel(view, f"tuning-{place}-values")
        drawn.append(
            {
                "history": plots.history(view, f"tuning-{place}-history"),
                "slices": plots.slices(view, f"tuning-{place}-slice"),
                "parallel": side[0] if side else Markup(),
                "width": side[1] if side else 0.0,
                "beyond": plots.beyond(view),
                "high": plots.score_axis(view).high,
            }
        )
    return drawn
