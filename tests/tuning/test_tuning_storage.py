"""Studies in their file: resumed with the same values, held, and not mixed up."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ichx.errors import IchxError
from ichx.tuning.sampling import SAMPLERS, make_sampler
from ichx.tuning.storage import open_study, reopen
from ichx.workspace import Workspace, init_workspace

SETUP = {"search space": ["batch=2..64"], "recipe": "r1"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path)


def values(workspace: Workspace, name: str, trials: int, sampler: str, *, interrupted: bool) -> list[tuple[float, int]]:
    """Return what `trials` trials get; an interrupted study loses each once, after its first value."""
    found = []
    for number in range(trials):
        with open_study(workspace, name, SETUP, sampler=make_sampler(sampler, seed=7)) as study:
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            if not interrupted:
                found.append((x, trial.suggest_int("n", 1, 1000)))
                study.tell(trial.number, x**2)
        if interrupted:
            with open_study(workspace, name, SETUP, sampler=make_sampler(sampler, seed=7)) as study:
                (lost,) = study.get_trials(states=(TrialState.RUNNING,))
                again = reopen(study, lost.number)
                assert (again.number, again.suggest_float("x", 0, 1)) == (number, x)
                found.append((x, again.suggest_int("n", 1, 1000)))
                study.tell(again.number, x**2)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_study_asks_the_same_and_never_repeats_itself(workspace: Workspace, sampler: str) -> None:
    whole = values(workspace, "whole", 14, sampler, interrupted=False)
    assert values(workspace, "broken", 14, sampler, interrupted=True) == whole
    assert len(set(whole[:10])) == 10  # what comes then may be the optimum again


def test_another_setup_is_refused_with_both(workspace: Workspace) -> None:
    with open_study(workspace, "study", SETUP):
        pass
    with (
        pytest.raises(IchxError, match=r"it searches batch=2..64, not 2..32"),
        open_study(workspace, "study", {**SETUP, "search space": ["batch=2..32"]}),
    ):
        pass
    with open_study(workspace, "another", {**SETUP, "recipe": "r2"}), open_study(workspace, "study", SETUP) as study:
        assert study.study_name == "study"


def test_a_study_has_one_tuner(workspace: Workspace) -> None:
    with (
        open_study(workspace, "study", SETUP),
        pytest.raises(IchxError, match="another process is tuning study"),
        open_study(workspace, "study", SETUP),
    ):
        pass
    with open_study(workspace, "study", SETUP):
        pass


def test_a_file_that_is_no_database(workspace: Workspace) -> None:
    (workspace.root / "db" / "tuning.db").write_bytes(b"no database at all " * 100)
    with pytest.raises(IchxError, match=r"tuning.db cannot be used"), open_study(workspace, "study", SETUP):
        pass


def test_optuna_is_quiet_and_left_as_it_was(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    values(workspace, "study", 2, "tpe", interrupted=False)
    assert optuna.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")
