"""Between floors 6 and 7: pictures and a page from a run's ``summary.json``, without the model."""

from holdfast.report.page import write_report
from holdfast.report.terminal import print_summary

__all__ = ["print_summary", "write_report"]
