"""Nothing trained is lost with the store: folders describe themselves, are never reused, and gc spares them."""

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Program
from permissions import permissions_enforced

from ichx.errors import ConflictError, StorageError
from ichx.experiments.folder_record import check_folder, describe_again, describe_all
from ichx.experiments.garbage import Garbage
from ichx.experiments.gc import delete
from ichx.experiments.run import run_experiment
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


def snapshot(root: Path) -> dict[str, bytes]:
    folder = root / "experiments"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose_store(root: Path) -> None:
    for file in (root / "db").glob("ichx.db*"):
        file.unlink()


def test_a_lost_store_is_rebuilt_from_the_folders(trained_copy: Path, ichx: Program) -> None:
    ichx("exp", "tag", 1, "best", cwd=trained_copy)
    ichx("exp", "note", 1, "weak on epidural", cwd=trained_copy)
    before = json.loads(ichx("exp", "list", "--json", cwd=trained_copy).out)
    histories = [ichx("exp", "history", n, "--csv", cwd=trained_copy).out for n in (1, 2, 3)]
    files = snapshot(trained_copy)
    lose_store(trained_copy)
    for command in (("exp", "list"), ("run", 1), ("gc", "--yes"), ("exp", "new", "--plugin", "tiny_resnet")):
        done = ichx(*command, cwd=trained_copy)
        assert done.code == 1, command
        assert "store rebuild" in done.err
    assert snapshot(trained_copy) == files
    done = ichx("store", "rebuild", "--json", cwd=trained_copy)
    assert done.code == 0, done.err
    assert json.loads(done.out) == {
        "versions": ["ph v1", "ph-test v1"],
        "experiments": [1, 2, 3],
        "ensembles": [],
        "reviews": 0,
        "problems": [],
    }
    after = json.loads(ichx("exp", "list", "--json", cwd=trained_copy).out)
    assert after == before
    assert [ichx("exp", "history", n, "--csv", cwd=trained_copy).out for n in (1, 2, 3)] == histories
    assert json.loads(ichx("exp", "note", 1, "--json", cwd=trained_copy).out)[0]["text"] == "weak on epidural"
    assert ichx("audit", 1, cwd=trained_copy).code == 0
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == []
    assert "loss" not in ichx("run", 1, cwd=trained_copy).err, "nothing is trained again"
    assert json.loads(ichx("exp", "new", "--plugin", "tiny_resnet", "--json", cwd=trained_copy).out)[0]["number"] == 4
    assert json.loads(ichx("store", "rebuild", "--json", cwd=trained_copy).out)["experiments"] == []
    assert {name: content for name, content in snapshot(trained_copy).items() if "weights" in name} == {
        name: content for name, content in files.items() if "weights" in name
    }


def test_a_rerun_completes_the_record_of_a_killed_run(project: Project) -> None:
    record = project.workspace.experiment_files(1).record
    describe_again(project, [1])
    run_experiment(project, 1)
    complete = json.loads(record.read_text())
    assert len(complete["predictions"]) > 1
    record.write_text(json.dumps(complete | {"predictions": complete["predictions"][:1]}))
    assert run_experiment(project, 1).trained == ()
    assert json.loads(record.read_text()) == complete


def test_an_older_backup_is_completed_from_the_folders(trained_copy: Path, tmp_path: Path, ichx: Program) -> None:
    ichx("store", "backup", tmp_path / "backup.db", cwd=trained_copy)
    new = ("exp", "new", "--plugin", "tiny_byobnet", "--size", 32, "--set", "precision=fp32", "--set", "seed=9")
    stages = [x for n in ("balanced", "rebalanced", "full") for x in ("--set", f"stage.{n}.epochs=1")]
    assert ichx(*new, *stages, cwd=trained_copy).code == 0
    assert ichx("run", 4, "--fold", 0, "--device", "cpu", cwd=trained_copy).code == 0
    before = json.loads(ichx("exp", "list", "--json", cwd=trained_copy).out)
    weights = (trained_copy / "experiments" / "4" / "fold-0" / "weights.safetensors").read_bytes()
    lose_store(trained_copy)
    shutil.copy(tmp_path / "backup.db", trained_copy / "db" / "ichx.db")
    assert ichx("exp", "new", "--plugin", "tiny_resnet", cwd=trained_copy).code == 1
    assert ichx("store", "adopt", cwd=trained_copy).code == 0
    # Adopted, the store still does not know experiment 4, and gives its number to nobody.
    assert json.loads(ichx("exp", "new", "--plugin", "tiny_resnet", "--json", cwd=trained_copy).out)[0]["number"] == 5
    done = ichx("gc", "--yes", cwd=trained_copy)
    assert str(trained_copy / "experiments" / "4") in done.err.replace("\n", "")
    assert (trained_copy / "experiments" / "4" / "fold-0" / "weights.safetensors").read_bytes() == weights
    assert json.loads(ichx("store", "rebuild", "--json", cwd=trained_copy).out)["experiments"] == [4]
    after = [e for e in json.loads(ichx("exp", "list", "--json", cwd=trained_copy).out) if e["number"] != 5]
    assert after == before


