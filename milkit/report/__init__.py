"""What a researcher reads after a study: numbers recomputed from the predictions, and the pages that show them."""

from milkit.report.page import write_report

__all__ = ["write_report"]
