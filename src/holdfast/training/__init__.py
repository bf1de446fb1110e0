"""Floor 5: fine-tuning under guard. TRL's trainer with an online filter, a live drift monitor and a budget.

The names are loaded when first used: importing this package does not import transformers or TRL.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.training.budget import BudgetStop, DriftBudget
    from holdfast.training.data import dataset_from_examples
    from holdfast.training.monitor import DriftMonitor
    from holdfast.training.options import cpu_safe_args
    from holdfast.training.probe import RefusalProbe
    from holdfast.training.trace import read_lines
    from holdfast.training.trainer import GuardedTrainer

_HOME = {
    "BudgetStop": "budget",
    "DriftBudget": "budget",
    "DriftMonitor": "monitor",
    "GuardedTrainer": "trainer",
    "RefusalProbe": "probe",
    "cpu_safe_args": "options",
    "dataset_from_examples": "data",
    "read_lines": "trace",
}

__all__ = [
    "BudgetStop",
    "DriftBudget",
    "DriftMonitor",
    "GuardedTrainer",
    "RefusalProbe",
    "cpu_safe_args",
    "dataset_from_examples",
    "read_lines",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
