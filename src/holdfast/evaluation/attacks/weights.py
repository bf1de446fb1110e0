"""Attacks on the weights: a little harmless fine-tuning, random noise, a scaled adapter. All are undone.

Knows: tensors, PEFT's scales. Does not know: judges, nor how to train: a relearning attack is handed a function.

Sources: relearning by benign fine-tuning, Qi et al. 2023 (arXiv 2310.03693); random directions normalised layer by
layer, Peng et al. 2024 (safety basin, arXiv 2405.17374).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import generator, seeded
from holdfast.evaluation.attacks.base import Attack, Spent
from holdfast.models import Subject

FineTune = Callable[[Subject, int], Spent]


def adapter_scaling(factor: float) -> Attack:
    """The adapter's change to the weights times ``factor``: 0 takes it off, above 1 exaggerates it."""
    return Attack(f"adapter-x{factor:g}", "weights", weights=(_Scaled(factor),))


def weight_noise(size: float, draws: int = 3) -> Attack:
    """Every weight tensor moved by ``size`` times its own norm in a random direction; the worst draw counts.

    Args:
        size: relative length of the step, such as 0.1.
        draws: of the direction.
    """
    if draws < 1 or size <= 0:
        raise UserError(f"weight noise of size {size:g}, {draws} draws: give a size above 0 and at least one draw")
    return Attack(f"noise-{size:g}x{draws}", "weights", weights=(_Noise(size, draws),))


def relearning(fine_tune: FineTune, name: str = "relearn") -> Attack:
    """A few steps of harmless fine-tuning before asking.

    Args:
        fine_tune: (subject, seed) -> what it cost; trains the subject's own weights in place.
            ``holdfast.pipeline.benign_fine_tune`` makes a plain one.
    """
    return Attack(name, "weights", weights=(_Relearned(fine_tune),))


@dataclass(frozen=True)
class _Scaled:
    factor: float
    versions: int = 1
    needs_adapter: bool = True

    @contextlib.contextmanager
    def applied(self, subject: Subject, version: int, seed: int) -> Iterator[tuple[Subject, Spent]]:
        layers: list[Any] = [
            module
            for module in subject.model.modules()
            if isinstance(getattr(module, "scaling", None), dict) and hasattr(module, "active_adapters")
        ]
        if not layers:
            raise UserError("scaling an adapter needs one; pass --adapter, or leave this attack out")
        if any(getattr(layer, "merged_adapters", ()) for layer in layers):
            raise UserError("the adapter is merged into the weights and cannot be scaled; unmerge it first")
        if any(_beyond_scale(module) for module in subject.model.modules()):
            raise UserError(
                "this adapter changes more than its scale reaches (DoRA magnitudes, modules_to_save); leave "
                "this attack out"
            )
        before = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                for name in layer.active_adapters:
                    if name in layer.scaling:
                        layer.scaling[name] *= self.factor
            yield subject, Spent()
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)


@dataclass(frozen=True)
class _Noise:
    size: float
    versions: int

    @contextlib.contextmanager
    def applied(self, subject: Subject, version: int, seed: int) -> Iterator[tuple[Subject, Spent]]:
        with moved(subject.model, self.size, version, seed):
            yield subject, Spent()


@dataclass(frozen=True)
class _Relearned:
    fine_tune: FineTune
    versions: int = 1
    trains: bool = True

    @contextlib.contextmanager
    def applied(self, subject: Subject, version: int, seed: int) -> Iterator[tuple[Subject, Spent]]:
        with kept(subject.model):
            modes = [(module, module.training) for module in subject.model.modules()]
            trained = [(p, p.requires_grad, p.grad) for p in subject.model.parameters()]
            try:
                for parameter, _, _ in trained:
                    parameter.grad = None
                with seeded(seed, "relearning"), torch.enable_grad():
                    spent = self.fine_tune(subject, seed)
            finally:
                for parameter, wanted, gradient in trained:
                    parameter.requires_grad_(wanted)
                    parameter.grad = gradient
                for module, training in modes:
                    module.training = training
            yield subject, spent


def _beyond_scale(module: torch.nn.Module) -> bool:
    """Whether an adapter's part here stays at work at scale 0."""
    parts = (getattr(module, "modules_to_save", None), getattr(module, "lora_magnitude_vector", None))
    return any(isinstance(part, torch.nn.ModuleDict) and len(part) > 0 for part in parts)


@contextlib.contextmanager
def kept(model: torch.nn.Module) -> Iterator[None]:
    """Whatever happens to parameters and buffers inside, afterwards they are what they were, bit for bit.

    The copy lies in main memory and takes as much of it as the model.
    """
    tensors = [*model.parameters(), *model.buffers()]
    copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)


@contextlib.contextmanager
def moved(model: torch.nn.Module, size: float, draw: int, seed: int) -> Iterator[None]:
    """Every floating-point parameter moved by ``size`` times its own norm along a Gaussian direction of its own.

    Args:
        size: alpha; its sign is the way along the direction.
        draw, seed: name the direction; two sizes with the same names lie on one line.

    Raises:
        UserError: quantised weights, which cannot be moved by a small step.
    """
    stored = next((p for p in model.parameters() if not p.is_floating_point()), None)
    if stored is not None:
        raise UserError(f"weights stored as {stored.dtype} cannot be moved a little; load the model unquantised")
    with kept(model):
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                stream = generator(seed, "noise", draw, number)
                direction = torch.randn(parameter.shape, generator=stream, dtype=torch.float32)
                length = torch.linalg.vector_norm(direction)
                norm = torch.linalg.vector_norm(parameter.detach().float()).cpu()
                step = direction * (size * norm / length.clamp(min=1e-30))
                parameter.add_(step.to(parameter.device, parameter.dtype))
        yield
