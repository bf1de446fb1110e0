"""Randomness with a name: every stream is derived from one seed and the words that say what it is for.

Knows: Python's, NumPy's and torch's generators and how to put them back.
Does not know: who needs randomness.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every name, stable across machines and versions."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> "torch.Generator":
    """A CPU generator seeded by :func:`derive_seed`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextlib.contextmanager
def _restored_rng() -> Iterator[None]:
    import numpy
    import torch

    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Seed the global generators inside the block (for libraries that use them) and restore them after."""
    import numpy
    import torch

    value = derive_seed(seed, *names)
    with _restored_rng():
        random.seed(value)
        numpy.random.seed(value % 2**32)
        torch.manual_seed(value)
        yield


@contextlib.contextmanager
def undisturbed(model: "torch.nn.Module") -> Iterator[None]:
    """Measure in the middle of training: eval mode and no gradients inside; RNG and modes restored after."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    with _restored_rng(), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
