"""Draw the docs' pictures of the phantom and of the windows: `python docs/draw_phantom.py`.

Writes `docs/images/phantom_types.webp` (the five types in the brain window, with outlines of the bleeds) and
`docs/images/windows.png` (the three channels of one slice, linear and sigmoid).
"""

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from ichx.ct.windows import windows_numpy
from ichx.labels import SUBTYPES
from ichx.phantom.prevalence import EXPECTED_SHARES
from ichx.phantom.study import PhantomStudy, make_study
from ichx.recipe import REFERENCE_WINDOWS

matplotlib.use("Agg")

from matplotlib import pyplot as plt

IMAGES = Path(__file__).parent / "images"
SEED = 7
SIZE = 384
BRAIN = (40.0, 80.0)

# Patients of SEED with a clear bleed when all other types have a prevalence of 0.
EXAMPLES = {
    "epidural": 3,
    "intraparenchymal": 8,
    "intraventricular": 2,
    "subarachnoid": 6,
    "subdural": 18,
}


def only(subtype: str) -> PhantomStudy:
    """Return the example study of a subtype, without bleeds of other subtypes."""
    others = dict.fromkeys(set(SUBTYPES) - {subtype}, 0.0)
    share = 0.9 * EXPECTED_SHARES[subtype]
    return make_study(SEED, EXAMPLES[subtype], size=SIZE, prevalence={**others, subtype: share})


def clearest_slice(study: PhantomStudy, subtype: str) -> int:
    """Return the index of the slice with the largest area of a subtype."""
    return int((study.mask == SUBTYPES.index(subtype) + 1).sum(axis=(1, 2)).argmax())


def head_box(hu: NDArray[np.int16]) -> tuple[slice, slice]:
    """Return the rows and columns of the head with a margin."""
    inside = hu > 300
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    margin = SIZE // 25
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + margin),
        slice(max(columns[0] - margin, 0), columns[-1] + margin),
    )


def draw_types(path: Path) -> None:
    """Draw one slice of each type, without and with an outline."""
    figure, axes = plt.subplots(2, len(SUBTYPES), figsize=(12.5, 6.2), facecolor="black")
    for column, subtype in enumerate(SUBTYPES):
        study = only(subtype)
        index = clearest_slice(study, subtype)
        box = head_box(study.hu[index])
        seen = windows_numpy(study.hu[index][box], BRAIN, [BRAIN], "linear")[0]
        for axis in axes[:, column]:
            axis.imshow(seen, cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
        axes[1, column].contour(
            study.mask[index][box] == SUBTYPES.index(subtype) + 1, [0.5], colors="#ffb000", linewidths=1
        )
        axes[0, column].set_title(subtype, color="white", fontsize=12)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=70, facecolor="black")
    plt.close(figure)


def draw_windows(path: Path) -> None:
    """Draw the three channels of one slice, linear and sigmoid."""
    study = only("subdural")
    hu = study.hu[clearest_slice(study, "subdural")]
    box = head_box(hu)
    names = ["file's default [40, 80]", "subdural [80, 200]", "bone [600, 2800]"]
    figure, axes = plt.subplots(2, 3, figsize=(8, 6.6), facecolor="black")
    for row, kind in enumerate(("linear", "sigmoid")):
        for column, channel in enumerate(windows_numpy(hu[box], BRAIN, REFERENCE_WINDOWS, kind)):
            axis = axes[row, column]
            axis.imshow(channel, cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
            axis.set_title(f"{names[column]}, {kind}", color="white", fontsize=10)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=70, facecolor="black")
    plt.close(figure)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    draw_types(IMAGES / "phantom_types.webp")
    draw_windows(IMAGES / "windows.png")
