"""Mixup and CutMix: each slice of a batch is mixed with its neighbour in the batch, and so are their labels.

Windowed images are mixed, as in the papers. In HU the mean of air and bone would be brain, and windows differ between
slices.
"""

import math
from dataclasses import dataclass

import torch

from ichx.loading.sampling import MIXING, generator
from ichx.recipe import AugmentationRecipe


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: each slice keeps `share` of itself.

    The rest of the partner is blended in, or fills the `box` (top, bottom, left, right) in pixels. Partners are
    neighbours in the batch, whose order is random: 0 and 1, 2 and 3, an odd last one with the one before it. A batch
    that is split at even positions is thus mixed like the complete one.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Return mixed `images` (N, C, H, W), in the same memory layout."""
        partner = _partners(len(images), images.device)
        if self.box is None:
            return images * self.share + images[partner] * (1 - self.share)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        return mixed

    def labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Return mixed `labels` (N, 6), equivalent to the losses of both slices weighted by their shares."""
        return labels * self.share + labels[_partners(len(labels), labels.device)] * (1 - self.share)

    def masks(self, masks: torch.Tensor) -> tuple[tuple[float, torch.Tensor], ...]:
        """Return masks (N, H, W) of the mixed images, each with the weight of its loss: blended images have two."""
        other = masks[_partners(len(masks), masks.device)]
        if self.box is None:
            return (self.share, masks), (1 - self.share, other)
        top, bottom, left, right = self.box
        cut = masks.clone()
        cut[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return ((1.0, cut),)


def draw_mix(recipe: AugmentationRecipe, pixels: int, *address: int) -> Mix | None:
    """Return how the batch at `address`, of images with an edge of `pixels`, is mixed; None if it is not.

    `mixup` is Zhang et al. 2018 (arXiv 1710.09412), `cutmix` Yun et al. 2019 (arXiv 1905.04899); only the part of a box
    inside the image counts.
    """
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return None
    rng = generator(MIXING, *address)
    if rng.random() >= recipe.mix_probability:
        return None
    cuts = recipe.cutmix > 0 and (recipe.mixup == 0 or rng.random() < 0.5)
    alpha = recipe.cutmix if cuts else recipe.mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mix(share)
    half = int(pixels * math.sqrt(1 - share)) / 2
    row, column = rng.integers(pixels, size=2).tolist()
    top, left = (max(math.ceil(middle - half), 0) for middle in (row, column))
    bottom, right = (min(math.ceil(middle + half), pixels) for middle in (row, column))
    return Mix(1 - (bottom - top) * (right - left) / pixels**2, (top, bottom, left, right))


def _partners(count: int, device: torch.device) -> torch.Tensor:
    """Return the index of each slice's partner, `(N,)`."""
    partner = torch.arange(count, device=device) ^ 1
    return partner.where(partner < count, max(count - 2, 0))
