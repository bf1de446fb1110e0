"""Log-likelihood of given continuations, fed and cut the way lm-evaluation-harness does it.

Knows: (context, continuation) pairs, rolling windows, the model's longest input.
Does not know: items, choices, what a likelihood is compared with.

The last token of a pair is predicted and never fed, so a pair of ``max_length + 1`` tokens fits a model that reads
``max_length``. What is longer loses tokens on the left, as in the harness.

Shapes: B batch, T time, S positions of a slice, M of a batch, V vocabulary, N pairs.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.data import Batch, Example, collate
from holdfast.models.forward import scored_logits
from holdfast.models.head import ScoredLogits, logits_at, slices
from holdfast.models.limits import declared_length
from holdfast.models.prefix import FEWEST, Prefix, common_prefix
from holdfast.models.subject import Subject

Pair = tuple[Sequence[int], Sequence[int]]
DEFAULT_MAX_LENGTH = 2048
_UNSET_LENGTH = 10**9  # tokenizers without a limit carry a huge number


@dataclass(frozen=True)
class Likelihoods:
    """One entry a pair, in input order.

    Attributes:
        log_N: sum of log-probabilities of the continuation's tokens, nats, float64.
        tokens_N: tokens of the continuation.
        greedy_N: whether greedy decoding would have produced the continuation.
        truncated: pairs that lost context on the left.
    """

    log_N: np.ndarray
    tokens_N: np.ndarray
    greedy_N: np.ndarray
    truncated: int


def longest_input(subject: Subject) -> int:
    """The most tokens the model reads at once: of its configuration, else of its tokenizer, else 2048."""
    declared = declared_length(subject.model)
    if declared is not None:
        return declared
    length = getattr(subject.tokenizer, "model_max_length", None)
    return int(length) if length is not None and length < _UNSET_LENGTH else DEFAULT_MAX_LENGTH


def continuation_likelihoods(
    subject: Subject, pairs: Sequence[Pair], batch_size: int = 16, max_length: int | None = None
) -> Likelihoods:
    """Log-probability of each continuation given its context.

    Args:
        pairs: token ids of contexts and continuations, neither empty.
        max_length: the most tokens to feed; None asks :func:`longest_input`.

    Raises:
        UserError: an empty context or continuation; a continuation longer than ``max_length``.
    """
    limit = max_length or longest_input(subject)
    cut = [_fed(k, pair, limit) for k, pair in enumerate(pairs)]
    log_N, tokens_N = np.zeros(len(cut)), np.array([len(c) for _, c in pairs], dtype=np.int64)
    greedy_N = np.zeros(len(cut), dtype=bool)
    order = sorted(range(len(cut)), key=lambda k: -len(cut[k]))  # longest first: what does not fit fails at once
    with undisturbed(subject.model):
        prefix = _shared(subject, cut, pairs)
        skip = prefix.length if prefix is not None else 0
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            batch = collate([Example(tuple(cut[k][skip:]), ()) for k in index], subject.pad_id, index=index)
            batch = batch.to(subject.device)
            width = batch.input_ids_BT.shape[1]
            spans = [(row, len(cut[k]) - len(pairs[k][1]), len(cut[k])) for row, k in enumerate(index)]
            places = [row * width + t - skip for row, start, stop in spans for t in range(start, stop)]
            wanted_M = torch.tensor([token for k in index for token in pairs[k][1]], device=subject.device)
            logits = _logits(subject, batch, torch.tensor(places, device=subject.device), prefix)
            log_M, greedy_M = _compared(logits, wanted_M, subject.vocabulary)
            counts = [len(pairs[k][1]) for k in index]
            for k, log_S, greedy_S in zip(index, log_M.split(counts), greedy_M.split(counts), strict=True):
                log_N[k], greedy_N[k] = float(log_S.sum()), bool(greedy_S.all())
    truncated = sum(len(a) + len(b) - 1 > limit for a, b in pairs)
    return Likelihoods(log_N, tokens_N, greedy_N, truncated)


@torch.no_grad()
def _shared(subject: Subject, fed: Sequence[Sequence[int]], pairs: Sequence[Pair]) -> Prefix | None:
    """What all pairs begin with, read; None where it is short, or the model cannot go on from it."""
    if len(fed) < 2:
        return None
    # The last token before a continuation predicts it, so it is among what each row reads itself.
    before = min(len(row) - len(pair[1]) for row, pair in zip(fed, pairs, strict=True))
    length = min(common_prefix(fed), before)
    return Prefix.read(subject.model, fed[0][:length], subject.device) if length >= FEWEST else None


@torch.no_grad()
def _logits(subject: Subject, batch: Batch, position_M: torch.Tensor, prefix: Prefix | None) -> ScoredLogits:
    if prefix is None:
        return scored_logits(subject.model, batch, position_M)
    ids_BT, attention_BT = batch.input_ids_BT, batch.attention_mask_BT
    forward = functools.partial(prefix.logits, subject.model, ids_BT, attention_BT)
    return logits_at(subject.model, forward, position_M, tuple(ids_BT.shape), subject.vocabulary)


def _compared(logits: ScoredLogits, wanted_M: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (float64) of each wanted token, and whether it is the likeliest; on the CPU."""
    log_M, greedy_M = [], []
    for part in slices(len(wanted_M), vocabulary):
        logits_SV = logits[part]
        log_M.append(logits_SV.log_softmax(-1).gather(1, wanted_M[part, None])[:, 0].double().cpu())
        greedy_M.append((logits_SV.argmax(-1) == wanted_M[part]).cpu())
    return torch.cat(log_M), torch.cat(greedy_M)


