"""Data and evaluation of other institutions: volumes, replicas of public datasets, identities, mixtures, statistics.

    python benchmarks/external.py [--quick] [--json FILE] [--only PART ...]

Each part is a module `external_PART.py` with a function `measure(quick) -> list[Figure]`.
"""

import argparse
from importlib import import_module
from pathlib import Path

from common import arguments, conclude

PARTS = sorted(path.stem.removeprefix("external_") for path in Path(__file__).parent.glob("external_*.py"))


def main() -> None:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"one or more of {', '.join(PARTS)}")
    options = arguments(__doc__ or "", parents=[parent])
    figures = []
    for part in options.only or PARTS:
        figures += import_module(f"external_{part}").measure(options.quick)
    conclude(figures, options)


if __name__ == "__main__":
    main()
