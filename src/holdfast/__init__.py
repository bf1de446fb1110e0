"""holdfast keeps an aligned language model aligned while it is fine-tuned.

The names below are the public API (design and meaning: docs/architecture.md). They are loaded when first used, so
``import holdfast`` costs nothing until something is asked of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from holdfast.data import Example, read_examples
    from holdfast.defences import Anchor
    from holdfast.elasticity import measure_elasticity
    from holdfast.evaluation import Skill, evaluate
    from holdfast.gating import gate
    from holdfast.geometry import audit, overlap
    from holdfast.gradients import gradient_gram, gradient_norms
    from holdfast.models import Subject, load
    from holdfast.pipeline import run
    from holdfast.restoration import restore
    from holdfast.selection import OnlineSelection, select
    from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, cpu_safe_args

_HOME = {
    "Anchor": "defences",
    "DriftBudget": "training",
    "DriftMonitor": "training",
    "Example": "data",
    "GuardedTrainer": "training",
    "OnlineSelection": "selection",
    "Skill": "evaluation",
    "Subject": "models",
    "audit": "geometry",
    "cpu_safe_args": "training",
    "evaluate": "evaluation",
    "gate": "gating",
    "gradient_gram": "gradients",
    "gradient_norms": "gradients",
    "load": "models",
    "measure_elasticity": "elasticity",
    "overlap": "geometry",
    "read_examples": "data",
    "restore": "restoration",
    "run": "pipeline",
    "select": "selection",
}

__all__ = [
    "Anchor",
    "DriftBudget",
    "DriftMonitor",
    "Example",
    "GuardedTrainer",
    "OnlineSelection",
    "Skill",
    "Subject",
    "__version__",
    "audit",
    "cpu_safe_args",
    "evaluate",
    "gate",
    "gradient_gram",
    "gradient_norms",
    "load",
    "measure_elasticity",
    "overlap",
    "read_examples",
    "restore",
    "run",
    "select",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from holdfast.core.version import VERSION

        return VERSION
    if name in _HOME:
        return getattr(importlib.import_module(f"holdfast.{_HOME[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"holdfast.{name}")
    raise AttributeError(f"module 'holdfast' has no attribute '{name}'")


_ROOMS = frozenset(
    {
        "core",
        "curvature",
        "data",
        "defences",
        "elasticity",
        "evaluation",
        "gating",
        "geometry",
        "gradients",
        "integrations",
        "models",
        "organism",
        "pipeline",
        "report",
        "restoration",
        "selection",
        "training",
    }
)