def _fed(number: int, pair: Pair, limit: int) -> list[int]:
    """The tokens the model reads: all but the last, at most ``limit`` of them, cut on the left."""
    context, continuation = list(pair[0]), list(pair[1])
    if not context or not continuation:
        raise UserError(f"pair {number}: no {'context' if not context else 'continuation'} to score; give one")
    if len(continuation) > limit:
        raise UserError(
            f"pair {number}: a continuation of {len(continuation)} tokens does not fit the model's {limit}; "
            "shorten it, or score it as a text with rolling windows (perplexity)"
        )
    return (context + continuation)[:-1][-limit:]


def rolling_windows(tokens: Sequence[int], prefix: int, max_length: int) -> list[tuple[list[int], list[int]]]:
    """Cut a text so that every token is predicted once, with as much context as fits.

    The first window reads ``prefix`` (BOS, or EOS where there is none) and predicts ``max_length`` tokens; each
    later one predicts the next ``max_length`` and reads them with one token of context; the last one is moved left
    until it is full. As lm-evaluation-harness does with ``context_len=1``.

    Returns:
        (context, predicted) pairs for :func:`continuation_likelihoods`.
    """
    ids = [int(token) for token in tokens]
    windows, done = [], 0
    while done < len(ids):
        stop = min(len(ids), done + max_length)
        start = max(-1, stop - max_length - 1)  # of what is read; -1 is the prefix
        context = ([prefix] if start < 0 else [ids[start]]) + ids[start + 1 : done]
        windows.append((context, ids[done:stop]))
        done = stop
    return windows


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """Token ids as the harness takes them: the tokenizer's own special tokens, BOS never doubled."""
    prefix = tokenizer.decode(prefix_id(tokenizer))
    special = {"add_special_tokens": False} if prefix and text.startswith(prefix) else {}
    return list(tokenizer.encode(text, **special))


def prefix_id(tokenizer: Any) -> int:
    """What stands before a text: BOS, or EOS for tokenizers without one.

    Raises:
        UserError: the tokenizer has neither.
    """
    for value in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if value is not None:
            return int(value)
    raise UserError("the tokenizer has neither a BOS nor an EOS token to begin a text with; set one")


def text_pair(context: str, continuation: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of a context and its continuation, split where the harness splits them.

    Both are tokenised together, so that a word across the border is one token; spaces at the end of the context go
    to the continuation. An empty context is the prefix token.
    """
    if not context:
        ids = list(tokenizer.encode(continuation, add_special_tokens=False))
        prefix = prefix_id(tokenizer)
        return (ids[:1], ids[1:]) if ids[:1] == [prefix] else ([prefix], ids)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    first = text_ids(context, tokenizer)
    return first, text_ids(context + continuation, tokenizer)[len(first) :]
