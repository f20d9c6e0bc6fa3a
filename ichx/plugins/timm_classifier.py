"""Builds a timm backbone with a six-label head, and tells why timm could not. No other file of the zoo imports timm."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from ichx.errors import IchxError
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.recipe import Recipe


def build(recipe: "Recipe", pretrained: bool) -> nn.Module:
    """Return the classifier of `recipe`, `(N, C, H, W)` to `(N, 6)` logits, with random or pretrained weights.

    C are the recipe's channels: timm repeats and rescales a first convolution that was trained on three.
    Raises `IchxError` for a backbone that timm does not know and for weights that cannot be downloaded.
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
    return model


@contextmanager
def timm_errors(name: str, pretrained: bool) -> Iterator[None]:
    """Raise what timm raises while it makes the backbone `name` as an `IchxError`, where a user can mend it."""
    # The hub's client logs every retry; the one line that matters is raised below.
    hub, level = logging.getLogger("huggingface_hub"), logging.getLogger("huggingface_hub").level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise IchxError(f"timm's {name!r} has no stochastic depth", "leave model.drop_path at 0") from error
        raise
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise IchxError(
                f"timm {timm.__version__} has no backbone {name!r}", "see `timm.list_models(pretrained=True)` for names"
            ) from error
        if pretrained:
            raise _no_weights(name, error) from error
        raise
    except OSError as error:
        # huggingface_hub's and urllib's network errors are OSErrors.
        raise _no_weights(name, error) from error
    except Exception as error:
        # httpx, huggingface_hub's transport, has errors of its own, which are no OSErrors.
        if pretrained and type(error).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "requests"}:
            raise _no_weights(name, error) from error
        raise
    finally:
        hub.setLevel(level)


def _needs_size(name: str) -> bool:
    """Tell whether the backbone fixes its image size when it is made, as vision transformers do."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return bool(config and config.fixed_input_size)


def _no_weights(name: str, error: Exception) -> IchxError:
    reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".") or type(error).__name__
    return IchxError(
        f"the pretrained weights of {name} cannot be downloaded: {reason}",
        "give them with --weights FILE (safetensors or .pth), or train from random weights with --no-pretrained",
    )