def test_a_run_does_not_write_into_the_folder_of_another_experiment(project: Project) -> None:
    new = project.store.experiment(1)
    (draft,) = project.store.experiments(limit=1)
    assert draft.number == 3
    folder = project.workspace.experiment_dir(1)
    shutil.rmtree(folder)
    shutil.copytree(project.workspace.experiment_dir(2), folder)
    before = snapshot(project.workspace.root)
    with pytest.raises(ConflictError, match=f"{folder}.* 2"):
        run_experiment(project, 1)
    describe_again(project, [1])
    assert snapshot(project.workspace.root) == before
    (folder / "experiment.json").unlink()  # as the folder of an older version: its predictions differ
    with pytest.raises(ConflictError, match="experiments/1/fold-0"):
        check_folder(project, new)


def test_a_folder_that_cannot_be_written_gets_no_record_and_the_others_do(project: Project) -> None:
    records = [project.workspace.experiment_files(number).record for number in (1, 2, 3)]
    for record in records:
        record.unlink()
    records[1].parent.chmod(0o555)
    with permissions_enforced():
        describe_all(project)
    records[1].parent.chmod(0o755)
    assert [record.exists() for record in records] == [True, False, True]


def test_the_month_in_the_trash_begins_before_the_folder_is_moved(project: Project) -> None:
    """A process that is killed right after the move leaves a folder that looks new."""
    folder = project.workspace.experiment_dir(2)
    os.utime(folder, (0, 0))
    project.workspace.trash_dir.mkdir(mode=0o555)
    with permissions_enforced(), pytest.raises(StorageError, match=str(folder)):
        delete(project, Garbage("orphaned folder", folder, 0, "unknown", move=True))
    assert time.time() - folder.stat().st_mtime < 3600


def test_a_training_without_a_run_in_the_store_is_not_claimed(trained_copy: Path, ichx: Program) -> None:
    (trained_copy / "experiments" / "4").mkdir()
    ichx("exp", "new", "--plugin", "tiny_resnet", cwd=trained_copy)
    shutil.copytree(trained_copy / "experiments" / "1" / "fold-0", trained_copy / "experiments" / "4" / "fold-0")
    before = snapshot(trained_copy)
    ichx("run", 4, "--json", cwd=trained_copy).check_error("conflict", "experiments/4")
    ichx("run", 4, "--jobs", 2, "--json", cwd=trained_copy).check_error("conflict", "experiments/4")
    assert snapshot(trained_copy) == before


def test_adopting_a_store_whose_experiments_have_other_folders_is_refused(
    trained_copy: Path, dataset_root: Path, tmp_path: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(dataset_root, tmp_path / "other"))
    ichx("exp", "new", "--plugin", "tiny_resnet", cwd=other)
    monkeypatch.setenv("ICHX_STORE", str(other / "db" / "ichx.db"))
    done = ichx("store", "adopt", cwd=trained_copy)
    assert done.code == 1
    assert str(trained_copy / "experiments" / "1") in done.err.replace("\n", "")
    monkeypatch.delenv("ICHX_STORE")
    assert ichx("exp", "list", cwd=trained_copy).code == 0
    assert ichx("exp", "list", cwd=other).code == 0


def test_gc_moves_an_unknown_training_to_the_trash_for_a_month(trained_copy: Path, ichx: Program) -> None:
    """Here the store is older than the folder: it was copied in, or its deletion was interrupted."""
    day = 24 * 3600
    with open_store(open_workspace(trained_copy)) as store:
        store.trash([2])
        store.purge(2)
        since = datetime.now(UTC) - timedelta(days=3)
        store.set_setting("workspace", store.setting("workspace") | {"since": since.isoformat()})
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == [], "another process may be importing it"
    for path in (trained_copy / "experiments" / "2").rglob("*"):
        os.utime(path, (time.time() - 2 * day,) * 2)
    (found,) = json.loads(ichx("gc", "--json", cwd=trained_copy).out)
    assert (found["kind"], Path(found["path"]).name, found["move"]) == ("orphaned folder", "2", True)
    assert ichx("gc", "--yes", cwd=trained_copy).code == 0
    trashed = trained_copy / "trash" / "experiments-2"
    assert (trashed / "fold-0" / "weights.safetensors").is_file()
    assert not (trained_copy / "experiments" / "2").exists()
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == []
    month_ago = time.time() - 31 * day
    os.utime(trashed, (month_ago, month_ago))
    (found,) = json.loads(ichx("gc", "--json", cwd=trained_copy).out)
    assert (found["path"], found["move"]) == (str(trashed), False)
    assert ichx("gc", "--yes", cwd=trained_copy).code == 0
    assert not trashed.exists()


