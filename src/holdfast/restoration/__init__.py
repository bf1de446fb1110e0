"""Floor 4: bring the alignment of a fine-tuned LoRA adapter back, within a task loss the user allows.

Inspired by curvature-aware restoration (restoration.md 0: the paper's body could not be read, so nothing here
claims to reproduce it) and by what our own trials found to work better (notes-restoration.md).
"""

from holdfast.restoration.balance import balance
from holdfast.restoration.extract import Extracted, as_adapter
from holdfast.restoration.material import check_enough
from holdfast.restoration.restore import restore
from holdfast.restoration.result import Restoration
from holdfast.restoration.validation import Check

__all__ = ["Check", "Extracted", "Restoration", "as_adapter", "balance", "check_enough", "restore"]
