"""`ichx exp promote`: register a tuning trial as an experiment."""

from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, Number
from ichx.cli.session import session
from ichx.cli.tune_show import study_option
from ichx.evaluation.choices import CALIBRATED
from ichx.formatting import format_value


def promote(
    number: Number,
    name: Annotated[str | None, typer.Option("--name", help="Name of the experiment.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a tuning trial's values as an experiment.

    The experiment uses all patients, the full length of the stages and all folds.

    Example: `ichx exp promote 17`
    """
    from ichx.tuning.promote import promote as register

    with session() as project:
        found = register(project, number, name)
        tuned = project.store.experiment(number).parent
    e = found.experiment
    if as_json:
        print_json(e)
        return
    if not found.created:
        info(f"Experiment {number} was promoted before.")
    console.print(f"experiment {e.number}: {e.name} on {e.dataset} v{e.dataset_version}", markup=False)
    assert e.tuned is not None
    assert tuned is not None
    kind = " (calibrated)" if e.tuned.objective == CALIBRATED else ""
    score = f"{format_value(e.tuned.score)}{kind} on fold {e.tuned.fold} [selected]"
    info(f"Trial {e.tuned.trial + 1} (experiment {number}) scored {score}. The other folds give an unbiased score.")
    study = study_option(e.tuned.study, tuned)
    info(f"Next: `ichx run {e.number}`, then `ichx tune show {tuned}{study}`")
