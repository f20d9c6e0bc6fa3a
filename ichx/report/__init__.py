"""HTML reports of experiments, ensembles, evaluations and predictions of files.

The command is in `ichx.cli.report`; scores are computed by `ichx.evaluation`.
"""

from ichx.report.build import WrittenReport, write_report
from ichx.report.inference_pages import write_evaluation_report, write_prediction_report

__all__ = ["WrittenReport", "write_evaluation_report", "write_prediction_report", "write_report"]
