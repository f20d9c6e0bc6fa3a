"""What a fold is going to do, checked and told before it begins."""

from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.training.callbacks import FoldPlan

if TYPE_CHECKING:
    from ichx.experiments.prepare import Job
    from ichx.training.checkpoint import Position


def check_rows(job: "Job", fold: int, *, trained: bool) -> None:
    """Raise `IchxError` where `fold` has too little to train on or to validate on; a `trained` one only predicts."""
    training = job.training_rows(fold)
    for rows, what in ((training, "training"), (job.validation_rows(fold), "validation")):
        if len(rows) < 2:
            raise IchxError(
                f"fold {fold} has {len(rows)} readable slices for {what}", "add more data or use fewer folds"
            )
    drawn = [stage.name for stage in job.recipe.stage if stage.sampling != "all"]
    if drawn and not trained and not job.any_positive[training].any():
        settings = " ".join(f"--set stage.{name}.sampling=all" for name in drawn)
        raise IchxError(
            f"fold {fold} has no slice positive for `any` to train on, so that {_listed(drawn)} would train on nothing",
            f"add positive slices, or register an experiment that trains on every slice: {settings}",
        )


def fold_plan(job: "Job", fold: int, hardware: str, start: str, epochs_done: int) -> FoldPlan:
    """Return what is told when training begins from `start` or goes on after `epochs_done` epochs."""
    return FoldPlan(
        experiment=job.experiment.number,
        name=job.experiment.name,
        fold=fold,
        folds=job.experiment.folds,
        hardware=hardware,
        start=start,
        train=len(job.training_rows(fold)),
        validation=len(job.validation_rows(fold)),
        epochs=job.recipe.epochs,
        epochs_done=epochs_done,
        leaked=job.experiment.leaked,
    )


def told_position(at: "Position", epochs_done: int, epochs: int) -> str:
    """Return where a checkpoint goes on, for people."""
    after = f"checkpoint after epoch {epochs_done}"
    if epochs_done == epochs:
        return f"{after}, the last one"
    return f"{after} and {at.batch:,} batches of the next one" if at.batch else after


def _listed(names: list[str]) -> str:
    return f"stage {names[0]}" if len(names) == 1 else f"the stages {', '.join(names[:-1])} and {names[-1]}"
