"""Tokens one after another: our loop with a key-value cache, the library's for models that keep another state.

Knows: caches, left padding, choosing a token. Does not know: prompts as text, files.

Shapes: B batch, T time, V vocabulary.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from holdfast.data import Example, collate
from holdfast.models.subject import Subject

# Finished rows leave the batch once they are one in so many: dropping copies the cache, keeping costs steps.
SHRINK_AT = 8


def continue_prompts(
    subject: Subject,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    streams: Sequence[torch.Generator],
    ends: Collection[int],
) -> list[list[int]]:
    """Continue one batch of prompts, each until a token of ``ends`` (which is part of the answer) or the limit.

    Args:
        streams: a generator a prompt where ``temperature`` is above 0.
        ends: tokens that end an answer.
    """
    from transformers import PreTrainedModel

    base = base_of(subject.model)
    named = inspect.signature(type(base).forward).parameters
    if isinstance(base, PreTrainedModel) and "past_key_values" not in named:
        return _by_library(subject, prompts_ids, max_new_tokens, temperature, streams, ends)
    return _with_cache(subject, prompts_ids, max_new_tokens, temperature, streams, ends)


def _with_cache(
    subject: Subject,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    streams: Sequence[torch.Generator],
    ends: Collection[int],
) -> list[list[int]]:
    batch = collate([Example(tuple(ids), ()) for ids in prompts_ids], subject.pad_id, side="left")
    input_ids_BT = batch.input_ids_BT.to(subject.device)
    attention_BT = batch.attention_mask_BT.to(subject.device)
    positions_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)
    positional, options = forward_options(subject.model)
    new_ids: list[list[int]] = [[] for _ in prompts_ids]
    rows = list(range(len(prompts_ids)))  # which prompt each row of the tensors belongs to
    running = set(rows)
    cache = None
    for _ in range(max_new_tokens):
        output = subject.model(
            input_ids=input_ids_BT,
            attention_mask=attention_BT,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **({"position_ids": positions_BT} if positional else {}),
            **options,
        )
        cache = getattr(output, "past_key_values", None)
        if cache is None:  # it accepts a cache and makes none
            return _by_library(subject, prompts_ids, max_new_tokens, temperature, streams, ends)
        next_B = _choose(output.logits[:, -1].float().cpu(), temperature, [streams[k] for k in rows if streams])
        for k, token in zip(rows, next_B.tolist(), strict=True):
            if k in running:
                new_ids[k].append(token)
                if token in ends:
                    running.remove(k)
        if not running:
            break
        input_ids_BT = next_B[:, None].to(subject.device)
        attention_BT = torch.cat([attention_BT, torch.ones_like(attention_BT[:, :1])], dim=1)
        positions_BT = positions_BT[:, -1:] + 1
        if SHRINK_AT * len(running) <= (SHRINK_AT - 1) * len(rows) and _can_shrink(cache):
            kept_B = torch.tensor([row for row, k in enumerate(rows) if k in running], device=subject.device)
            cache.batch_select_indices(kept_B)
            input_ids_BT, attention_BT, positions_BT = (
                t[kept_B] for t in (input_ids_BT, attention_BT, positions_BT)
            )
            rows = [k for k in rows if k in running]
    return new_ids


def _can_shrink(cache: Any) -> bool:
    """Whether finished rows can be dropped: plain key-value caches only (a recurrent state is not ours to cut)."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = getattr(cache, "layers", None) or [None]
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def forward_options(model: Any) -> tuple[bool, Mapping[str, int | bool]]:
    """Whether to pass positions (some architectures count from the mask and refuse them), and further arguments.

    ``logits_to_keep=1`` spares the vocabulary-wide logits of all prompt tokens but the last. The load-balancing
    loss of a mixture of experts is a training matter, and its shapes do not fit a cache.
    """
    from transformers import PreTrainedModel

    base = base_of(model)
    named = inspect.signature(type(base).forward).parameters
    positional = "position_ids" in named or not isinstance(base, PreTrainedModel)
    wanted = {"logits_to_keep": 1, "output_router_logits": False}
    return positional, {name: value for name, value in wanted.items() if name in named}


def base_of(model: Any) -> Any:
    """The model under PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def _choose(logits_BV: torch.Tensor, temperature: float, streams: Sequence[torch.Generator]) -> torch.Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = (logits_BV.double() / temperature).softmax(-1)
    drawn = [torch.multinomial(probabilities_BV[row], 1, generator=stream) for row, stream in enumerate(streams)]
    return torch.cat(drawn)


class _Chooser:
    """Makes the library's greedy search take the token we draw, from each prompt's own stream."""

    def __init__(self, temperature: float, streams: Sequence[torch.Generator]) -> None:
        self.temperature, self.streams = temperature, streams

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        next_B = _choose(scores.float().cpu(), self.temperature, self.streams).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, next_B[:, None], 0.0)


def _by_library(
    subject: Subject,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    streams: Sequence[torch.Generator],
    ends: Collection[int],
) -> list[list[int]]:
    """The library's own loop, for models whose state is not a key-value cache (Mamba, RecurrentGemma, RWKV).

    Only prompts of one length share a batch: not every recurrence skips padding.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    answers: list[list[int]] = [[] for _ in prompts_ids]
    base = base_of(subject.model)
    configured = base.generation_config
    base.generation_config = GenerationConfig()  # penalties and sampling of the checkpoint are not asked for
    try:
        for length in sorted({len(ids) for ids in prompts_ids}):
            rows = [k for k, ids in enumerate(prompts_ids) if len(ids) == length]
            chooser = _Chooser(temperature, [streams[k] for k in rows] if streams else [])
            ids_BT = torch.tensor([list(prompts_ids[k]) for k in rows], device=subject.device)
            found_BT = subject.model.generate(
                input_ids=ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(ends) or None,
                pad_token_id=subject.pad_id,
                logits_processor=LogitsProcessorList([chooser]),
            )
            for k, found in zip(rows, found_BT[:, length:].tolist(), strict=True):
                stop = next((t + 1 for t, token in enumerate(found) if token in ends), len(found))
                answers[k] = found[:stop]
    finally:
        base.generation_config = configured
    return answers
