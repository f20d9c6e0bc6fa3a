"""The report room: pages that show what the store and the prediction files hold. Nothing is trained or stored here."""

from ichx.report.build import WrittenReport, write_report

__all__ = ["WrittenReport", "write_report"]
