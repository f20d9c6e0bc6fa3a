"""HTML reports of experiments, ensembles, evaluations and predictions of files.

The command is in `ichx.cli.report`; scores are computed by `ichx.evaluation`. The exported functions import
torch on first access; `chart`, `plots` and `tuning_plots` need neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ichx.report.build import WrittenReport, write_report
    from ichx.report.inference_pages import write_evaluation_report, write_prediction_report

__all__ = ["WrittenReport", "write_evaluation_report", "write_prediction_report", "write_report"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "inference_pages" if name.startswith(("write_evaluation", "write_prediction")) else "build"
    return getattr(import_module(f"{__name__}.{module}"), name)
