"""The augmentation of the plugin `shallow_ct`."""

import albumentations as A


def pipeline() -> A.Compose:
    """Return transforms for slices in [0, 1], where 0 is air."""
    return A.Compose(
        [
            A.Affine(scale=(0.9, 1.1), rotate=(-15, 15), translate_percent=(-0.05, 0.05), p=0.7),
            A.CoarseDropout(num_holes_range=(1, 3), hole_height_range=(0.05, 0.1), hole_width_range=(0.05, 0.1), p=0.3),
            A.GaussNoise(std_range=(0.001, 0.003), p=0.3),  # 4 to 12 HU
        ]
    )
