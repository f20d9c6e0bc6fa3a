"""Weights: files that fit, fit in part or not at all; files with code; and the memory of what folds started from."""

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from full_disk import run_with_limit
from timm.models import adapt_input_conv
from torch import nn

from ichx.errors import ChangedDataError, ConflictError, CorruptFileError, IchxError, InvalidInputError, NotFoundError
from ichx.plugins import load_registry
from ichx.plugins.contract import reference_recipe
from ichx.recipe_text import apply_settings
from ichx.training.weights import (
    Start,
    choose_start,
    load_exactly,
    load_file,
    read_weights,
    remember_start,
    save_weights,
)

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
def test_a_complete_file(tmp_path: Path, name: str) -> None:
    given, model = small(), small()
    note = load(model, write(tmp_path / name, given.state_dict()))
    assert note == f"{name}: 4 of 4 tensors loaded"
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, given.state_dict()[key], rtol=0, atol=0)


class Net(nn.Module):
    """A small network of the usual form: a first convolution, a body, a head of six."""

    def __init__(self, channels: int = 3, classes: int = 6, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.fc(self.body(self.norm(self.stem(x))).mean((2, 3)))
        return features


TENSORS = len(Net().state_dict())


def assert_equal(model: nn.Module, given: dict[str, torch.Tensor], but: tuple[str, ...] = ()) -> None:
    for name, value in model.state_dict().items():
        if name not in but:
            torch.testing.assert_close(value, given[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ("state_dict", {"state_dict": 0, "epoch": 3, "optimizer": {"state": {}}}),
        ("model", {"model": 0, "lr": [1e-3]}),
        ("model_state_dict", {"model_state_dict": 0, "loss": 0.3}),
        ("ema", {"ema": 0, "epoch": 1}),
        ("ema", {"model": 1, "ema": 0}),
        ("state_dict_ema", {"state_dict": 1, "state_dict_ema": 0}),
        ("model", {"ema": {"decay": 0.999}, "model": 0}),
        ("model/state_dict", {"model": {"state_dict": 0, "name": "net"}}),
        ("state_dict", {"state_dict": 0, "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99), out=None)}),  # timm
        ("state_dict", {"state_dict": 0, "best": np.float64(0.1), "last": np.float32(0.2), "steps": np.int64(9)}),
    ],
)
def test_checkpoints_of_other_programs(tmp_path: Path, entry: str, content: dict[str, object]) -> None:
    """0 stands for the weights that count, 1 for others."""
    given, other, model = Net().state_dict(), Net().state_dict(), Net()

    def filled(value: object) -> object:
        if isinstance(value, dict):
            return {name: filled(inner) for name, inner in value.items()}
        return [given, other][value] if type(value) is int and value in (0, 1) else value

    content = {key: value if key == "epoch" else filled(value) for key, value in content.items()}
    note = load(model, write(tmp_path / "w.pth", content))
    assert note == f"w.pth, entry {entry}: {TENSORS} of {TENSORS} tensors loaded"
    assert_equal(model, given)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "backbone.",
        "encoder.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.model.backbone.",
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, name: str, prefix: str) -> None:
    given, model = Net().state_dict(), Net()
    content = {f"{prefix}{key}": value for key, value in given.items()}
    assert load(model, write(tmp_path / name, content)) == f"{name}: {TENSORS} of {TENSORS} tensors loaded"
    assert_equal(model, given)


def test_a_backbones_weights_fit_the_network_that_wraps_it(tmp_path: Path) -> None:
    given = Net().state_dict()
    wrapped = nn.ModuleDict({"encoder": Net(), "last": nn.Linear(8, 6)})
    note = load(wrapped, write(tmp_path / "w.pth", given))
    assert note == f"w.pth: {TENSORS} of {TENSORS + 2} tensors loaded; the head is random: last.weight, last.bias"
    assert_equal(wrapped["encoder"], given)


def test_a_backbones_weights_start_the_encoder_of_a_network_with_a_large_decoder(tmp_path: Path) -> None:
    given = Net().state_dict()
    parts = {"encoder": nn.ModuleDict({"model": Net()}), "decoder": nn.Linear(100, 100), "last": nn.Linear(8, 6)}
    model = nn.ModuleDict(parts)
    note = load(model, write(tmp_path / "w.pth", given))
    assert f"{TENSORS} of {TENSORS + 4} tensors loaded, 100 % of the backbone's weights" in note
    assert "random: decoder.weight, decoder.bias" in note
    assert_equal(model.get_submodule("encoder.model"), given)


def test_prefixes_stay_where_the_model_has_them(tmp_path: Path) -> None:
    """A network with a part called `encoder` beside one of the same names: nothing is mixed up."""
    model = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3), "head": nn.Linear(3, 6)})
    given = nn.ModuleDict(
        {"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3), "head": nn.Linear(3, 6)}
    ).state_dict()
    content = {f"model.{key}": value for key, value in given.items()} | {"weight": torch.ones(3, 3)}
    assert load(model, write(tmp_path / "w.pth", content)) == "w.pth: 6 of 6 tensors loaded; not used: weight"
    assert_equal(model, given)


@pytest.mark.parametrize(("given_channels", "channels"), [(3, 9), (3, 5), (3, 1), (1, 3), (9, 3), (5, 3), (1, 7)])
def test_the_first_convolutions_channels_are_adapted(tmp_path: Path, given_channels: int, channels: int) -> None:
    given, model = Net(given_channels).eval(), Net(channels).eval()
    note = load(model, write(tmp_path / "w.safetensors", given.state_dict()))
    assert note == (
        f"w.safetensors: {TENSORS} of {TENSORS} tensors loaded; "
        f"stem.weight adapted from {given_channels} to {channels} channels"
    )
    assert_equal(model, given.state_dict(), but=("stem.weight",))
    grey = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        first, second = given(grey.expand(2, given_channels, 8, 8)), model(grey.expand(2, channels, 8, 8))
    if given_channels % channels == 0 or channels % given_channels == 0 or channels < given_channels:
        torch.testing.assert_close(first, second)
    if given_channels == 3:
        expected = adapt_input_conv(channels, given.state_dict()["stem.weight"])
        torch.testing.assert_close(model.state_dict()["stem.weight"], expected)


def test_half_precision_weights_are_adapted_in_float32(tmp_path: Path) -> None:
    content = {name: value.half() if value.is_floating_point() else value for name, value in Net().state_dict().items()}
    model = Net(9)
    assert "adapted from 3 to 9" in load(model, write(tmp_path / "w.safetensors", content))
    assert model.state_dict()["stem.weight"].dtype == torch.float32
    expected = content["stem.weight"].float().repeat(1, 3, 1, 1) / 3
    torch.testing.assert_close(model.state_dict()["stem.weight"], expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("classes", [1000, 1])
def test_a_head_of_other_classes_stays_random(tmp_path: Path, classes: int) -> None:
    given, model = Net(classes=classes).state_dict(), Net()
    before = model.fc.weight.detach().clone()
    note = load(model, write(tmp_path / "w.pth", given))
    assert note == (
        f"w.pth: {TENSORS - 2} of {TENSORS} tensors loaded; the head is random: fc.weight, fc.bias; "
        "not used: fc.weight, fc.bias"
    )
    assert_equal(model, given, but=("fc.weight", "fc.bias"))
    assert torch.equal(model.fc.weight, before)


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_byobnet", "tiny_efficientnet", "tiny_fine"])
def test_networks_of_the_zoo_take_each_others_channels(tmp_path: Path, name: str) -> None:
    """Weights of three channels and a thousand classes, as the hub has them, start a network of nine channels."""
    plugin = load_registry().get(name)
    nine = ["input.neighbours=1", "input.centre=series", "input.windows=[[40,80],[80,200],[600,2800]]"]
    three, model = plugin.build(plugin.recipe, False), plugin.build(apply_settings(plugin.recipe, nine), False)
    content = dict(three.state_dict())
    *_, head = (name for name, module in three.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    for part in ("weight", "bias"):
        content[f"{head}.{part}"] = torch.zeros(1000, *content[f"{head}.{part}"].shape[1:])
    note = load(model, write(tmp_path / "w.safetensors", content))
    total = len(content)
    assert f"{total - 2} of {total} tensors loaded" in note
    assert "adapted from 3 to 9 channels" in note
    assert f"the head is random: {head}.weight, {head}.bias" in note
    assert "; random:" not in note


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_wrong_shapes_and_names_are_reported(tmp_path: Path, name: str) -> None:
    content = Net().state_dict() | {"norm.weight": torch.zeros(9), "pool.bias": torch.zeros(3)}
    model = Net()
    before = model.state_dict()["norm.weight"].clone()
    note = load(model, write(tmp_path / name, content))
    assert note == (
        f"{name}: {TENSORS - 1} of {TENSORS} tensors loaded, 99 % of the backbone's weights; random: norm.weight; "
        "not used: norm.weight, pool.bias"
    )
    torch.testing.assert_close(model.state_dict()["norm.weight"], before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "share"),
    [
        ({"other": torch.zeros(2)}, "0 %"),
        (Net(width=7).state_dict(), "0 %"),  # the same names, other widths
        ({name: value for name, value in Net().state_dict().items() if name.startswith(("fc", "stem"))}, "26 %"),
    ],
)
def test_under_half_a_backbone_is_refused_and_nothing_is_loaded(
    tmp_path: Path, content: dict[str, torch.Tensor], share: str
) -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InvalidInputError, match=share):
        load(model, write(tmp_path / "w.pth", content))
    assert_equal(model, before)


def test_final_weights_are_loaded_exactly_or_not_at_all(tmp_path: Path) -> None:
    given, model = Net().state_dict(), Net()
    load_exactly(model, write(tmp_path / "w.safetensors", given))
    assert_equal(model, given)
    for other in ({f"module.{name}": value for name, value in given.items()}, Net(9).state_dict()):
        with pytest.raises(CorruptFileError, match="w.safetensors"):
            load_exactly(model, write(tmp_path / "w.safetensors", other))


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
    with pytest.raises(CorruptFileError, match=name) as caught:
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


def test_files_without_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "folder.pth").mkdir()
    for name, kind in (("text.pth", CorruptFileError), ("folder.pth", CorruptFileError), ("no.pth", NotFoundError)):
        with pytest.raises(kind, match=name):
            read_weights(tmp_path / name)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CorruptFileError, match="folder.safetensors"):
        read_weights(tmp_path / "folder.safetensors")
    itself: dict[str, object] = {}
    itself["model"] = itself
    for content in (torch.zeros(3), {}, {"model": {}}, itself, [torch.zeros(3)], {"x": torch.zeros(3).to_sparse()}):
        with pytest.raises(CorruptFileError, match="none.pth"):
            read_weights(write(tmp_path / "none.pth", content))


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_bytes_changed_anywhere_are_read_or_refused(tmp_path: Path, form: str) -> None:
    """Of a damaged file, torch's reader raises almost anything; a user gets a line."""
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        write(path, small().state_dict())
    else:
        torch.save(small().state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused: list[str] = []
    for _ in range(300):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=int(rng.integers(1, 9))):
            changed[place] = int(rng.integers(256))
        path.write_bytes(changed)
        try:
            assert all(isinstance(value, torch.Tensor) for value in read_weights(path).values())
        except IchxError as error:
            refused.append(error.problem)
    assert len(refused) > 100
    assert all(str(path) in problem and "\n" not in problem for problem in refused)


