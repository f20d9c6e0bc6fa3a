"""File formats of exports: ONNX, torch.export and safetensors. Each file is read back and compared with the network."""

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx import __version__
from ichx.errors import UnsupportedError
from ichx.evaluation.metric import probabilities
from ichx.training.weights import save_weights

SUFFIXES: Final = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
"""The suffix of each format."""

Arrays = tuple[npt.NDArray[Any], ...]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class ExportedModel:
    """A network with named inputs and outputs, whose first axis is that of the batch."""

    module: nn.Module
    """Returns a tuple of tensors for tensors."""
    network: nn.Module
    """The part whose weights a safetensors file has."""
    load: Callable[[Path], nn.Module]
    """Returns a `module` with the weights of a file."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Outputs whose names end with `logits` are compared as probabilities."""
    samples: Sequence[Arrays]
    """Batches of several sizes, the first with at least two rows."""
    description: dict[str, Any]
    """What a user of the file must know; it becomes metadata of the file."""


def write_export(model: ExportedModel, format: str, path: Path) -> tuple[float, int]:
    """Write `model` to `path` in one of the formats of `SUFFIXES`, and read it back.

    Returns:
        The largest difference of an output of the file from the original's over all samples, NaN if one is not a
        number: of probabilities, and of features relative to their size where that is above 1; and the number of rows
        that were compared.

    Raises:
        UnsupportedError: The file returns other shapes.
        OSError: The file cannot be written.
    """
    with contextlib.redirect_stdout(sys.stderr):  # the exporters print
        if format == "onnx":
            run = _write_onnx(model, path)
        elif format == "torch-export":
            run = _write_program(model, path)
        else:
            save_weights(path, model.network, _texts(model))
            run = _runner(model.load(path))
        return _largest_difference(model, run)


def _texts(model: ExportedModel) -> dict[str, str]:
    description = model.description.items()
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in description}


def _runner(module: Callable[..., tuple[torch.Tensor, ...]]) -> Run:
    def run(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            found = module(*map(torch.from_numpy, arrays))
        return tuple(values.numpy() for values in found)

    return run


def _largest_difference(model: ExportedModel, run: Run) -> tuple[float, int]:
    original = _runner(model.module)
    largest, compared = 0.0, 0
    for arrays in model.samples:
        expected, found = original(arrays), run(arrays)
        for name, wanted, given in zip(model.outputs, expected, found, strict=True):
            if given.shape != wanted.shape:
                raise UnsupportedError(
                    f"The exported network returns {name} of shape {given.shape} for a batch of {len(arrays[0])}.",
                    "Use another --format.",
                )
            largest = float(np.max([largest, _difference(name, wanted, given)]))
        compared += len(arrays[0])
    return largest, compared


def _difference(name: str, expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    if name.endswith("logits"):
        expected, found = probabilities(expected), probabilities(found)
    return float((np.abs(expected - found) / np.maximum(1, np.abs(expected))).max(initial=0.0))


def _example(model: ExportedModel) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(values[:2]) for values in model.samples[0])


def _dynamic(model: ExportedModel) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    return {name: {0: batch} for name in model.inputs}


def _write_program(model: ExportedModel, path: Path) -> Run:
    with _quiet():
        program = torch.export.export(model.module, _example(model), dynamic_shapes=_dynamic(model))
    torch.export.save(program, path, extra_files={"ichx.json": json.dumps(model.description, indent=2)})
    return _runner(torch.export.load(path).module())


def _write_onnx(model: ExportedModel, path: Path) -> Run:
    import onnx
    import onnxruntime

    with _quiet():
        program = torch.onnx.export(
            model.module,
            _example(model),
            dynamo=True,
            dynamic_shapes=_dynamic(model),
            input_names=model.inputs,
            output_names=model.outputs,
            verbose=False,
        )
    assert program is not None
    written = program.model_proto
    written.producer_name, written.producer_version = "ichx", __version__
    onnx.helper.set_model_props(written, _texts(model))
    onnx.save(written, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(arrays: Arrays) -> Arrays:
        return tuple(session.run(list(model.outputs), dict(zip(model.inputs, arrays, strict=True))))

    return run


@contextlib.contextmanager
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # all inputs share the batch axis
        warnings.filterwarnings("ignore", "The tensor attributes? .*_flat_weights", UserWarning)  # views of parameters
        yield
