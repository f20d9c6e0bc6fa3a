"""Sequence experiments after their training: kills, commands, audit, archive, trash, rebuilt stores."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Program
from running_programs import start_held

from ichx.errors import ConflictError, InvalidInputError, NotReadyError
from ichx.evaluation.audit import audit
from ichx.experiments.archive_export import archive_experiment
from ichx.experiments.archive_import import import_experiment
from ichx.experiments.gc import delete, find_garbage
from ichx.experiments.member_features import TableRequest, find_table
from ichx.experiments.rebuild import adopt_store, rebuild_store
from ichx.experiments.register import ExperimentRequest, clone_experiment, equal_experiments
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.project import Project
from ichx.store import Experiment, open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

TINY = ("stage.full.epochs=3", "sequence.width=4", "sequence.parts=2", "batch=2")
BOTH = "logits", "features"


def sequence(project: Project, *members: int, inputs: tuple[str, ...] = BOTH) -> Experiment:
    return new_sequence(project, ExperimentRequest(plugin="gru_stack", settings=TINY), members, inputs)[0]


def test_killed_in_features_training_and_prediction_it_ends_with_equal_bits(
    project: Project, ichx_process: Program, killed_runs: ModuleType
) -> None:
    first, second = (sequence(project, 1, 2) for _ in range(2))
    root = project.workspace.root
    assert ichx_process("run", first.number, "--fold", 0, cwd=root).code == 0
    features = [project.workspace.experiment_files(number).features_folder for number in (1, 2)]
    tables = {path.name: path.read_bytes() for path in features[0].glob("*.npy")}
    for folder in features:
        shutil.rmtree(folder)
    fold = root / "experiments" / str(second.number) / "fold-0"
    for place, pattern in (
        ("ichx.evaluation.feature_tables:TableWriter.finish", features[1] / "*.part"),
        ("ichx.training.step_sync:StepSync.after_step", fold / "checkpoint-*.pt"),
        ("ichx.evaluation.predictions:write_predictions", fold / "weights.safetensors"),
        ("ichx.training.prediction:Predictor._batch", fold / "oof-identity.parquet"),
    ):
        arguments = ("run", second.number, "--fold", 0, "--checkpoint-every", "0.1s")
        held = start_held(place, pattern, *arguments, cwd=root)
        held.kill()
        held.communicate()
    done = ichx_process("run", second.number, "--fold", 0, cwd=root)
    assert done.code == 0, done.err
    assert killed_runs.differences(root, first.number, second.number) == []
    assert {path.name: path.read_bytes() for path in features[0].glob("*.npy")} == tables


def test_the_commands(project: Project, ichx: Program) -> None:
    root = project.workspace.root
    made = ichx("exp", "new", "--plugin", "gru_stack", "--members", "1,2", "--inputs", "logits,features", cwd=root)
    assert made.code == 0, made.err
    assert "features: " in made.err
    registered = ichx("exp", "show", 4, "--json", cwd=root)
    assert '"members": [\n    1,\n    2\n  ]' in registered.out
    assert '"read_by": [\n    4\n  ]' in ichx("exp", "show", 1, "--json", cwd=root).out
    assert "1 (tiny_resnet-32-linear), 2 (" in ichx("exp", "show", 4, cwd=root).out
    for options, code, value in (
        (("--plugin", "gru_stack", "--members", "1,2", "--size", 64), "invalid_input", "gru_stack"),
        (("--plugin", "gru_stack", "--members", "1,2", "--sigmoid"), "invalid_input", "gru_stack"),
        (("--plugin", "tiny_resnet", "--members", "1"), "invalid_input", "tiny_resnet"),
        (("--plugin", "tiny_resnet", "--inputs", "logits"), "invalid_input", "tiny_resnet"),
        (("--plugin", "gru_stack", "--members", "1", "--inputs", "pixels"), "invalid_input", "pixels"),
        (("--plugin", "gru_stack"), "invalid_input", "gru_stack"),
        (("--plugin", "gru_stack", "--members", "7"), "not_found", "7"),
        (("--plugin", "gru_stack", "--members", "one"), "usage", "one"),
        (("--reference", "--members", "1"), "usage", "--reference"),
    ):
        ichx("exp", "new", *options, "--json", cwd=root).check_error(code, value)
    ichx("run", 4, "--save", "features", "--json", cwd=root).check_error("unsupported", "4")
    ichx("exp", "rm", 1, cwd=root)
    ichx("run", 4, "--json", cwd=root).check_error("not_ready", "Member 1 of experiment 4")


def test_missing_members_run_first_on_request(project: Project, ichx: Program) -> None:
    root = project.workspace.root
    clone_experiment(project.store, project.registry, 3)
    made = sequence(project, 1, 4)
    ichx("run", made.number, "--json", cwd=root).check_error("not_ready", "Member 4 of experiment 5", "0, 1")
    assert project.store.runs(4) == []
    done = ichx("run", made.number, "--with-members", cwd=root)
    assert done.code == 0, done.err
    assert [project.store.experiment(number).folds_done for number in (4, 5)] == [2, 2]
    # A fold that reads features alone needs that fold of its members only.
    clone_experiment(project.store, project.registry, 3, settings=["seed=5"])
    single = sequence(project, 6, inputs=("features",))
    done = ichx("run", single.number, "--fold", 1, "--with-members", "--jobs", 2, cwd=root)
    assert done.code == 0, done.err
    assert [project.store.experiment(number).folds_done for number in (6, 7)] == [1, 1]
    assert project.store.runs(6, 0) == []


def test_audit_finds_what_changed_since_the_training(project: Project) -> None:
    made = sequence(project, 1, 2)
    run_experiment(project, made.number)
    passed = audit(project, made.number)
    assert [c for c in passed.checks if c.state != "ok"] == []
    subjects = {check.subject for check in passed.checks}
    assert {"member 1", "member 2", "fold 0 inputs", "fold 1 inputs", "fold 0 weights"} <= subjects
    assert [c.state for c in audit(project, 1).checks if c.subject == "fold 0 features"] == ["ok", "ok"]

    request = TableRequest(1, 0, made.version_id)
    table = find_table(project, request)
    assert table is not None
    values = bytearray(table.path.read_bytes())
    values[-1] ^= 1
    table.path.write_bytes(values)
    assert "wrong" in [c.state for c in audit(project, 1).checks if c.subject == "fold 0 features"]

    weights = [project.workspace.experiment_files(2).fold(fold).weights for fold in (0, 1)]
    weights[0].write_bytes(weights[1].read_bytes())
    wrong = {c.subject: c.detail for c in audit(project, made.number).checks if c.state == "wrong"}
    assert wrong.keys() == {"member 1", "member 2", "fold 0 inputs"}
    assert "experiment 2" in wrong["fold 0 inputs"]
    assert "experiment 1" not in wrong["fold 0 inputs"]


def test_an_archive_names_its_members(project: Project, dataset_root: Path, tmp_path: Path) -> None:
    made = sequence(project, 1, 2)
    run_experiment(project, made.number)
    files = {number: tmp_path / f"{number}.zip" for number in (1, 2, made.number)}
    for number, file in files.items():
        archive_experiment(project, number, file, weights=True)
    other = Path(shutil.copytree(dataset_root, tmp_path / "other"))
    with open_store(open_workspace(other)) as store:
        there = Project(open_workspace(other), store, project.registry)
        import_experiment(there, files[2])
        with pytest.raises(NotReadyError, match=r"1 \(tiny_resnet"):
            import_experiment(there, files[made.number])
        assert [path.name for path in (other / "experiments").iterdir()] == ["1"]
        import_experiment(there, files[1])
        number = import_experiment(there, files[made.number]).number
        imported = store.experiment(number)
        assert (imported.members, imported.size) == ((2, 1), 0)
        assert imported.score == pytest.approx(project.store.experiment(made.number).score)
        assert run_experiment(there, number).trained == ()
        assert [c for c in audit(there, number).checks if c.state == "wrong"] == []


def test_trash_and_garbage(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ichx.experiments.garbage.FRESH_SECONDS", -1)
    made = sequence(project, 1, inputs=("features",))
    run_experiment(project, made.number, folds=[0])
    folder = project.workspace.experiment_files(1).features_folder
    assert folder.is_dir()
    project.store.trash([1])
    assert {g.path for g in find_garbage(project)} & {folder, folder.parent} == set()
    with pytest.raises(ConflictError, match=str(made.number)):
        project.store.purge(1)
    project.store.restore([1])
    project.store.trash([made.number])
    found = {g.kind: g for g in find_garbage(project)}
    assert found["unused features"].path == folder
    delete(project, found["unused features"])
    assert not folder.exists()
    assert project.store.feature_tables(1) == []
    delete(project, found["experiment in the trash"])
    project.store.trash([1])
    assert folder.parent in {g.path for g in find_garbage(project)}


def test_clones_and_rebuilt_stores_keep_members(project: Project) -> None:
    made = sequence(project, 1, 2)
    run_experiment(project, made.number, folds=[0])
    clone = clone_experiment(project.store, project.registry, made.number)
    assert (clone.members, clone.recipe_digest) == (made.members, made.recipe_digest)
    other = sequence(project, 1, 3)
    assert equal_experiments(project.store, clone) == [project.store.experiment(made.number)]
    assert equal_experiments(project.store, other) == []
    with pytest.raises(InvalidInputError, match="1, 2"):
        clone_experiment(project.store, project.registry, made.number, folds="other")
    root = project.workspace.root
    for path in (root / "db").glob("ichx.db*"):
        path.unlink()
    with open_store(open_workspace(root), tied=False) as store:
        rebuilt = Project(open_workspace(root), store, project.registry)
        adopt_store(rebuilt)
        report = rebuild_store(rebuilt)
        assert report.experiments == [1, 2, 3, made.number]
        assert store.experiment(made.number).members == (1, 2)
        assert run_experiment(rebuilt, made.number).already_done == (0,)


def test_a_sequence_experiment_has_no_images(project: Project, ichx: Program) -> None:
    made = sequence(project, 1, inputs=("logits",))
    run_experiment(project, made.number)
    details = {check.subject: check.detail for check in audit(project, made.number).checks}
    assert "without the part of fold 1 " in details["fold 1 weights"]
    root = project.workspace.root
    ichx("data", "cache", "ph", "--for", made.number, "--json", cwd=root).check_error("conflict", str(made.number))
    assert ichx("export", made.number, "--fold", 0, "--format", "torch-export", cwd=root).code == 0
    report = ichx("report", made.number, cwd=root)
    assert report.code == 0, report.err


def test_trials_have_the_members_of_their_experiment(project: Project, ichx_process: Program) -> None:
    made = sequence(project, 1, inputs=("logits",))
    search = ("--search", "sequence.width=4..8", "--trials", 2, "--fold", 0, "--device", "cpu")
    done = ichx_process("tune", made.number, *search, cwd=project.workspace.root)
    assert done.code == 0, done.err
    trials = project.store.trials(made.number)
    assert [(trial.members, trial.folds_done) for trial in trials] == [((1,), 1)] * 2
