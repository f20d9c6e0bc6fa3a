"""The cost of a random generator per sample: ichx's addressed generator, NumPy's own seeding, one shared stream.

python benchmarks/randomness.py [--quick] [--json FILE]
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from common import Figure, arguments, conclude

from ichx.loading.sampling import AUGMENTATION, generator, id_number

TARGET = 25.0
"""Microseconds per sample: 10 % of the 0.25 ms that loading a small slice may take."""


def main() -> None:
    options = arguments(__doc__)
    samples, rounds = (2_000, 5) if options.quick else (20_000, 15)
    numbers = [id_number(f"1.2.840.113619.2.{n}") for n in range(samples)]
    stream = np.random.default_rng(0)
    ways: dict[str, Callable[[int], np.random.Generator]] = {
        "addressed generator": lambda number: generator(AUGMENTATION, 0, 1, 2, 3, number),
        "numpy.random.default_rng(address)": lambda number: np.random.default_rng((AUGMENTATION, 0, 1, 2, 3, number)),
        "one shared stream": lambda number: stream,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, create in ways.items():
            began = time.process_time()
            for number in numbers:
                create(number).random()
            times[name].append(1e6 * (time.process_time() - began) / samples)
    figures = []
    for name, measured in times.items():
        microseconds = statistics.median(measured)
        target = TARGET if name == "addressed generator" else None
        met = target is None or microseconds <= target
        figures.append(
            Figure(f"{name}: create and draw once", microseconds, "µs", "-", f"{target:g} µs" if target else "-", met)
        )
    conclude(figures, options)


if __name__ == "__main__":
    main()
