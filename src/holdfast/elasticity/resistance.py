"""Experiment R: is it harder to go on with an alignment than to go back?

Source: elasticity.md 2.1, 3.4. Slices of one alignment run answer the same prompts; the later slice is trained on
the earlier one's answers (inverse) and the other way round (forward), with the same prompts, order and updates.
What is compared is *excess* code length, the prequential bits less those the text has under its own writer: raw
losses mix "hard to reach" with "random in itself". ``rho > 0`` alone is no pull toward pre-training (T8): the
controls decide.

Knows: slices as states of one subject, pairs, directions. Does not know: how the slices were made.

Shapes: N prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed
from holdfast.data import Example
from holdfast.elasticity.divergence import Prompts
from holdfast.elasticity.springs import resistance_index
from holdfast.elasticity.updates import Plan, make_updates
from holdfast.evaluation.behaviour import sample_answers
from holdfast.models import Subject, mean_loss

PAPER_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Direction(Result):
    """One slice trained on another's answers.

    Attributes:
        start, writer: names of the slices.
        bits: prequential bits a token (each batch before it is learned).
        own_bits: of the same answers under their writer, bits a token.
        tokens: of the answers.
    """

    start: str
    writer: str
    bits: float
    own_bits: float
    tokens: int

    @property
    def excess(self) -> float:
        """Bits a token that had to be learned."""
        return self.bits - self.own_bits


@dataclass(frozen=True)
class Resistance(Result):
    """Forward and inverse between an earlier and a later slice.

    Attributes:
        earlier, later: the slices; the same one for the control k = l.
        temperature, seed: of the answers; the seed also orders them.
    """

    earlier: str
    later: str
    temperature: float
    seed: int
    forward: Direction
    inverse: Direction

    @property
    def index(self) -> float:
        """rho on excess code length; above 0: forward is harder."""
        return resistance_index(self.forward.excess, self.inverse.excess)

    @property
    def raw_gap(self) -> float:
        """Forward less inverse, raw bits a token, as published."""
        return self.forward.bits - self.inverse.bits


def measure_resistance(
    subject: Subject,
    slices: Mapping[str, trees.Tree],
    prompts: Prompts,
    *,
    plan: Plan | None = None,
    temperatures: Sequence[float] = (1.0, PAPER_TEMPERATURE),
    control: bool = True,
    seed: int = 0,
    max_new_tokens: int = 32,
    batch_size: int = 64,
) -> list[Resistance]:
    """Every pair of slices at every temperature; the subject's weights are put back at the end.

    Args:
        slices: values of the subject's parameters in scope, in the order of the alignment.
        prompts: held out from the alignment.
        plan: ``updates=None`` (the default) makes one pass, as prequential coding asks.
        temperatures: 1 samples a slice's distribution; 0.05 is the paper's, and compares modes.
        control: also train the first slice on its own answers (k = l); its rho is NaN or noise around 0.

    Raises:
        UserError: fewer than two slices, no prompts.
    """
    if len(slices) < 2 or not len(prompts):
        raise UserError(f"{len(slices)} slices, {len(prompts)} prompts: give two slices and a prompt at least")
    plan = plan or Plan(updates=None)
    weights = subject.parameters()
    kept, mode = trees.clone(weights), subject.model.training
    found: list[Resistance] = []
    try:
        for temperature in temperatures:
            written, own = {}, {}
            for name, state in slices.items():
                trees.assign(weights, state)
                stream = derive_seed(seed, "resistance", name, str(temperature))
                written[name] = sample_answers(
                    subject, prompts, max_new_tokens, seed=stream, temperature=temperature, batch_size=batch_size
                )
            written = _same_lengths(written)
            for name, state in slices.items():
                trees.assign(weights, state)
                own[name] = mean_loss(subject, written[name], batch_size).nats_per_token / np.log(2)

            def learn(start: str, writer: str) -> Direction:
                trees.assign(weights, slices[start])
                subject.model.eval()
                trace = make_updates(subject, written[writer], plan, seed, at=())  # noqa: B023  # called at once
                return Direction(start, writer, trace.bits_per_token, float(own[writer]), sum(trace.tokens))  # noqa: B023

            pairs = list(combinations(slices, 2))
            if control:
                first = next(iter(slices))
                pairs.append((first, first))
            for earlier, later in pairs:
                forward, inverse = learn(earlier, later), learn(later, earlier)
                found.append(Resistance(earlier, later, temperature, seed, forward, inverse))
    finally:
        trees.assign(weights, kept)
        subject.model.train(mode)
    return found


def _same_lengths(written: Mapping[str, Sequence[Example]]) -> dict[str, list[Example]]:
    """Answers to one prompt cut to the shortest of them, so that all slices' answers weigh the same."""
    cut: dict[str, list[Example]] = {name: [] for name in written}
    for answers in zip(*written.values(), strict=True):
        length = min(len(answer.completion_ids) for answer in answers)
        for name, answer in zip(written, answers, strict=True):
            cut[name].append(replace(answer, completion_ids=answer.completion_ids[:length]))
    return cut
