"""Generation: batched, left-padded, sorted by length, with KV cache; greedy or sampled.

Knows: decoding. Does not know: what is asked, who judges.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Sequence

import torch

from holdfast.core.seeds import generator
from holdfast.data import Example, collate, encode_prompt
from holdfast.models.subject import Subject


@torch.no_grad()
def generate(
    subject: Subject,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[list[int]]:
    """Continue each prompt until an end token or ``max_new_tokens``.

    Args:
        subject: model and tokenizer; put in eval mode for the time being.
        prompts_ids: token ids of the prompts.
        temperature: 0 is greedy; 1 samples from the model's own distribution, without truncation.
        seed: every prompt draws from its own stream, so a sample does not depend on the batch it was in.

    Returns:
        New token ids in prompt order, the end token included where one was produced.
    """
    model = subject.model
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        results: list[list[int]] = [[] for _ in prompts_ids]
        order = sorted(range(len(prompts_ids)), key=lambda k: len(prompts_ids[k]))
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            streams = [generator(seed, "generate", k) for k in index] if temperature > 0 else []
            prompts = [prompts_ids[k] for k in index]
            for k, ids in zip(
                index, _continue(subject, prompts, max_new_tokens, temperature, streams), strict=True
            ):
                results[k] = ids
        return results
    finally:
        for module, training in modes:
            module.training = training


def generate_text(
    subject: Subject,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[str]:
    """Answers to prompts, as text without special tokens. Untrusted text: escape it before showing it."""
    tokenizer = subject.tokenizer
    if tokenizer is None:
        raise ValueError("generate_text needs a subject with a tokenizer")
    prompts_ids = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    answers = generate(subject, prompts_ids, max_new_tokens, temperature, seed, batch_size)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]


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
    new_ids: list[list[int]] = [[] for _ in prompts_ids]
    running = torch.ones(len(prompts_ids), dtype=torch.bool)
    cache = None
    for _ in range(max_new_tokens):
        output = subject.model(
            input_ids=input_ids_BT,
            attention_mask=attention_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        cache = output.past_key_values
        next_B = _choose(output.logits[:, -1].float().cpu(), temperature, streams)
        for row in torch.nonzero(running).flatten().tolist():
            token = int(next_B[row])
            new_ids[row].append(token)
            running[row] = token not in ends
        if not bool(running.any()):
            break
        input_ids_BT = next_B[:, None].to(subject.device)
        attention_BT = torch.cat([attention_BT, torch.ones_like(attention_BT[:, :1])], dim=1)
        positions_BT = positions_BT[:, -1:] + 1
    return new_ids


def _choose(logits_BV: torch.Tensor, temperature: float, streams: Sequence[torch.Generator]) -> torch.Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = (logits_BV.double() / temperature).softmax(-1)
    drawn = [torch.multinomial(probabilities_BV[row], 1, generator=stream) for row, stream in enumerate(streams)]
    return torch.cat(drawn)
