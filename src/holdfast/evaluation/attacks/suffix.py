"""A suffix found by gradients: the tokens after the request that make a compliant opening most likely. White box.

Knows: gradients at the embeddings, token swaps. Does not know: judges, rates.

Source: Zou et al. 2023 (GCG, arXiv 2307.15043). One prompt at a time; a candidate is kept only if its *text* gives
back the same tokens, so that what was searched is what an attacker could type. Meant for small models: one prompt
costs ``steps`` gradients and ``steps * candidates`` forward passes.

Shapes: B candidates, T time, S suffix tokens, H width, V vocabulary, Y target tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import generator, undisturbed
from holdfast.evaluation.attacks.base import Attack, Conversation, Place, Spent
from holdfast.evaluation.attacks.prompts import COMPLIANT_OPENING, fits
from holdfast.models import Subject, declared_length


@dataclass(frozen=True)
class SuffixSearch:
    """Settings of the search.

    Attributes:
        target: the opening to be made likely: one text for all, or one a prompt.
        tokens: length of the suffix.
        steps: gradients, at most; the search ends early when greedy decoding would write the target.
        candidates: single-token swaps tried a step.
        top: a swap is drawn among this many best tokens of a position.
        batch_size: candidates in one forward pass.
    """

    target: str | Mapping[str, str] = COMPLIANT_OPENING
    tokens: int = 10
    steps: int = 50
    candidates: int = 64
    top: int = 64
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("tokens", "steps", "candidates", "top", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"suffix search: {name} is {getattr(self, name)}; give at least 1")

    def __call__(self, talk: Conversation, place: Place) -> Conversation:
        """The conversation with the best suffix found, and what finding it cost."""
        with undisturbed(place.subject.model):
            return self._search(talk, place)

    def _search(self, talk: Conversation, place: Place) -> Conversation:
        frame = _frame(talk, place, self)
        stream = generator(place.seed, "suffix", place.index)
        ids_S = frame.start_S
        best_loss, reached = _losses(place.subject, frame, ids_S[None], self.batch_size)
        lowest, tried, steps = float(best_loss[0]), 1, 0
        while steps < self.steps and not bool(reached[0]):
            steps += 1
            proposals_BS = self._proposals(place.subject, frame, ids_S, stream)
            proposals_BS = torch.stack([row for row in proposals_BS if frame.survives(row)] or [ids_S])
            losses_B, reached_B = _losses(place.subject, frame, proposals_BS, self.batch_size)
            tried += len(proposals_BS)
            winner = int(losses_B.argmin())
            if float(losses_B[winner]) < lowest:
                lowest, ids_S, reached = (
                    float(losses_B[winner]),
                    proposals_BS[winner],
                    reached_B[winner : winner + 1],
                )
        spent = talk.spent + Spent(gradient_steps=steps, candidates=tried)
        return replace(talk.with_request(frame.text(ids_S)), spent=spent)

    def _proposals(
        self, subject: Subject, frame: "_Frame", ids_S: torch.Tensor, stream: torch.Generator
    ) -> torch.Tensor:
        """Copies of the suffix, each with one token replaced by one that the gradient likes."""
        gain_SV = -_one_hot_gradient(subject, frame, ids_S)
        gain_SV[:, ~frame.allowed_V] = -torch.inf
        top = min(self.top, int(frame.allowed_V.sum()))
        best_ST = gain_SV.topk(top, dim=1).indices
        proposals_BS = ids_S.repeat(self.candidates, 1)
        places_B = torch.randint(len(ids_S), (self.candidates,), generator=stream)
        picks_B = torch.randint(top, (self.candidates,), generator=stream)
        proposals_BS[torch.arange(self.candidates), places_B] = best_ST[places_B, picks_B]
        return proposals_BS


def suffix_search(search: SuffixSearch | None = None) -> Attack:
    """An attack that searches a suffix for every prompt (GCG)."""
    search = search or SuffixSearch()
    return Attack(f"suffix-{search.tokens}x{search.steps}", "weights", (search,))


@dataclass(frozen=True, eq=False)
class _Frame:
    """What stands around the suffix: tokens before and after it, and the target that is to follow."""

    talk: Conversation
    subject: Subject
    before: list[int]
    after: list[int]
    target_Y: torch.Tensor
    start_S: torch.Tensor
    allowed_V: torch.Tensor

    def text(self, ids_S: torch.Tensor) -> str:
        return f"{self.talk.request} {_decode(self.subject, ids_S.tolist())}"

    def survives(self, ids_S: torch.Tensor) -> bool:
        """Whether the suffix as text is the suffix as tokens."""
        return self.talk.with_request(self.text(ids_S)).encode(self.subject) == [
            *self.before,
            *ids_S.tolist(),
            *self.after,
        ]

    def rows(self, ids_BS: torch.Tensor) -> torch.Tensor:
        """Whole inputs, target included."""
        count = len(ids_BS)
        parts = [torch.tensor(self.before), torch.tensor(self.after, dtype=torch.long), self.target_Y]
        before, after, target = (part.repeat(count, 1) for part in parts)
        return torch.cat([before, ids_BS, after, target], dim=1).to(self.subject.device)


def _decode(subject: Subject, ids: list[int]) -> str:
    assert subject.tokenizer is not None
    return str(
        subject.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    ).strip()


def _frame(talk: Conversation, place: Place, search: SuffixSearch) -> _Frame:
    """Find where a suffix stands by comparing two conversations whose suffixes differ in every token."""
    subject, tokenizer = place.subject, place.subject.tokenizer
    assert tokenizer is not None
    target = search.target if isinstance(search.target, str) else search.target.get(place.prompt)
    if not target:
        raise UserError(
            f"suffix search: no target for prompt {place.index} ({place.prompt[:40]!r}); give one a prompt"
        )
    target_ids = list(tokenizer(target, add_special_tokens=False)["input_ids"])
    allowed_V = _typeable(subject)
    tokens = allowed_V.nonzero()[:, 0].tolist()
    for first, second in pairwise(tokens):
        rows = []
        for token in (first, second):
            text = f"{talk.request} {_decode(subject, [token] * search.tokens)}"
            rows.append(talk.with_request(text).encode(subject))
        if len(rows[0]) != len(rows[1]):
            continue
        differing = [k for k, pair in enumerate(zip(*rows, strict=True)) if pair[0] != pair[1]]
        start = differing[0] if differing else 0
        ours = [first] * search.tokens
        if rows[0][start : start + search.tokens] == ours and len(differing) == search.tokens:
            end = start + search.tokens
            if not fits(rows[0], subject, len(target_ids)):
                raise UserError(
                    f"suffix search, prompt {place.index}: {len(rows[0])} tokens and a target of "
                    f"{len(target_ids)} are more than this model reads "
                    f"({declared_length(subject.model)}); take a shorter suffix"
                )
            return _Frame(
                talk,
                subject,
                rows[0][:start],
                rows[0][end:],
                torch.tensor(target_ids),
                torch.tensor(ours),
                allowed_V,
            )
    raise UserError(
        "suffix search: no two tokens of this tokenizer stand for themselves after a request; leave it out"
    )


def _typeable(subject: Subject) -> torch.Tensor:
    """Tokens that are printable text and, typed alone, come back as themselves."""
    assert subject.tokenizer is not None
    special = set(subject.tokenizer.all_special_ids)
    size = subject.model.get_input_embeddings().weight.shape[0]
    texts = {token: _decode(subject, [token]) for token in range(min(size, len(subject.tokenizer)))}
    texts = {token: text for token, text in texts.items() if token not in special and text.isprintable() and text}
    allowed_V = torch.zeros(size, dtype=torch.bool)
    again = subject.tokenizer([f" {text}" for text in texts.values()], add_special_tokens=False)["input_ids"]
    for token, ids in zip(texts, again, strict=True):
        allowed_V[token] = list(ids) == [token]
    return allowed_V


def _target_loss(subject: Subject, frame: _Frame, rows_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean nats a target token, and whether greedy decoding writes all of it."""
    target_Y = frame.target_Y.to(rows_BT.device)
    logits_BYV = subject.model(input_ids=rows_BT, use_cache=False).logits[:, -len(target_Y) - 1 : -1].float()
    wanted_BY = target_Y.expand(len(rows_BT), -1)
    nll_BY = torch.nn.functional.cross_entropy(logits_BYV.transpose(1, 2), wanted_BY, reduction="none")
    return nll_BY.mean(1), (logits_BYV.argmax(-1) == wanted_BY).all(1)


def _losses(
    subject: Subject, frame: _Frame, ids_BS: torch.Tensor, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        parts = [_target_loss(subject, frame, frame.rows(part)) for part in ids_BS.split(batch_size)]
    losses, reached = zip(*parts, strict=True)
    return torch.cat(losses).cpu(), torch.cat(reached).cpu()


def _one_hot_gradient(subject: Subject, frame: _Frame, ids_S: torch.Tensor) -> torch.Tensor:
    """Gradient of the target's loss by the suffix's one-hot rows, up to a factor: float32, (S, V), on the CPU.

    Taken at what the embedding layer gives, whatever it does besides looking up.
    """
    layer = subject.model.get_input_embeddings()
    seen: list[torch.Tensor] = []

    def cut(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = layer.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            loss, _ = _target_loss(subject, frame, frame.rows(ids_S[None]))
            (grad_1TH,) = torch.autograd.grad(loss.sum(), seen[0])
    finally:
        handle.remove()
    start = len(frame.before)
    grad_SH = grad_1TH[0, start : start + len(ids_S)].float()
    return (grad_SH @ layer.weight.detach().float().T).cpu()
