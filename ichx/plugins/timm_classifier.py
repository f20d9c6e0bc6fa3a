"""Builds a timm backbone with a six-label head, and explains timm's errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import huggingface_hub
import timm
from huggingface_hub import constants
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
from torch import nn

from ichx.errors import NotFoundError, ProcessError, UnsupportedError
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.recipe import Recipe

HUB_SECONDS = 10
"""Time that the hub has to answer."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names under which timm looks for weights on the hub."""


def build(recipe: "Recipe", pretrained: bool) -> nn.Module:
    """Return the classifier of `recipe`, `(N, C, H, W)` to `(N, 6)` logits, with random or pretrained weights.

    C are the recipe's channels: timm repeats and rescales a first convolution that was trained on three.

    Raises:
        NotFoundError: timm does not know the backbone.
        ProcessError: The weights cannot be downloaded.
    """
    name = recipe.model.backbone
    with timm_errors(name, pretrained):
        extra: dict[str, Any] = {"img_size": recipe.input.pixels} if _needs_size(name) else {}
        if recipe.model.drop_path > 0:
            extra["drop_path_rate"] = recipe.model.drop_path
        model: nn.Module = timm.create_model(
            name,
            pretrained=pretrained,
            num_classes=len(LABELS),
            in_chans=recipe.input.channels,
            drop_rate=recipe.model.dropout,
            **extra,
        )
    if recipe.model.bn_momentum > 0:
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = recipe.model.bn_momentum
    return model


@contextmanager
def timm_errors(name: str, pretrained: bool) -> Iterator[None]:
    """Turn errors of timm while it builds the backbone `name` into errors that a user can fix."""
    # The hub's client logs every retry; one line is raised below.
    hub, level = logging.getLogger("huggingface_hub"), logging.getLogger("huggingface_hub").level
    hub.setLevel(logging.CRITICAL)
    try:
        if pretrained:
            _check_hub(name)
        yield
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UnsupportedError(
                f"{name!r} of timm has no stochastic depth.", "Leave model.drop_path at 0."
            ) from error
        raise
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise NotFoundError(
                f"timm {timm.__version__} has no backbone {name!r}.",
                "See `timm.list_models(pretrained=True)` for names.",
            ) from error
        if pretrained:
            raise _no_weights(name, error) from error
        raise
    except OSError as error:
        # huggingface_hub's and urllib's network errors are OSErrors.
        raise _no_weights(name, error) from error
    except Exception as error:
        # httpx, huggingface_hub's transport, raises errors that are not OSErrors.
        if pretrained and type(error).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "requests"}:
            raise _no_weights(name, error) from error
        raise
    finally:
        hub.setLevel(level)


def _check_hub(name: str) -> None:
    """Raise the client's error if weights must be downloaded and the hub does not answer within `HUB_SECONDS`.

    The client itself retries for a minute, without a message.
    """
    source = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = (getattr(source, "hf_hub_id", None) or "").partition("@")[0]
    if not repository or constants.HF_HUB_OFFLINE:
        return
    files = [getattr(source, "hf_hub_filename", None), *WEIGHT_FILES]
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files if file):
        return
    get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)  # any answer will do


def _needs_size(name: str) -> bool:
    """Return whether the backbone fixes its image size when it is built, as vision transformers do."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return bool(config and config.fixed_input_size)


def _no_weights(name: str, error: Exception) -> ProcessError:
    reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".") or type(error).__name__
    return ProcessError(
        f"The pretrained weights of {name} cannot be downloaded: {reason}.",
        "Use --weights FILE (safetensors or .pth), or train from random weights with --no-pretrained.",
    )
