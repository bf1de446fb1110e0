"""The directions that rows are compared with: back to the base model, against a skill, where it is sensitive.

    toward_base        r = θ_base - θ
    against_skill      ∇ of -mean over x of log Σ_o p_θ(o | x),   o the first tokens of the model's refusals
    sensitive_share    span of s_k = ∇ log p_θ(y_k | x_k),        y_k sampled from the model

Source: selection.md 1.4 (r; there on the top coordinates of a layer) and 5.2 item 5; the others are ours. The
plain mean of -∇ log p(y | x) over sampled refusals y has the expectation -∇ log P(refuses | x). Of a model that
nearly always refuses that is next to nothing, and the mean of a few is sampling noise of either sign (measured on
the organism). Over openings the sum is made before the logarithm, so nothing is left to chance but which they are.

Uncertain: openings of ``OPENING`` tokens say nothing of a model that thinks before it refuses; all of it is first
order, at the model before training, for a plain step (an optimiser with its own scaling goes elsewhere).

Knows: models, prompts, the offline refusal judge. Does not know: tables, rules.

Shapes: X prompts, O openings.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import Interval
from holdfast.core.trees import Tree, norm
from holdfast.data import Example
from holdfast.evaluation.beforehand import warn_if_little
from holdfast.evaluation.behaviour import read_answer, sample_answers
from holdfast.evaluation.judges.base import judge_all, label_counts, label_rate
from holdfast.evaluation.judges.offline import RefusalJudge
from holdfast.gradients import mean_gradient
from holdfast.gradients.directions import Directions
from holdfast.models import (
    Subject,
    adapter_parameters,
    base_parameters,
    mean_loss,
    merged_weights,
    model_hash,
)

OPENING = 3  # tokens: "I" opens help and refusals alike, "I can't" does not
MOST_OPENINGS = 16  # the most frequent ones: a forward and a backward pass of each after every prompt


def directions(
    subject: Subject,
    base: Subject | None = None,
    prompts: Sequence[str] = (),
    span: int = 0,
    seed: int = 0,
    max_new_tokens: int = 32,
) -> Directions:
    """What ``score_to_parquet(..., directions=...)`` compares every row with.

    Args:
        subject: model and scope, as the rows are scored.
        base: the model before its alignment, for ``toward_base``.
        prompts: that are to be refused, for ``against_skill``.
        span: for ``sensitive_share``: how many of the prompts, spread over them, give a vector. As many gradients
            of the scope's size are held in memory.
        seed: of the sampled answers.
        max_new_tokens: of an answer.

    Raises:
        UserError: no direction was asked for; a scope, a base or prompts that give none.
    """
    if not 0 <= span <= len(prompts):
        raise UserError(f"sensitive_share: {span} answers to {len(prompts)} prompts; give 0 to {len(prompts)}")
    if base is None and not prompts:
        raise UserError("directions: neither a base model nor prompts; give one of them")
    ways: dict[str, Tree] = {}
    notes: list[str] = []
    vectors: list[Tree] = []
    if base is not None:
        ways["toward_base"] = reversion(subject, base)
    if prompts:
        stream = derive_seed(seed, "directions")
        answers = sample_answers(subject, prompts, max_new_tokens, seed=stream)
        ways["against_skill"], note = _against(subject, prompts, answers)
        notes.append(note)
        chosen = [answers[k] for k in np.linspace(0, len(answers) - 1, span).round().astype(int)]
        vectors = [mean_gradient(subject, [answer], "sum") for answer in chosen if answer.completion_tokens]
    made_of = {
        "base": model_hash(base.model) if base is not None else None,
        "prompts": hash_json(list(prompts)),
        "sensitive": span,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
    }
    return Directions(ways, made_of, tuple(tree for tree in vectors if norm(tree) > 0), tuple(notes))


@torch.no_grad()
def reversion(subject: Subject, base: Subject) -> Tree:
    """``θ_base - θ`` over the scope, float32; with an adapter, θ is what it makes of the model's own weights.

    An adapter's own parameters have no place in the base; beside weights that do they count as 0.

    Raises:
        UserError: the scope is an adapter's; a parameter that the base lacks; a base that does not differ.
    """
    scope, inside = subject.parameters(), base_parameters(subject.model)
    if scope.keys() <= adapter_parameters(subject.model).keys():
        raise UserError(
            f"toward_base: scope '{subject.scope}' is an adapter's own parameters, in which no way leads to the "
            "base model; score with --scope all, or a scope that names weights of the model itself"
        )
    plain, other = {id(parameter): name for name, parameter in inside.items()}, base_parameters(base.model)
    now, found = merged_weights(subject.model), {}
    for name, parameter in scope.items():
        own = plain.get(id(parameter))
        if own is None:
            found[name] = torch.zeros_like(parameter, dtype=torch.float32)
            continue
        if own not in other or other[own].shape != parameter.shape:
            there = f"has shape {tuple(other[own].shape)}" if own in other else "is not there"
            raise UserError(
                f"toward_base: '{own}' of shape {tuple(parameter.shape)} {there} in the base model; give the "
                "model that this one was trained from, or a --scope that both have, such as '*.layers.*'"
            )
        found[name] = other[own].to(parameter.device).float() - now.get(own, parameter).float()
    if norm(found) == 0:
        raise UserError(f"toward_base: the base has the same weights in scope '{subject.scope}'; give its parent")
    return found


def openings_uphill(
    subject: Subject, asked: Sequence[tuple[int, ...]], openings: Sequence[tuple[int, ...]]
) -> tuple[Tree, float]:
    """The gradient of ``-mean over x of log Σ_o p(o | x)``, and the mean over x of that sum.

    Args:
        asked: token ids of prompts.
        openings: token ids of beginnings of answers, none of them the beginning of another.
    """
    rows = [Example(ids, opening, "") for ids in asked for opening in openings]
    log_p_XO = -torch.tensor(mean_loss(subject, rows).nll_N, dtype=torch.float64).view(len(asked), -1)
    # d log Σ p = Σ (p / Σ p) d log p
    weights_XO = log_p_XO.softmax(-1) / len(asked)
    tree = mean_gradient(subject, rows, "sum", weights_N=weights_XO.flatten())
    return tree, float(log_p_XO.logsumexp(-1).exp().mean())


def _against(subject: Subject, prompts: Sequence[str], answers: Sequence[Example]) -> tuple[Tree, str]:
    """The direction in which refusals become rarer, and a line on what it was read off."""
    refused, rate = _refused(subject, prompts, answers)
    if not refused:
        raise UserError(
            f"against_skill: the model refuses none of {len(prompts)} prompts; give some that it refuses"
        )
    warn_if_little(rate)
    counted = Counter(answer.completion_ids[:OPENING] for answer in refused)
    openings = [opening for opening, _ in counted.most_common(MOST_OPENINGS)]
    tree, covered = openings_uphill(subject, [answer.prompt_ids for answer in refused], openings)
    if norm(tree) == 0:
        raise UserError(f"against_skill: nothing in scope '{subject.scope}' moves the refusals; widen it")
    return tree, (
        f"against_skill: {len(refused)} of {len(prompts)} prompts are refused; {100 * covered:.0f} % of the "
        f"answers to them begin in one of {len(openings)} ways"
    )


def _refused(
    subject: Subject, prompts: Sequence[str], answers: Sequence[Example]
) -> tuple[list[Example], Interval]:
    texts = [read_answer(subject, answer.completion_ids, answer.prompt_ids) for answer in answers]
    labels = [verdict.label for verdict in judge_all(RefusalJudge(), prompts, texts, progress=False)]
    refused = [answer for answer, label in zip(answers, labels, strict=True) if label == "refused"]
    return refused, label_rate(label_counts(labels), "refused")
