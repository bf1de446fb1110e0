"""The repairs that cost nothing: the adapter off, and its update scaled down. Each is a candidate like any other.

Knows: which adapters can be scaled. Does not know: what is chosen.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from holdfast.core import trees
from holdfast.core.statistics import Interval, wilson
from holdfast.models import Subject, adapter_off, adapter_parameters
from holdfast.models.bare import moves_base
from holdfast.restoration.validation import Measured, Validation

OFF = "adapter off"
SCALES = (0.25, 0.5, 0.75)
ENDS = ("aligned", "drifted")
_LOW_RANK = re.compile(r"\.lora_(embedding_)?[AB]\b")
_SECOND_FACTOR = re.compile(r"\.lora_(embedding_)?B\b")


@dataclass(frozen=True)
class Baseline:
    """One free repair on the part that chooses, the two ends also on the part that decides.

    Attributes:
        decide: None where it is no end: a scale is a candidate, and decided about if it is picked.
        adapter: None where it is no candidate.
    """

    choose: Measured
    decide: Measured | None = None
    adapter: trees.Tree | None = None

    @property
    def both(self) -> tuple[Measured, Measured]:
        """An end on all of the validation data."""
        assert self.decide is not None
        return self.choose, self.decide

    @property
    def refusals(self) -> Interval:
        """Of all harmful prompts that could be judged."""
        flags_P = np.concatenate([part.harmful_P for part in self.both])
        judged_P = flags_P[~np.isnan(flags_P)]
        return wilson(float(judged_P.sum()), judged_P.size)


def measure_baselines(subject: Subject, choose: Validation, decide: Validation) -> dict[str, Baseline]:
    """The end points "aligned" (the adapter off) and "drifted", and between them "scale 0.25" to "scale 0.75"."""
    adapter = adapter_parameters(subject.model)
    here = trees.clone(adapter)
    scalable = can_be_scaled(subject)

    def measured(tensors: trees.Tree | None, end: bool = True) -> Baseline:
        return Baseline(choose.measure(0), decide.measure(0) if end else None, tensors)

    with adapter_off(subject.model):
        found = {"aligned": measured(scaled(here, 0.0) if scalable else None)}
    if scalable:
        for factor in SCALES:
            tensors = scaled(here, factor)
            trees.assign(adapter, tensors)
            found[f"scale {factor:g}"] = measured(tensors, end=False)
        trees.assign(adapter, here)
    found["drifted"] = measured(None)
    return found


def can_be_scaled(subject: Subject) -> bool:
    """Not one with more than low-rank factors (DoRA's magnitudes, trained biases), nor one that holds a part of
    the base's weights (PiSSA): its update is no multiple of ``B A``.
    """
    low_rank = all(_LOW_RANK.search(name) for name in adapter_parameters(subject.model))
    return low_rank and not any(map(moves_base, subject.model.peft_config.values()))


def second_factors(adapter: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The ``B`` of every ``B A``."""
    return [tensor for name, tensor in adapter.items() if _SECOND_FACTOR.search(name)]


def scaled(adapter: trees.Tree, factor: float) -> trees.Tree:
    """The tensors of an adapter whose update is ``factor`` times as large."""
    return {name: factor * t if _SECOND_FACTOR.search(name) else t.clone() for name, t in adapter.items()}
