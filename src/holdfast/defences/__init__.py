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
    from holdfast.defences.ewc import ElasticWeights
    from holdfast.defences.fisher_selection import FisherSelection
    from holdfast.defences.mixing import Mixing
    from holdfast.defences.projection import Projection
    from holdfast.defences.registry import build, names
    from holdfast.defences.task_kl import TaskKL
    from holdfast.defences.token_wise import TokenWise

_HOME = {
    "Anchor": "holdfast.defences.anchor",
    "Choice": "holdfast.core.defence",
    "Defence": "holdfast.core.defence",
    "DualWeight": "holdfast.defences.dual",
    "ElasticWeights": "holdfast.defences.ewc",
    "FisherSelection": "holdfast.defences.fisher_selection",
    "Material": "holdfast.core.defence",
    "Mixing": "holdfast.defences.mixing",
    "PoolView": "holdfast.core.defence",
    "Projection": "holdfast.defences.projection",
    "TaskKL": "holdfast.defences.task_kl",
    "TokenWise": "holdfast.defences.token_wise",
    "build": "holdfast.defences.registry",
    "check_conformance": "holdfast.defences.conformance",
    "names": "holdfast.defences.registry",
}

__all__ = [
    "Anchor",
    "Choice",
    "Defence",
    "DualWeight",
    "ElasticWeights",
    "FisherSelection",
    "Material",
    "Mixing",
    "PoolView",
    "Projection",
    "TaskKL",
    "TokenWise",
    "build",
    "check_conformance",
    "names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
