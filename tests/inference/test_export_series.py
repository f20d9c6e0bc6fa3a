"""Exported sequence experiments: the same predictions from the members' outputs, in other programs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ichx.errors import InvalidInputError
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.inference.export import ExportRequest, export_experiment
from ichx.inference.export_series import places
from ichx.inference.export_slices import sample
from ichx.inference.series_networks import open_heads
from ichx.inference.trained import InferenceOptions, find_trained
from ichx.project import Project
from ichx.recipe import InputRecipe
from ichx.sequences.data import SequenceData
from ichx.sequences.feed import SequenceFeed

pytestmark = pytest.mark.slow

TINY = ("stage.full.epochs=2", "sequence.width=4", "sequence.parts=2", "batch=4")
LENGTHS = (1, 2, 5, 30, 64)


def series_of_logits(members: int) -> SequenceData:
    """Return series of several lengths with logits of `members`."""
    rng = np.random.default_rng(3)
    ends = np.cumsum(LENGTHS)
    count = int(ends[-1])
    position = np.concatenate([np.sort(rng.uniform(-80, 90, length)) for length in LENGTHS])
    return SequenceData(
        series=[np.arange(end - length, end) for end, length in zip(ends, LENGTHS, strict=True)],
        slice_ids=np.array([f"s{i}" for i in range(count)], object),
        labels=np.full((count, 6), np.nan),
        position=position,
        study=np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        logits=rng.normal(-3, 2, (count, members, 6)).astype(np.float32),
    )


def padded(data: SequenceData, values: np.ndarray) -> np.ndarray:
    """Return values of slices as (series, 64, ...), 0 beyond the ends."""
    result = np.zeros((len(data.series), 64, *values.shape[1:]), np.float32)
    for number, rows in enumerate(data.series):
        result[number, : len(rows)] = values[rows]
    return result


def mask_of(data: SequenceData) -> np.ndarray:
    return padded(data, np.ones(len(data.slice_ids))) > 0


@pytest.mark.parametrize("plugin", ["gru_stack", "lstm_delta", "transformer"])
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_an_exported_head_predicts_what_ichx_predicts(
    project: Project, tmp_path: Path, plugin: str, format: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    settings = (*TINY, {"gru_stack": "sequence.average_last=2"}.get(plugin, "stage.full.warmup=0"))
    number = new_sequence(project, ExperimentRequest(plugin=plugin, settings=settings), [1, 2], ["logits"])[0].number
    run_experiment(project, number)
    out = tmp_path / ("head.onnx" if format == "onnx" else "head.pt2")
    (made,) = export_experiment(project, number, ExportRequest(format, [1], out), callbacks=RunCallbacks())
    assert (made.unit, made.compared) == ("series", 9)
    data = series_of_logits(2)
    with open_heads(find_trained(project, number, [1]), InferenceOptions(device="cpu"), lambda _: None) as heads:
        expected = heads.predict(1, data)
    assert data.logits is not None
    inputs = padded(data, data.logits), padded(data, data.position), mask_of(data)
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out)
        assert [one.name for one in session.get_inputs()] == ["member_logits", "position", "mask"]
        about = session.get_modelmeta().custom_metadata_map
        assert json.loads(about["members"]) == [1, 2]
        found = session.run(None, dict(zip(("member_logits", "position", "mask"), inputs, strict=True)))
    else:
        with torch.inference_mode():
            found = [one.numpy() for one in torch.export.load(out).module()(*map(torch.from_numpy, inputs))]
    logits, probabilities, of_series = found
    np.testing.assert_allclose(logits[mask_of(data)], expected.logits, atol=2e-5)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    firsts = [rows[0] for rows in data.series]
    np.testing.assert_allclose(of_series, expected.study_logits[firsts], atol=2e-5)
    assert not logits[~mask_of(data)].any()


def test_places_are_those_of_the_training(project: Project) -> None:
    data = series_of_logits(1)
    (recipe,) = [project.registry.get("gru_stack").recipe]
    feed = SequenceFeed(data, recipe)
    (batch,) = feed.inference_batches(feed.rows(np.arange(len(LENGTHS))), batch=len(LENGTHS))
    found = places(torch.from_numpy(padded(data, data.position)), torch.from_numpy(mask_of(data)))
    np.testing.assert_allclose(found.numpy(), batch.batch.place.numpy(), atol=2e-6)
    np.testing.assert_allclose(100 * found[..., 1].numpy(), batch.batch.position.numpy(), atol=2e-4)


def test_features_of_members_are_an_output_and_the_input_of_a_head(project: Project, tmp_path: Path) -> None:
    request = ExperimentRequest(plugin="gru", settings=(*TINY[:2], "batch=4"))
    number = new_sequence(project, request, [2], ["features"])[0].number
    run_experiment(project, number)
    member = ExportRequest("torch-export", [0], tmp_path / "member.pt2", features=True)
    (made,) = export_experiment(project, 2, member, callbacks=RunCallbacks())
    assert made.difference <= 1e-5
    arrays = sample(InputRecipe(size=32), 4)
    with torch.inference_mode():
        features = torch.export.load(made.path).module()(*map(torch.from_numpy, arrays))[2]
    extra = {"ichx.json": ""}
    (head,) = export_experiment(
        project, number, ExportRequest("torch-export", [0], tmp_path / "head.pt2"), callbacks=RunCallbacks()
    )
    program = torch.export.load(head.path, extra_files=extra)
    assert f"(N, 64, {features.shape[1]})" in json.loads(extra["ichx.json"])["inputs"]["member_features"]
    series = torch.zeros(1, 64, features.shape[1])
    series[0, :4] = features
    mask = torch.arange(64)[None] < 4
    with torch.inference_mode():
        logits, _, of_series = program.module()(series, torch.arange(64.0)[None] * 5 * mask, mask)
    assert torch.isfinite(logits).all()
    assert (logits[0, :4] != 0).all()
    assert of_series.shape == (1, 6)


def test_features_that_do_not_exist_are_refused(project: Project, tmp_path: Path) -> None:
    number = new_sequence(project, ExperimentRequest(plugin="gru_stack", settings=TINY), [1, 2], ["logits"])[0].number
    run_experiment(project, number)
    for experiment, format in ((number, "torch-export"), (1, "safetensors")):
        request = ExportRequest(format, [0], features=True)
        with pytest.raises(InvalidInputError, match="features|outputs"):
            export_experiment(project, experiment, request, callbacks=RunCallbacks())


def test_exported_weights_of_a_head_are_read_back(project: Project, tmp_path: Path) -> None:
    number = new_sequence(project, ExperimentRequest(plugin="gru_stack", settings=TINY), [1, 2], ["logits"])[0].number
    run_experiment(project, number)
    request = ExportRequest("safetensors", [0], tmp_path / "head.safetensors")
    (made,) = export_experiment(project, number, request, callbacks=RunCallbacks())
    assert made.difference == 0
