"""The names of an experiment's files are persisted: stores, archives and users' scripts refer to them."""

from pathlib import Path

from ichx.experiment_files import CHECKPOINT_PATTERN, ExperimentFiles, FoldFiles, checkpoint_name
from ichx.workspace import init_workspace


def test_names_stay_as_they_are_stored(tmp_path: Path) -> None:
    files = init_workspace(tmp_path).experiment_files(6)
    fold = files.fold(2)
    paths = [
        files.start,
        files.report,
        files.export(".onnx"),
        fold.weights,
        fold.log,
        fold.code_diff,
        fold.not_finite,
        fold.predictions("oof", "identity"),
        fold.predictions("test", "hflip", "rsna-test", 3),
    ]
    assert [path.relative_to(tmp_path / "experiments" / "6").as_posix() for path in paths] == [
        "start.json",
        "report.html",
        "export/experiment-6.onnx",
        "fold-2/weights.safetensors",
        "fold-2/run.log",
        "fold-2/code.diff",
        "fold-2/nonfinite.json",
        "fold-2/oof-identity.parquet",
        "fold-2/test-rsna-test-v3-hflip.parquet",
    ]


def test_checkpoints_sort_by_position() -> None:
    names = [checkpoint_name(0, 2, 0), checkpoint_name(0, 10, 0), checkpoint_name(1, 1, 17)]
    assert names == sorted(names)
    assert names[-1] == "checkpoint-001-00001-000000017.pt"
    assert all(Path(name).match(CHECKPOINT_PATTERN) for name in names)


def test_folds_with_a_folder_are_listed_by_number(tmp_path: Path) -> None:
    for name in ("fold-10", "fold-2", "fold-x", "export"):
        (tmp_path / name).mkdir()
    assert list(ExperimentFiles(tmp_path).existing_folds().items()) == [
        (2, FoldFiles(tmp_path / "fold-2")),
        (10, FoldFiles(tmp_path / "fold-10")),
    ]


def test_sizes_add_up_the_files_of_all_folds(tmp_path: Path) -> None:
    names = ("start.json", "fold-0/run.log", "fold-1/run.log", "fold-1/checkpoint-000-00001-000000000.pt")
    for size, name in enumerate(names, 1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    assert ExperimentFiles(tmp_path).sizes() == {"start.json": 1, "fold-*/run.log": 5, "fold-*/checkpoint-*.pt": 4}