def test_saved_weights_have_metadata(tmp_path: Path) -> None:
    model = small()
    save_weights(tmp_path / "new" / "w.safetensors", model, {"plugin": "tiny", "fold": "1"})
    again = read_weights(tmp_path / "new" / "w.safetensors")
    assert {key: value.tolist() for key, value in again.items()} == {
        key: value.tolist() for key, value in model.state_dict().items()
    }
    with safetensors.safe_open(tmp_path / "new" / "w.safetensors", "pt") as handle:
        assert handle.metadata() == {"plugin": "tiny", "fold": "1"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_the_start_weights_are_recorded(tmp_path: Path) -> None:
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
    with pytest.raises(ConflictError, match=r"random weights.*pretrained weights"):
        choose_start(tmp_path, RECIPE, pretrained=True, weights=None)


def test_a_weights_file_is_identified_by_its_content(tmp_path: Path) -> None:
    first = write(tmp_path / "first.safetensors", {"weight": torch.zeros(3)})
    other = write(tmp_path / "other.safetensors", {"weight": torch.ones(3)})
    home = tmp_path / "experiment"
    start = choose_start(home, RECIPE, pretrained=None, weights=first)
    assert (start.kind, start.path, len(start.sha256)) == ("file", str(first.resolve()), 64)
    remember_start(home, start)
    assert choose_start(home, RECIPE, pretrained=None, weights=None) == start
    with pytest.raises(ConflictError, match=r"first.safetensors.*other.safetensors"):
        choose_start(home, RECIPE, pretrained=None, weights=other)
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(first.read_bytes())
    moved = choose_start(home, RECIPE, pretrained=None, weights=copied)
    assert (moved.sha256, moved.path) == (start.sha256, str(copied.resolve())), "the same weights in another place"
    first.write_bytes(other.read_bytes())
    with pytest.raises(ChangedDataError, match="first.safetensors"):
        choose_start(home, RECIPE, pretrained=None, weights=None)
    first.unlink()
    with pytest.raises(ChangedDataError, match="first.safetensors") as caught:
        choose_start(home, RECIPE, pretrained=None, weights=None)
    assert start.sha256 in caught.value.remedy


def test_contradicting_options_and_missing_files(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(InvalidInputError, match=r"--weights.*--pretrained"):
        choose_start(tmp_path, RECIPE, pretrained=True, weights=file)
    with pytest.raises(NotFoundError, match="none.pth"):
        choose_start(tmp_path, RECIPE, pretrained=None, weights=tmp_path / "none.pth")


SCRIPT = """
from pathlib import Path
import torch
from ichx.errors import ChangedDataError, ConflictError, CorruptFileError, IchxError, InvalidInputError, NotFoundError
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


def test_a_full_disk_leaves_the_old_files(tmp_path: Path) -> None:
    for name in ("w.safetensors", "start.json"):
        (tmp_path / name).write_text("older")
    done = run_with_limit(64, "-c", SCRIPT, cwd=tmp_path)
    lines = done.out.splitlines()
    assert len(lines) == 2, done.err
    assert "w.safetensors" in lines[0]
    assert "start.json" in lines[1]
    assert all("File too large" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start.json", "w.safetensors"]
    assert (tmp_path / "w.safetensors").read_text() == "older"
