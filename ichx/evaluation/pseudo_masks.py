"""Pseudo-masks: which pixels the networks of one fold are sure of, as masks for the training of that fold.

A pixel that is surely blood has its most probable subtype, one that surely is not has 0. All others are
`UNKNOWN_MASK`, which the loss of masks leaves out. The networks predict in `ichx.inference.pseudo_masks`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.datasets.fold_masks import FoldMasks
from ichx.datasets.keep_rule import KeepRule, parse_keep_rule
from ichx.datasets.mask_png import decode_mask
from ichx.errors import CorruptFileError, InvalidInputError
from ichx.evaluation.pseudo_labels import POSITIVE
from ichx.labels import SUBTYPES, UNKNOWN_MASK

DEFAULT_RULE: Final = "any>=0.9|any<=0.05"
"""Pixels that are kept if nothing else is requested."""

_STEPS: Final = np.linspace(0, 1, 1001)
"""Probabilities at which a condition is checked."""

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskRule:
    """Which pixels are labelled."""

    keep: KeepRule

    @classmethod
    def parse(cls, text: str = DEFAULT_RULE) -> "MaskRule":
        """Return the rule in `text`, a condition on the probabilities of a pixel; `any` is the largest of them.

        Raises:
            InvalidInputError: It is invalid, or does not separate sure pixels from the others.
        """
        rule = cls(parse_keep_rule(text))
        kept = rule.keep.matches(np.repeat(_STEPS[:, None], len(SUBTYPES) + 1, axis=1))
        problem = ""
        if kept[_STEPS == POSITIVE].any():
            problem = f"keeps pixels with a probability of {POSITIVE:g}, which are neither positive nor negative"
        elif not kept[_STEPS > POSITIVE].any():
            problem = "keeps no positive pixel"
        elif not kept[_STEPS < POSITIVE].any():
            problem = "keeps no negative pixel"
        if problem:
            raise InvalidInputError(
                f"The condition {text!r} for masks {problem}.",
                f"Use one threshold above {POSITIVE:g} and one below, e.g. --mask-keep '{DEFAULT_RULE}'.",
            )
        return rule

    def mask(self, p: npt.NDArray[np.float32], covered: npt.NDArray[np.bool_], labels: npt.NDArray[np.float32]) -> Mask:
        """Return the mask `(H, W)` of a slice.

        Args:
            p: Probabilities of the subtypes `(H, W, 5)`.
            covered: The pixels that the networks have seen `(H, W)`; others are unknown.
            labels: The labels of the slice in this fold `(6,)`. Pixels of a subtype that it lacks are unknown.
        """
        any_ = p.max(axis=2, keepdims=True)
        kept = self.keep.matches(np.concatenate([p, any_], axis=2).reshape(-1, len(SUBTYPES) + 1).astype(np.float64))
        subtype = p.argmax(axis=2)
        positive = any_[..., 0] >= POSITIVE
        mask = np.where(positive, subtype + 1, 0).astype(np.uint8)
        denied = positive & (labels[: len(SUBTYPES)] < POSITIVE)[subtype]
        mask[~kept.reshape(mask.shape) | ~covered | denied] = UNKNOWN_MASK
        return mask


def count_masks(masks: Mapping[int, FoldMasks]) -> list[dict[str, Any]]:
    """Return counts of each fold.

    `fold`; `slices` with a mask; how many of them show each subtype (`positive`); the share of pixels that are
    `ignored`, among all pixels of these slices.

    Raises:
        CorruptFileError: A mask is damaged.
    """
    counts = []
    for fold, of_fold in masks.items():
        shown, pixels = np.zeros(len(SUBTYPES), int), np.zeros(256, int)
        for png in of_fold.pngs:
            try:
                found = np.bincount(decode_mask(png).ravel(), minlength=256)
            except ValueError as error:
                raise CorruptFileError(
                    f"A pseudo-mask of fold {fold} is damaged: {error}.", "Create it again."
                ) from error
            shown += found[1 : len(SUBTYPES) + 1] > 0
            pixels += found
        counts.append(
            {
                "fold": fold,
                "slices": len(of_fold.pngs),
                "positive": dict(zip(SUBTYPES, shown.tolist(), strict=True)),
                "ignored": float(pixels[UNKNOWN_MASK] / max(pixels.sum(), 1)),
            }
        )
    return counts


def check_counts(counts: Sequence[Mapping[str, Any]], rule: MaskRule, of: str, largest: float) -> list[str]:
    """Return warnings about masks with these `counts`; raise `InvalidInputError` if no pixel of `of` is positive.

    `largest` is the largest probability of a pixel.
    """
    text = rule.keep.text
    if not any(sum(count["positive"].values()) for count in counts):
        raise InvalidInputError(
            f"No positive pixel of {of} meets {text!r} in any fold; the largest probability is {largest:.3g}.",
            "Use a lower threshold, or no masks.",
        )
    warnings = []
    empty = [str(count["fold"]) for count in counts if not sum(count["positive"].values())]
    if empty:
        warnings.append(f"Fold {', '.join(empty)} has no positive pixel that meets {text!r}.")
    lacking = [name for name in SUBTYPES if not any(count["positive"][name] for count in counts)]
    if lacking:
        warnings.append(f"No mask shows {', '.join(lacking)}.")
    return warnings
