"""Between floors 6 and 7: a page and a table from run folders, without the model.

``story`` reads, ``judgement`` says what may be said, ``bars`` and ``pictures`` choose what is drawn, ``marks``
draws.
"""

from holdfast.report.page import write_page, write_report
from holdfast.report.terminal import print_summary

__all__ = ["print_summary", "write_page", "write_report"]
