"""Where an audit stands: at the aligned parameters, or for a fresh LoRA just off them.

Knows: that B = 0 hides half of an adapter's directions. Does not know: what is measured there.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch

from holdfast.core import trees
from holdfast.models import Subject
from holdfast.models.adapters import lora_pairs

AT = "the aligned parameters"
OFF = "just off the start: one mean first update made, so that both factors of the fresh LoRA are active"


def is_fresh_lora(subject: Subject) -> bool:
    """Whether the scope has LoRA pairs and every B of theirs is 0: a change of A then changes nothing."""
    scope = {id(p) for p in subject.parameters().values()}
    pairs = [(a, b) for a, b, _ in lora_pairs(subject.model).values() if id(a) in scope and id(b) in scope]
    return bool(pairs) and not any(bool(b.any()) for _, b in pairs)


@contextmanager
def both_factors_active(subject: Subject, update: Mapping[str, torch.Tensor]) -> Generator[str]:
    """The model moved by ``update`` if its LoRA is fresh; afterwards the same parameters, bit for bit.

    At B = 0 the Fisher has no direction of A (geometry.md 3.8), although Adam moves A at full speed from the
    second step on. The point is one planned step away, so what is measured there belongs to the start as far as
    the first step is small.

    Yields:
        :data:`AT` or :data:`OFF`, to be said with the result.
    """
    if not is_fresh_lora(subject):
        yield AT
        return
    kept = trees.clone(subject.parameters())
    try:
        trees.assign(subject.parameters(), trees.axpy(kept, 1.0, update))
        yield OFF
    finally:
        trees.assign(subject.parameters(), kept)
