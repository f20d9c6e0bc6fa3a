"""A full job on 1, 8 and 100 nodes, computed from measured parts. It measures nothing.

    python benchmarks/scaling.py

The job is five models x five folds and 50 trials on one fold, on the 752,803 training and 121,232 test slices of RSNA.
Each model counts as the ResNeXt50 at 378 px that was measured on an H100. A node has one such GPU and 16 cores.
"""

from cohort import IMAGES, POSITIVES
from rich.console import Console
from rich.table import Table

TEST_IMAGES = 121_232
FOLDS, MODELS, TRIALS = 5, 5, 50
CORES = 16

# Measured; docs/benchmarks.md names script and machine.
TRAIN_RATE = 1303.0
"""Training images per second on one H100."""
COMPILATION = 85.0
"""Seconds until the first compiled step."""
BUILD_RATE = 826.0
"""Slices per second and core that a cache build decodes."""
CACHE_BYTES = 91e9
"""The cache of the training slices at 378 px."""
CHECKPOINT_BYTES = 276e6
"""Weights and the two moments of the optimizer."""

# Settings of ichx.
BALANCED_EPOCHS, FULL_EPOCHS = 6, 2
HEARTBEAT, CHECKPOINT_EVERY = 15.0, 300.0

# Assumptions.
FORWARD = 1 / 3
"""Share of a training step that a prediction takes."""
SERVER = 1e9
"""Bytes per second that the shared file system delivers to all nodes together."""
PREDICTION_BYTES = 40.0
"""Parquet bytes per slice and view."""


def main() -> None:
    train, held_out = IMAGES * (FOLDS - 1) / FOLDS, IMAGES / FOLDS
    trained = BALANCED_EPOCHS * 2 * POSITIVES[5] * (FOLDS - 1) / FOLDS + FULL_EPOCHS * train
    validated = (BALANCED_EPOCHS + FULL_EPOCHS) * held_out
    predicted = 2 * (held_out + TEST_IMAGES)
    fold = COMPILATION + (trained + FORWARD * (validated + predicted)) / TRAIN_RATE
    slice_bytes = CACHE_BYTES / IMAGES
    cache = CACHE_BYTES + TEST_IMAGES * slice_bytes
    read = (trained + validated + predicted) * slice_bytes
    runs = MODELS * FOLDS + TRIALS
    epochs = BALANCED_EPOCHS + FULL_EPOCHS
    writes = 2 + fold / HEARTBEAT + 2 * epochs + fold / CHECKPOINT_EVERY + epochs
    per_fold = Table("one fold", "value")
    for name, value in (
        ("images trained", f"{trained:,.0f}"),
        ("images validated, predicted", f"{validated:,.0f}, {predicted:,.0f}"),
        ("GPU time", f"{fold / 3600:.2f} h"),
        ("bytes read from the cache", f"{read / 1e9:,.0f} GB"),
        ("rate of these reads in training", f"{TRAIN_RATE * slice_bytes / 1e6:.0f} MB/s"),
        ("transactions of the store", f"{writes:,.0f}"),
        ("weights and predictions", f"{(CHECKPOINT_BYTES / 3 + predicted * PREDICTION_BYTES) / 1e6:,.0f} MB"),
    ):
        per_fold.add_row(name, value)
    table = Table("full job", "1 node", "8 nodes", "100 nodes")
    rows: dict[str, list[str]] = {}
    for nodes in (1, 8, 100):
        at_once = min(nodes, runs)
        rounds = -(-runs // at_once)
        for name, value in (
            ("folds and trials, GPU hours", f"{runs}, {runs * fold / 3600:.0f} h"),
            ("at the same time", f"{at_once}"),
            ("training, wall time", f"{rounds * fold / 3600:.1f} h"),
            ("cache, decoding", f"{(IMAGES + TEST_IMAGES) / BUILD_RATE / CORES / nodes:,.1f} s"),
            ("cache, reading the DICOM files", f"{(IMAGES + TEST_IMAGES) * 526e3 / SERVER / 60:.0f} min"),
            ("reads of a shared cache, rate", f"{at_once * TRAIN_RATE * slice_bytes / 1e9:.2f} GB/s"),
            ("training, bounded by these reads", f"{max(rounds * fold, runs * read / SERVER) / 3600:.1f} h"),
            ("copying it to each node, once", f"{at_once * cache / SERVER / 3600:.2f} h"),
            ("transactions of the store", f"{runs * writes:,.0f}, {at_once * writes / fold:.1f} per second"),
            ("checkpoints, rate", f"{at_once * CHECKPOINT_BYTES / CHECKPOINT_EVERY / 1e6:,.1f} MB/s"),
            ("disk: cache (378 px)", f"{cache / 1e9:.0f} GB"),
            (
                "disk: weights, predictions",
                f"{runs * (CHECKPOINT_BYTES / 3 + predicted * PREDICTION_BYTES) / 1e9:.1f} GB",
            ),
            ("disk: checkpoints of running folds", f"{at_once * 2 * CHECKPOINT_BYTES / 1e9:.1f} GB"),
        ):
            rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        table.add_row(name, *values)
    console = Console(width=100)
    console.print(per_fold)
    console.print(table)


if __name__ == "__main__":
    main()
