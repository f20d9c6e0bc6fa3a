"""The pixels of views: a slice mirrored, moved by whole pixels, scaled about its centre. Names are in `ichx.views`."""

import torch
from torch import nn

from ichx.ct.dicom import AIR
from ichx.views import parse_view


def view_of(hu: torch.Tensor, name: str) -> torch.Tensor:
    """Return `hu` (N, ..., H, W) under the view `name`; pixels from outside the image are air.

    A scale resamples bilinearly, in float32; the other views keep values and dtype. All slices of a stack get the same.

    Raises:
        ValueError: There is no such view.
    """
    view = parse_view(name)
    hu = hu.flip(-1) if view.hflip else hu
    if view.right or view.down:
        hu = _moved(hu, view.down, view.right)
    return hu if view.scale == 100 else _scaled(hu, view.scale / 100)


def _moved(hu: torch.Tensor, down: int, right: int) -> torch.Tensor:
    moved = torch.full_like(hu, AIR)
    height, width = hu.shape[-2:]
    rows, columns = max(height - abs(down), 0), max(width - abs(right), 0)
    source = hu[..., max(-down, 0) : max(-down, 0) + rows, max(-right, 0) : max(-right, 0) + columns]
    moved[..., max(down, 0) : max(down, 0) + rows, max(right, 0) : max(right, 0) + columns] = source
    return moved


def _scaled(hu: torch.Tensor, factor: float) -> torch.Tensor:
    images = hu.flatten(0, -3)[:, None].to(torch.float32) - AIR  # zero is what the sampler fills with
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], device=hu.device).expand(len(images), 2, 3)
    grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    scaled = nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return scaled.add_(AIR)[:, 0].view(hu.shape)
