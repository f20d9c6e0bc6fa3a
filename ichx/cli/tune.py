"""`ichx tune`: search a better recipe for an experiment."""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.numbers import Number
from ichx.cli.render import cell, print_json, say, session, table, warn
from ichx.cli.tune_show import show
from ichx.data.wording import counted
from ichx.tuning.events import TrialResult, TuneEvents, TuneReport
from ichx.tuning.space import Value

SHOWN = 10

app = typer.Typer()
app.command("show")(show)


class TuneView(TuneEvents):
    """Shows a study on standard error, a line for each beginning and end."""

    def __init__(self, root: Path) -> None:
        """Take the workspace's `root`, which logs are told from."""
        self._root = root

    def note(self, message: str) -> None:
        """Print a note."""
        say(f"note: {message}", style="yellow")

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        """Print what a trial tries."""
        say(f"trial {trial + 1} of {trials}, experiment {experiment}: {_written(values)}")

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        """Print a trial's score, or why it has none."""
        if result.score is None:
            log = f"; its log: {self._root / result.log}" if result.log else ""
            warn(f"trial {result.trial + 1} failed: {result.error}{log}")
        elif best is not None:
            so_far = "the best so far" if best == result else f"best {cell(best.score)}"
            say(f"  trial {result.trial + 1}: score {cell(result.score)}, {so_far}")


@app.callback(invoke_without_command=True)
def tune(
    number: Number,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials that the study shall have in the end.")] = 30,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trials that run side by side.")] = 1,
    searches: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            help="Instead of the default space: NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A,B,C; repeatable.",
        ),
    ] = None,
    fold: Annotated[int, typer.Option("--fold", min=0, help="The fold whose score is searched on.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="Start from the hub's weights, or from random ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Search better values for an experiment's recipe; each trial is an experiment. Asked again, it goes on.

    By default: each stage's learning rate, weight decay, the share of augmented slices, dropout.

    Example: `ichx tune 6 --trials 30`
    """
    with session() as (workspace, store):
        store.experiment(number)  # an unknown number is told before Optuna is imported, which takes a second
        from ichx.engine import LocalEngine
        from ichx.tuning.study import tune as run_study
        from ichx.tuning.trial import RunChoices

        try:
            with _sigterm_as_interrupt(), contextlib.closing(LocalEngine(jobs)) as engine:
                report = run_study(
                    workspace,
                    store,
                    number,
                    engine,
                    trials=trials,
                    jobs=jobs,
                    searches=searches or (),
                    choices=RunChoices(fold=fold, device=device, pretrained=pretrained),
                    events=TuneView(workspace.root),
                )
        except KeyboardInterrupt:
            say("stopped; finished trials are kept, the same command goes on with the others", style="yellow")
            raise
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: TuneReport) -> None:
    failed = len(report.trials) - len(report.scored)
    if report.new == 0:
        say(f"the study has finished {counted(len(report.trials), 'trial')} before; a larger --trials adds to them")
    names = list(report.trials[0].values)
    rows: list[tuple[object, ...]] = [
        (t.experiment, t.score, *(_short(t.values[name]) for name in names)) for t in report.scored[:SHOWN]
    ]
    finished = counted(len(report.trials), "trial") + (f", {failed} failed" if failed else "")
    as_is = "" if report.as_is is None else f" Experiment {report.experiment} as it is: {cell(report.as_is)}."
    title = f"best trials of experiment {report.experiment}"
    table(title, ("exp", "score", *_headers(names)), rows, caption=f"{finished}.{as_is}")
    say(
        f"these scores are of fold {report.fold}, which chose them [{', '.join(report.marks)}]: "
        "expect worse ones on the other folds",
        style="yellow",
    )
    say(f"next: `ichx run {report.scored[0].experiment}` runs the best on all folds")


def _headers(names: list[str]) -> list[str]:
    """Return the names' last words, with what stands before where that alone is not clear."""
    last = [name.rpartition(".")[2] for name in names]
    return [
        name.removeprefix("stage.") if last.count(word) > 1 else word for name, word in zip(names, last, strict=True)
    ]


def _written(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let a cluster's or a system's polite end do what Ctrl-C does: end the jobs and keep what is finished."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
