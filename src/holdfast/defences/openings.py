"""A bound on over-refusal: controls may not come to be answered as the aligned model opens its refusals.

Knows: first tokens of answers, what share of each token's mass is refusals. Does not know: trainers, weights,
the words of a refusal.

With a_v, b_v the mean probability that the aligned model answers a prompt that is refused, or a control, with v
first, v opens a refusal with odds s_v : 1 - s_v,

    s_v = a_v / (a_v + b_v + ε),    r_θ(x) = Σ_v s_v p_θ(v | x),

and the bound adds, for controls x, what the two-outcome KL has grown by:

    [r_θ > r_0] · (r_0 log(r_0 / r_θ) + (1 - r_0) log((1 - r_0) / (1 - r_θ))).

By the data-processing inequality that is at most the KL of the whole answers, so it is in an anchor's nats; but it
is 0 wherever a task changes how controls are *answered*, and where they come to be refused less.

Source: ours. It reaches prompts worded like the controls, also about other things, but hardly those in phrasings
that no control has (measured on the organism): give varied ones. Uncertain: refusals that share their first token
with ordinary answers are seen in part (s_v near ½), those that come later in an answer not at all.

Shapes: V vocabulary, C controls, B of them that are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.evaluation.behaviour import prompt_ids
from holdfast.evaluation.remembered import answer_logits
from holdfast.models import Subject

UNSEEN = 1e-3  # probability below which a first token says nothing about refusing
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Openings:
    """Controls, and how likely the aligned model was to open a refusal to each.

    Attributes:
        examples: the controls, each with one token that is never trained on.
        share_V: s_v.
        refused_C: r_0.
    """

    examples: tuple[Example, ...]
    share_V: torch.Tensor
    refused_C: torch.Tensor

    @classmethod
    def of(cls, aligned: Subject, refused: Sequence[Sequence[int]], controls: Sequence[Any]) -> "Openings":
        """What ``aligned`` does, as it is now.

        Args:
            refused: token ids of prompts that it refuses.
            controls: texts, or token ids, of prompts that it does not.
        """
        if not controls:
            raise UserError("a bound on over-refusal needs controls: harmless prompts; give at least one")
        examples = _opened(prompt_ids(aligned, controls), aligned.pad_id)
        p_HV = _first(aligned, _opened(refused, aligned.pad_id))
        p_CV = _first(aligned, examples)
        a_V, b_V = p_HV.mean(0), p_CV.mean(0)
        share_V = a_V / (a_V + b_V + UNSEEN)
        return cls(examples, share_V, p_CV @ share_V)

    def growth(self, logits: Sequence[torch.Tensor], rows: Sequence[int]) -> torch.Tensor:
        """The formula above for the controls ``rows``, from the current model's logits (1, V): nats, B."""
        log_q_BV = torch.cat(list(logits)).log_softmax(-1)
        share_V = self.share_V.to(log_q_BV.device)
        r0_B = self.refused_C[list(rows)].to(log_q_BV.device)
        log_r_B = (log_q_BV + share_V.log()).logsumexp(-1)
        log_not_B = (log_q_BV + (1 - share_V).log()).logsumexp(-1)
        kl_B = torch.xlogy(r0_B, r0_B) - r0_B * log_r_B + torch.xlogy(1 - r0_B, 1 - r0_B) - (1 - r0_B) * log_not_B
        return torch.where(log_r_B.detach().exp() > r0_B, kl_B, torch.zeros_like(kl_B))


def _opened(asked: Sequence[Sequence[int]], token: int) -> tuple[Example, ...]:
    return tuple(Example(tuple(ids), (token,), str(k)) for k, ids in enumerate(asked))


@torch.no_grad()
def _first(subject: Subject, examples: Sequence[Example]) -> torch.Tensor:
    parts = [examples[k : k + _BATCH] for k in range(0, len(examples), _BATCH)]
    found = [torch.cat(answer_logits(subject.model, part, subject.pad_id)).softmax(-1) for part in parts]
    return torch.cat(found).cpu()