def test_gc_deletes_nothing_in_the_folder_of_another_experiment(trained_copy: Path, ichx: Program) -> None:
    experiments = trained_copy / "experiments"
    assert ichx("exp", "rm", 2, cwd=trained_copy).code == 0
    (found,) = json.loads(ichx("gc", "--json", cwd=trained_copy).out)
    assert found["path"] == str(experiments / "2")
    shutil.rmtree(experiments / "2")
    shutil.copytree(experiments / "1", experiments / "2")
    shutil.rmtree(experiments / "3")
    shutil.copytree(experiments / "1", experiments / "3")
    (experiments / "3" / "fold-0" / "checkpoint-002-00001-000000000.pt").write_bytes(b"a checkpoint")
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == []
    ichx("predict", 3, experiments, "--json", cwd=trained_copy).check_error("conflict", "experiments/3")


def test_gc_keeps_the_checkpoint_of_a_fold_whose_weights_are_gone(trained_copy: Path, ichx: Program) -> None:
    fold = trained_copy / "experiments" / "1" / "fold-0"
    checkpoint = fold / "checkpoint-002-00001-000000000.pt"
    checkpoint.write_bytes(b"a checkpoint")
    assert [Path(g["path"]) for g in json.loads(ichx("gc", "--json", cwd=trained_copy).out)] == [checkpoint]
    (fold / "weights.safetensors").rename(fold / "weights.bak")
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == []


def test_a_damaged_record_is_one_problem_and_the_rest_is_registered(trained_copy: Path, ichx: Program) -> None:
    (trained_copy / "experiments" / "1" / "experiment.json").write_text("{")
    record = trained_copy / "experiments" / "2" / "experiment.json"
    index = json.loads(record.read_text())
    del index["runs"]
    record.write_text(json.dumps(index))
    shutil.copytree(trained_copy / "datasets" / "ph" / "v1", trained_copy / "datasets" / "ph" / "v2")
    (trained_copy / "datasets" / "ph" / "v2" / "version.json").write_text("[")
    lose_store(trained_copy)
    done = ichx("store", "rebuild", "--json", cwd=trained_copy)
    found = json.loads(done.out)
    assert (done.code, found["experiments"]) == (1, [3])
    damaged = ("datasets/ph/v2", "experiments/1", "experiments/2")
    assert [place in problem for place, problem in zip(damaged, found["problems"], strict=True)] == [True] * 3


def test_ensembles_are_rebuilt_from_their_folders(trained_copy: Path, ichx: Program) -> None:
    for method in ("convex", "stack"):
        assert ichx("ensemble", "--members", "1,2", "--method", method, cwd=trained_copy).code == 0
    before = json.loads(ichx("ensemble", "list", "--json", cwd=trained_copy).out)
    lose_store(trained_copy)
    report = json.loads(ichx("store", "rebuild", "--json", cwd=trained_copy).out)
    assert (report["experiments"], report["ensembles"], report["problems"]) == ([1, 2, 3], [1, 2], [])
    after = json.loads(ichx("ensemble", "list", "--json", cwd=trained_copy).out)
    assert [one["number"] for one in after] == [one["number"] for one in before]
    for old, new in zip(before, after, strict=True):
        assert {name: new[name] for name in ("tta", "method", "folds") if name in new} == {
            name: old[name] for name in ("tta", "method", "folds") if name in old
        }
        assert new["score"] == pytest.approx(old["score"], abs=1e-12)
        assert new["nested_score"] == pytest.approx(old["nested_score"], abs=1e-5)
    assert ichx("audit", "--ensemble", 2, cwd=trained_copy).code == 0
    assert json.loads(ichx("store", "rebuild", "--json", cwd=trained_copy).out)["ensembles"] == []
    assert json.loads(ichx("ensemble", "--members", "1,2", "--json", cwd=trained_copy).out)["ensemble"]["number"] == 3


def test_an_ensemble_whose_members_differ_is_a_problem(trained_copy: Path, ichx: Program) -> None:
    assert ichx("ensemble", "--members", "1,2", "--method", "convex", cwd=trained_copy).code == 0
    lose_store(trained_copy)
    weights = open_workspace(trained_copy).experiment_files(1).fold(0).weights
    weights.write_bytes(weights.read_bytes()[:-4] + b"0000")
    done = ichx("store", "rebuild", "--json", cwd=trained_copy)
    report = json.loads(done.out)
    assert (done.code, report["ensembles"]) == (1, [])
    (problem,) = report["problems"]
    assert "the weights of fold 0 of experiment 1 have changed" in problem
    (open_workspace(trained_copy).ensemble_dir(1) / "model.json").write_text("{")
    (problem,) = json.loads(ichx("store", "rebuild", "--json", cwd=trained_copy).out)["problems"]
    assert "model.json is invalid" in problem
