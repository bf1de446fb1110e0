"""Generation: batched, left-padded, sorted by length, with KV cache; greedy or sampled; kept on disk if asked.

Knows: decoding, what an answer depends on. Does not know: what is asked, who judges.

Greedy answers in float32 do not depend on the batch: padding is masked and positions count from the first token of
each row. Sums in another order can still tip a tie; greedy_agreement.py counts how often.

Shapes: B batch, T time, V vocabulary.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json
from holdfast.core.seeds import generator, undisturbed
from holdfast.data import Example, collate, encode_prompt
from holdfast.models.generation_cache import GenerationCache
from holdfast.models.identity import model_hash
from holdfast.models.subject import Subject

CACHE_VERSION = 1  # of what a cached answer means; raised when decoding changes


def generate(
    subject: Subject,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | Path | None = None,
    model_key: str | None = None,
) -> list[list[int]]:
    """Continue each prompt until an end token or ``max_new_tokens``.

    Args:
        subject: model and tokenizer; put in eval mode for the time being.
        prompts_ids: token ids of the prompts.
        temperature: 0 is greedy; 1 samples from the model's own distribution, without truncation.
        seed: every prompt draws from its own stream, so a sample does not depend on the batch it was in.
        cache: folder in which every finished batch is kept; a run that was killed goes on after the last one.
            The batch size is not part of the key: in float32 it does not matter; in a shorter type, where it
            does, the answers are those of the batch that came first.
        model_key: names the model in the cache; None hashes its weights, which reads each of them once.

    Returns:
        New token ids in prompt order, the end token included where one was produced.

    Raises:
        UserError: a prompt without tokens; a file in the cache folder that is none of ours.
    """
    for k, ids in enumerate(prompts_ids):
        if not len(ids):
            raise UserError(f"prompt {k}: no tokens; remove it, or give the model something to read")
    kept = None
    if cache is not None:
        kept = GenerationCache(cache, _settings(subject, max_new_tokens, temperature, seed, model_key))
    results: list[list[int]] = [[] for _ in prompts_ids]
    # Longest last, ties in prompt order: batches are the same in every run, also in one that is resumed.
    order = sorted(range(len(prompts_ids)), key=lambda k: len(prompts_ids[k]))
    with undisturbed(subject.model):
        for start in range(0, len(order), batch_size):
            index = _unanswered(order[start : start + batch_size], prompts_ids, temperature, kept, results)
            if not index:
                continue
            streams = [generator(seed, "generate", k) for k in index] if temperature > 0 else []
            prompts = [prompts_ids[k] for k in index]
            answers = _continue(subject, prompts, max_new_tokens, temperature, streams)
            for k, ids in zip(index, answers, strict=True):
                results[k] = ids
            if kept is not None:
                kept.put({_key(prompts_ids[k], k, temperature): results[k] for k in index})
    return results


def generate_text(
    subject: Subject,
    prompts: Sequence[str | Sequence[Mapping[str, str]]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | Path | None = None,
    model_key: str | None = None,
) -> list[str]:
    """Answers to prompts or whole conversations, as text without special tokens.

    Untrusted text: escape it before showing it.
    """
    tokenizer = subject.tokenizer
    if tokenizer is None:
        raise ValueError("generate_text needs a subject with a tokenizer")
    prompts_ids = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    answers = generate(subject, prompts_ids, max_new_tokens, temperature, seed, batch_size, cache, model_key)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]


def _settings(
    subject: Subject, max_new_tokens: int, temperature: float, seed: int, model_key: str | None
) -> dict[str, Any]:
    """What an answer depends on besides its prompt."""
    settings: dict[str, Any] = {
        "version": CACHE_VERSION,
        "model": model_key if model_key is not None else model_hash(subject.model),
        "device": subject.device.type,
        "max_new_tokens": max_new_tokens,
        "temperature": float(temperature),
        "ends": sorted(end_ids(subject)),
    }
    return settings | ({"seed": seed} if temperature > 0 else {})


def _key(ids: Sequence[int], position: int, temperature: float) -> str:
    """Of one prompt. A sample depends on the prompt's place too, which names its stream."""
    tokens = [int(token) for token in ids]
    return hash_json([tokens, position] if temperature > 0 else tokens)


def _unanswered(
    index: Sequence[int],
    prompts_ids: Sequence[Sequence[int]],
    temperature: float,
    kept: GenerationCache | None,
    results: list[list[int]],
) -> list[int]:
    """Fill in what the cache knows; return the rest."""
    if kept is None:
        return list(index)
    missing = []
    for k in index:
        found = kept.get(_key(prompts_ids[k], k, temperature))
        if found is None:
            missing.append(k)
        else:
            results[k] = found
    return missing


def end_ids(subject: Subject) -> set[int]:
    """Token ids that end an answer: the tokenizer's EOS and those of the generation config."""
    found: set[int] = set()
    configured = getattr(getattr(subject.model, "generation_config", None), "eos_token_id", None)
    for value in (
        getattr(subject.tokenizer, "eos_token_id", None),
        configured,
        subject.model.config.eos_token_id,
    ):
        if value is not None:
            found.update(value if isinstance(value, (list, tuple)) else [value])
    return found


def _continue(
    subject: Subject,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    streams: Sequence[torch.Generator],
) -> list[list[int]]:
    ends = end_ids(subject)
    batch = collate([Example(tuple(ids), ()) for ids in prompts_ids], subject.pad_id, side="left")
    input_ids_BT = batch.input_ids_BT.to(subject.device)
    attention_BT = batch.attention_mask_BT.to(subject.device)
    positions_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)
    positional, options = _forward_options(subject.model)
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
        cache = output.past_key_values
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
        if 2 * len(running) <= len(rows) and _can_shrink(cache):
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


def _forward_options(model: Any) -> tuple[bool, Mapping[str, int]]:
    """Whether to pass positions (some architectures count from the mask and refuse them), and further arguments.

    ``logits_to_keep=1`` spares the vocabulary-wide logits of all prompt tokens but the last.
    """
    from transformers import PreTrainedModel

    base = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    named = inspect.signature(type(base).forward).parameters
    positional = "position_ids" in named or not isinstance(base, PreTrainedModel)
    return positional, {"logits_to_keep": 1} if "logits_to_keep" in named else {}


def _choose(logits_BV: torch.Tensor, temperature: float, streams: Sequence[torch.Generator]) -> torch.Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = (logits_BV.double() / temperature).softmax(-1)
    drawn = [torch.multinomial(probabilities_BV[row], 1, generator=stream) for row, stream in enumerate(streams)]
    return torch.cat(drawn)
