"""Generation: batched and sorted by length, greedy or sampled, kept on disk if asked.

Knows: what an answer depends on. Does not know: how tokens are made (decoding.py), what is asked, who judges.

Greedy answers in float32 do not depend on the batch: padding is masked and positions count from the first token of
each row. Sums in another order can still tip a tie; greedy_agreement.py counts how often.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json
from holdfast.core.seeds import generator, undisturbed
from holdfast.data import encode_prompt
from holdfast.models.decoding import continue_prompts
from holdfast.models.generation_cache import GenerationCache
from holdfast.models.identity import model_hash
from holdfast.models.limits import declared_length, position_limit, special_id
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
        UserError: a prompt without tokens, or too long for the model's table of positions; a file in the cache
            folder that is none of ours.
    """
    _check_prompts(subject, prompts_ids, max_new_tokens)
    kept = None
    if cache is not None:
        kept = GenerationCache(cache, _settings(subject, max_new_tokens, temperature, seed, model_key))
    ends = end_ids(subject)
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
            answers = continue_prompts(subject, prompts, max_new_tokens, temperature, streams, ends)
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
        special_id(subject.model, "eos_token_id"),
    ):
        if value is not None:
            found.update(value if isinstance(value, (list, tuple)) else [value])
    return found


def _check_prompts(subject: Subject, prompts_ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    for k, ids in enumerate(prompts_ids):
        if not len(ids):
            raise UserError(f"prompt {k}: no tokens; remove it, or give the model something to read")
    declared = declared_length(subject.model)
    lengths = [len(ids) + max_new_tokens - 1 for ids in prompts_ids]  # the last token is never read
    if declared is None or max(lengths, default=0) <= declared:
        return
    limit = position_limit(subject.model)
    long = [k for k, length in enumerate(lengths) if limit is not None and length > limit]
    if long:
        raise UserError(
            f"{len(long)} of {len(lengths)} prompts (first: prompt {long[0]}, {len(prompts_ids[long[0]])} tokens) "
            f"leave no room for {max_new_tokens} new tokens in the model's {limit} positions; drop or shorten "
            "them, or ask for fewer new tokens"
        )
