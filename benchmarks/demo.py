"""The demo: its wall time, and its blend against two predictions that need no network, on patients that no model saw.

    python benchmarks/demo.py [--json FILE]

`--quick` is refused: a shorter demo would be another one.
"""

import json
import subprocess
import sys
import tempfile
import time

from common import Figure, arguments, conclude

MINUTES = 5
BELOW = 0.40


def main() -> None:
    options = arguments(__doc__)
    if options.quick:
        sys.exit("the demo has no quick form; run it whole, in about five minutes")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ichx", "demo", f"{folder}/demo", "--json"]
        began = time.perf_counter()
        result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - began
    report = json.loads(result.stdout)
    blend, constant, bright = (report[f"{name}_score"] for name in ("blend", "constant", "brightness"))
    nested = report["ensemble"]["ensemble"]["nested_score"]
    conclude(
        [
            Figure("wall time", seconds / 60, "min", "-", f"{MINUTES} min", seconds <= 60 * MINUTES),
            Figure(
                "blend, test score",
                blend,
                "",
                f"constant prevalence {constant:.4f}",
                "40 % below",
                blend <= (1 - BELOW) * constant,
            ),
            Figure(
                "blend, test score",
                blend,
                "",
                f"brightness baseline {bright:.4f}",
                "40 % below",
                blend <= (1 - BELOW) * bright,
            ),
            Figure("blend, nested OOF score", nested, "", "-", "-", True),
        ],
        options,
    )


if __name__ == "__main__":
    main()
