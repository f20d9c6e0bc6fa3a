"""HTML reports of experiments and ensembles, computed from the store and the prediction files.

The command is in `ichx.cli.report`; scores are computed by `ichx.evaluation`.
"""

from ichx.report.build import WrittenReport, write_report

__all__ = ["WrittenReport", "write_report"]
