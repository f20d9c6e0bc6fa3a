"""Checkpoints: the last two are kept, a damaged one falls back to the one before, a full disk leaves the older one."""

import pickle
from pathlib import Path

import pytest
import torch
from full_disk import run_with_limit

from ichx.errors import RunEndedError, StorageError
from ichx.training.checkpoint import Checkpoints, Position, load_newest, save_checkpoint
from ichx.training.checkpoint_files import checkpoints, remove_checkpoints, remove_drafts


def state(value: float) -> dict[str, object]:
    return {"fits": "this", "model": {"weight": torch.full((8,), value)}, "scheduler": {"milestones": {1: 1}}}


def notes_of(folder: Path, fits: str = "this") -> tuple[object, list[str]]:
    notes: list[str] = []
    found = load_newest(folder, fits, notes.append)
    return (None if found is None else (found[0], found[1]["model"]["weight"][0].item())), notes


def test_the_last_two_are_kept_in_the_order_of_training(tmp_path: Path) -> None:
    for place, position in enumerate([(0, 1), (0, 2), (0, 11), (1, 1), (1, 1, 9), (1, 1, 120), (2, 1)]):
        save_checkpoint(tmp_path / "fold", Position(*position), state(place))
        assert notes_of(tmp_path / "fold") == ((Position(*position), place), [])
    assert [path.name for path in sorted((tmp_path / "fold").iterdir())] == [
        "checkpoint-001-00001-000000120.pt",
        "checkpoint-002-00001-000000000.pt",
    ]


def test_folders_without_checkpoints(tmp_path: Path) -> None:
    assert notes_of(tmp_path / "nowhere") == (None, [])


@pytest.mark.parametrize("harm", ["truncated", "empty", "text", "flipped", "pickle"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_note(tmp_path: Path, harm: str) -> None:
    save_checkpoint(tmp_path, Position(0, 1), state(1))
    save_checkpoint(tmp_path, Position(0, 2), state(2))
    newest = checkpoints(tmp_path)[-1]
    content = newest.read_bytes()
    harmed = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"not a checkpoint at all\n" * 20,
        "flipped": content[:-40] + bytes(40),
        "pickle": pickle.dumps({"stage": 0, "epoch": 9, "batch": 0, "fits": "this", "code": Path("x")}),
    }
    newest.write_bytes(harmed[harm])
    found, notes = notes_of(tmp_path)
    assert found == (Position(0, 1), 1.0)
    assert len(notes) == 1
    assert notes[0].startswith("checkpoint-000-00002-000000000.pt is damaged")


def test_without_a_valid_checkpoint_training_starts_from_scratch(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, Position(0, epoch), state(epoch))
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    found, notes = notes_of(tmp_path)
    assert found is None
    assert len(notes) == 2


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Position(0, 1), state(1))
    found, notes = notes_of(tmp_path, fits="another")
    assert found is None
    assert "belongs to another training or other data" in notes[0]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    torch.save(
        {"stage": 0, "epoch": 1, "batch": 0, "fits": "this", "model": Trap()},
        tmp_path / "checkpoint-000-00001-000000000.pt",
    )
    found, notes = notes_of(tmp_path)
    assert found is None
    assert len(notes) == 1
    assert not (tmp_path / "executed").exists()


def test_a_finished_fold_has_no_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Position(0, 1), state(1))
    (tmp_path / "checkpoint-000-00002-000000000.77.tmp").write_bytes(b"half")
    (tmp_path / "weights.safetensors").write_bytes(b"mine")
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


SCRIPT = """
import sys
from pathlib import Path
import torch
from ichx.errors import IchxError
from ichx.training.checkpoint import Position, save_checkpoint
try:
    save_checkpoint(Path("fold"), Position(0, 2), {"fits": "this", "model": {"weight": torch.ones(1_000_000)}})
except IchxError as error:
    print(error.problem, "|", error.remedy)
"""


def test_a_full_disk_leaves_the_older_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "fold", Position(0, 1), state(1))
    done = run_with_limit(1024, "-c", SCRIPT, cwd=tmp_path)
    assert done.code == 0, done.err
    name = "fold/checkpoint-000-00002-000000000.pt"
    assert name in done.out
    assert "File too large" in done.out
    assert [path.name for path in (tmp_path / "fold").iterdir()] == ["checkpoint-000-00001-000000000.pt"]
    assert notes_of(tmp_path / "fold") == ((Position(0, 1), 1.0), [])


def test_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in ("checkpoint-000-00002-000000007.77.tmp", "weights.tmp", ".oof-identity.parquet.0a1b"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "oof-identity.parquet").write_bytes(b"mine")
    remove_drafts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["oof-identity.parquet"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        save_checkpoint(tmp_path / "file", Position(0, 1), state(1))


def test_checkpoints_of_another_training_do_not_push_out_new_ones(tmp_path: Path) -> None:
    for batch in (8000, 9000):
        save_checkpoint(tmp_path, Position(2, 9, batch), {"fits": "other"})
    for batch in (1, 2, 3):
        save_checkpoint(tmp_path, Position(0, 0, batch), {"fits": "mine"})
    found = load_newest(tmp_path, "mine", lambda _: None)
    assert found is not None
    assert found[0] == Position(0, 0, 3)


def test_a_failed_write_of_a_lost_fold_reports_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RunEndedError("lost", "rerun")

    def full(*_: object) -> None:
        raise StorageError("Cannot write", "Free some space")

    monkeypatch.setattr("ichx.training.checkpoint.save_checkpoint", full)
    with pytest.raises(RunEndedError):
        Checkpoints(tmp_path, {}, check=check).save()
