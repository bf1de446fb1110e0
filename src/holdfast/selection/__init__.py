"""Floor 4: which samples to train on, judged by their gradient norms (selection.md)."""

from holdfast.selection.matching import Located, locate
from holdfast.selection.online import OnlineSelection
from holdfast.selection.rules import LOSS_FILTERS, RULES, kept_count, loss_bounds
from holdfast.selection.select import Selection, select

__all__ = [
    "LOSS_FILTERS",
    "RULES",
    "Located",
    "OnlineSelection",
    "Selection",
    "kept_count",
    "locate",
    "loss_bounds",
    "select",
]
