"""Elasticity of a run: a probe at every checkpoint, and the stiffness of every step between them.

It measures checkpoints it is given and trains nothing; what trains is rebound.py and resistance.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from holdfast.core.errors import UserError
from holdfast.core.progress import track
from holdfast.core.results import Result
from holdfast.data import Example
from holdfast.elasticity.coefficients import Stiffness, measure_stiffness
from holdfast.elasticity.probe import Probe, Prompts, probe
from holdfast.models import Subject, adapter_off

PRETRAIN, ALIGNMENT, PERTURBATION = "pretrain", "alignment", "perturbation"


@dataclass(frozen=True)
class Elasticity(Result):
    """Probes of all checkpoints, the base model first, and the stiffness of each step.

    Attributes:
        probes: in the order given, after "base".
        steps: between neighbours. To read the stiffness of an aligned model against a perturbation, give the
            aligned checkpoint and the same one after a few updates on the perturbation: the last step is theirs.
        nominal_k: tokens of pretraining over tokens of alignment, as told; None if not told.
    """

    probes: tuple[Probe, ...]
    steps: tuple[Stiffness, ...]
    nominal_k: float | None

    def probe(self, name: str) -> Probe:
        """The probe of a checkpoint, by name."""
        return next(p for p in self.probes if p.name == name)


def measure_elasticity(
    base: Subject | None,
    checkpoints: Mapping[str, Subject] | Sequence[Subject],
    pretrain: Sequence[Example],
    alignment: Sequence[Example],
    perturbation: Sequence[Example] | None = None,
    *,
    prompts: Prompts = (),
    nominal_k: float | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    gradients: bool = False,
    seed: int = 0,
) -> Elasticity:
    """Probe the base and every checkpoint and compare neighbours.

    Args:
        base: the pre-trained model; None means the first checkpoint with its adapter off.
        checkpoints: in order of training, as separate subjects that stay as they are; names if you have them.
        pretrain, alignment, perturbation: held-out examples of each kind (the last is optional).
        prompts: for KL to and from the base model.
        nominal_k: size ratio to test the conservation law with.
        gradients: also read the gradients' cosine and the stiffness toward the perturbation.

    Raises:
        UserError: no checkpoints, or what :func:`probe` raises.
    """
    named = _named(checkpoints)
    if not named:
        raise UserError("checkpoints: none given; give at least one")
    texts = {PRETRAIN: pretrain, ALIGNMENT: alignment}
    if perturbation is not None:
        texts[PERTURBATION] = perturbation

    def read(name: str, subject: Subject) -> Probe:
        return probe(
            subject,
            base,
            texts,
            prompts,
            seed,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            gradients=tuple(texts) if gradients else (),
            name=name,
        )

    probes = [_read_base(read, base, next(iter(named.values())))]
    probes += [read(name, subject) for name, subject in track(list(named.items()), "probing checkpoints")]
    steps = tuple(_step(a, b, nominal_k, seed) for a, b in pairwise(probes))
    return Elasticity(tuple(probes), steps, nominal_k)


def _named(checkpoints: Mapping[str, Subject] | Sequence[Subject]) -> dict[str, Subject]:
    if isinstance(checkpoints, Mapping):
        return dict(checkpoints)
    return {f"checkpoint {k}": subject for k, subject in enumerate(checkpoints, start=1)}


def _read_base(read: Callable[[str, Subject], Probe], base: Subject | None, first: Subject) -> Probe:
    if base is not None:
        return read("base", base)
    with adapter_off(first.model):
        return replace(read("base", first), distance=0.0)  # its weights still lie there, switched off


def _step(before: Probe, after: Probe, nominal_k: float | None, seed: int) -> Stiffness:
    def documents(text: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
        return before.document_bits[text], after.document_bits[text], before.document_tokens[text]

    return measure_stiffness(
        documents(PRETRAIN),
        documents(ALIGNMENT),
        names=(before.name, after.name),
        nominal_k=nominal_k,
        noise_floor_bits=max(before.noise_floor_bits, after.noise_floor_bits),
        seed=seed,
    )
