"""Floor 6: methods that act on training, one small file each, behind the interface of ``core.defence``.

The names are loaded when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.core.defence import Choice, Defence, Material, PoolView
    from holdfast.defences.anchor import Anchor
    from holdfast.defences.conformance import check_conformance
    from holdfast.defences.dual import DualWeight
    from holdfast.defences.registry import build, names

_HOME = {
    "Anchor": "holdfast.defences.anchor",
    "Choice": "holdfast.core.defence",
    "Defence": "holdfast.core.defence",
    "DualWeight": "holdfast.defences.dual",
    "Material": "holdfast.core.defence",
    "PoolView": "holdfast.core.defence",
    "build": "holdfast.defences.registry",
    "check_conformance": "holdfast.defences.conformance",
    "names": "holdfast.defences.registry",
}

__all__ = [
    "Anchor",
    "Choice",
    "Defence",
    "DualWeight",
    "Material",
    "PoolView",
    "build",
    "check_conformance",
    "names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
