"""Weights: files that fit, fit in part or not at all; files with code; and the memory of what folds started from."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from full_disk import run_with_limit
from torch import nn

from ichx.errors import IchxError
from ichx.plugins.contract import reference_recipe
from ichx.recipe_text import apply_settings
from ichx.training.weights import Start, choose_start, load_file, read_weights, remember_start, save_weights

RECIPE = reference_recipe("mine", "resnet18.tv_in1k", batch=8)
UNTRAINED = apply_settings(RECIPE, ["model.pretrained=false"])


def small() -> nn.Sequential:
    """Return two layers, 4 tensors."""
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def write(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)  # type: ignore[arg-type]
    else:
        torch.save(content, path)
    return path


def load(model: nn.Module, path: Path) -> str:
    notes: list[str] = []
    load_file(model, path, notes.append)
    (note,) = notes
    return note


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_whole_file(tmp_path: Path, name: str) -> None:
    given, model = small(), small()
    note = load(model, write(tmp_path / name, given.state_dict()))
    assert note == f"{name}: 4 of 4 tensors loaded"
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, given.state_dict()[key], rtol=0, atol=0)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module."])
def test_files_as_other_programs_write_them(tmp_path: Path, wrap: str) -> None:
    given = small().state_dict()
    content: dict[str, object] = {f"module.{key}": value for key, value in given.items()}
    if wrap != "module.":
        content = {wrap: dict(given), "epoch": 3}
    model = small()
    assert "4 of 4" in load(model, write(tmp_path / "w.pth", content))
    torch.testing.assert_close(model.state_dict()["1.bias"], given["1.bias"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_wrong_shapes_and_names_are_told(tmp_path: Path, name: str) -> None:
    content = small().state_dict() | {"1.weight": torch.zeros(1000, 4), "fc.bias": torch.zeros(3)}
    model = small()
    before = model.state_dict()["1.weight"].clone()
    note = load(model, write(tmp_path / name, content))
    assert note == f"{name}: 3 of 4 tensors loaded; random: 1.weight; not used: 1.weight, fc.bias"
    torch.testing.assert_close(model.state_dict()["1.weight"], before, rtol=0, atol=0)


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(IchxError, match=r"no tensor in .* fits this model"):
        load(small(), write(tmp_path / "w.pth", {"other": torch.zeros(2)}))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:  # type: ignore[override]
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.pkl"])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, name: str, form: str) -> None:
    trap, content = tmp_path / "executed", small().state_dict() | {"x": Trap(tmp_path / "executed")}
    if form == "plain":
        (tmp_path / name).write_bytes(pickle.dumps(Trap(trap)))
    else:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(IchxError, match="is refused") as caught:
        read_weights(tmp_path / name)
    assert "safetensors" in caught.value.remedy
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists(), "the trap works"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("keep", [0, 7, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, name: str, keep: float) -> None:
    path = write(tmp_path / name, {"weight": torch.rand(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(IchxError) as caught:
        read_weights(path)
    assert str(path) in caught.value.problem


def test_other_things_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "folder.pth").mkdir()
    for name, told in (("text.pth", "refused|cannot be read"), ("folder.pth", "cannot be read"), ("no.pth", "no weig")):
        with pytest.raises(IchxError, match=told):
            read_weights(tmp_path / name)
    with pytest.raises(IchxError, match="holds no state dict"):
        read_weights(write(tmp_path / "tensor.pth", torch.zeros(3)))


def test_saved_weights_come_back_with_what_they_are(tmp_path: Path) -> None:
    model = small()
    save_weights(tmp_path / "new" / "w.safetensors", model, {"plugin": "tiny", "fold": "1"})
    again = read_weights(tmp_path / "new" / "w.safetensors")
    assert {key: value.tolist() for key, value in again.items()} == {
        key: value.tolist() for key, value in model.state_dict().items()
    }
    with safetensors.safe_open(tmp_path / "new" / "w.safetensors", "pt") as handle:
        assert handle.metadata() == {"plugin": "tiny", "fold": "1"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_the_start_is_remembered(tmp_path: Path) -> None:
    assert choose_start(tmp_path, RECIPE, pretrained=None, weights=None).kind == "pretrained"
    assert choose_start(tmp_path, UNTRAINED, pretrained=None, weights=None).kind == "random"
    assert choose_start(tmp_path, UNTRAINED, pretrained=True, weights=None).kind == "pretrained"
    start = choose_start(tmp_path, RECIPE, pretrained=False, weights=None)
    assert start == Start("random")
    remember_start(tmp_path, start)
    assert json.loads((tmp_path / "start.json").read_text())["kind"] == "random"
    # Later folds start alike, without the option or with it.
    assert choose_start(tmp_path, RECIPE, pretrained=None, weights=None) == start
    assert choose_start(tmp_path, RECIPE, pretrained=False, weights=None) == start
    with pytest.raises(IchxError, match="started from random weights, not from pretrained weights"):
        choose_start(tmp_path, RECIPE, pretrained=True, weights=None)


def test_a_weights_file_is_remembered_by_its_content(tmp_path: Path) -> None:
    first = write(tmp_path / "first.safetensors", {"weight": torch.zeros(3)})
    other = write(tmp_path / "other.safetensors", {"weight": torch.ones(3)})
    home = tmp_path / "experiment"
    start = choose_start(home, RECIPE, pretrained=None, weights=first)
    assert (start.kind, start.path, len(start.sha256)) == ("file", str(first.resolve()), 64)
    remember_start(home, start)
    assert choose_start(home, RECIPE, pretrained=None, weights=None) == start
    with pytest.raises(IchxError, match=r"from the weights .*first.safetensors, not from the weights .*other"):
        choose_start(home, RECIPE, pretrained=None, weights=other)
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(first.read_bytes())
    assert choose_start(home, RECIPE, pretrained=None, weights=copied) == start
    first.write_bytes(other.read_bytes())
    with pytest.raises(IchxError, match="has changed since the first fold started from it"):
        choose_start(home, RECIPE, pretrained=None, weights=None)
    first.unlink()
    with pytest.raises(IchxError, match="cannot read the weights file"):
        choose_start(home, RECIPE, pretrained=None, weights=None)


def test_contradicting_options_and_missing_files(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(IchxError, match="contradict each other"):
        choose_start(tmp_path, RECIPE, pretrained=True, weights=file)
    with pytest.raises(IchxError, match="cannot read the weights file"):
        choose_start(tmp_path, RECIPE, pretrained=None, weights=tmp_path / "none.pth")


SCRIPT = """
from pathlib import Path
import torch
from ichx.errors import IchxError
from ichx.training.weights import Start, remember_start, save_weights
for write in (
    lambda: save_weights(Path("w.safetensors"), torch.nn.Linear(1000, 1000), {}),
    lambda: remember_start(Path("."), Start("file", "x" * 100_000)),
):
    try:
        write()
    except IchxError as error:
        print(error.problem, "|", error.remedy)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    for name in ("w.safetensors", "start.json"):
        (tmp_path / name).write_text("older")
    done = run_with_limit(64, "-c", SCRIPT, cwd=tmp_path)
    lines = done.out.splitlines()
    assert len(lines) == 2, done.err
    assert lines[0].startswith("cannot write the weights w.safetensors")
    assert lines[1].startswith("cannot write to .")
    assert all("free some space" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start.json", "w.safetensors"]
    assert (tmp_path / "w.safetensors").read_text() == "older"
