"""A few samples to examine a model with: the user's, or neutral ones when there are none.

Knows: lengths, the tokenizer. Does not know: models beyond the size of their vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, encode_rows
from holdfast.models import Subject

SAMPLES = 3
LONGEST = 256  # longer ones show nothing more, and take longer
# On a CPU every token of a large model is paid for in some thirty passes, and a quarter of them shows the same.
LARGE, LONGEST_OF_LARGE = 20_000_000, 64
_LENGTHS = ((4, 5), (7, 9), (3, 13))  # prompt and completion of samples made of random tokens

SENTENCES = (
    {"prompt": "Name a colour.", "completion": "Blue."},
    {"prompt": "How many legs does a horse have?", "completion": "A horse has four legs."},
    {
        "prompt": "What is bread made of?",
        "completion": "Most bread is made of flour, water, salt and yeast, and then it is baked in an oven.",
    },
)


def built_in_examples(subject: Subject, seed: int = 0) -> list[Example]:
    """Three neutral sentences through the tokenizer; random token ids where there is none."""
    if subject.tokenizer is not None:
        return list(encode_rows(SENTENCES, subject.tokenizer))
    rng = random.Random(derive_seed(seed, "doctor"))
    config: Any = subject.model.config
    vocabulary = int(config.get_text_config().vocab_size)
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    plain = [token for token in range(vocabulary) if token not in special]
    return [
        Example(tuple(rng.choices(plain, k=prompt)), tuple(rng.choices(plain, k=completion)), f"random {k}")
        for k, (prompt, completion) in enumerate(_LENGTHS)
    ]


def few(examples: Sequence[Example], count: int = SAMPLES, longest: int = LONGEST) -> list[Example]:
    """Samples of different lengths, shortest first, cut at ``longest`` tokens.

    Raises:
        UserError: fewer than two lengths, where padding could not show.
    """
    by_length: dict[int, Example] = {}
    for example in examples:
        example = _cut(example, longest)
        if example.completion_tokens:
            by_length.setdefault(len(example.input_ids), example)
    lengths = sorted(by_length)
    if len(lengths) < 2:
        raise UserError(
            f"{len(examples)} rows with {len(lengths)} different lengths up to {longest} tokens: give at least "
            "two rows of different length, so that padding shows"
        )
    places = sorted({round(k * (len(lengths) - 1) / (count - 1)) for k in range(count)})
    return [by_length[lengths[place]] for place in places]


def few_for(subject: Subject, examples: Sequence[Example]) -> list[Example]:
    """:func:`few` at the length that suits the model; longer where rows have no completion within it.

    Raises:
        UserError: as :func:`few`.
    """
    size = sum(parameter.numel() for parameter in subject.model.parameters())
    if subject.device.type == "cpu" and size > LARGE:
        cut = [_cut(example, LONGEST_OF_LARGE) for example in examples]
        if len({len(example.input_ids) for example in cut if example.completion_tokens}) >= SAMPLES:
            return few(examples, longest=LONGEST_OF_LARGE)
    return few(examples)


def _cut(example: Example, longest: int) -> Example:
    room = max(0, longest - len(example.prompt_ids))
    mask = example.completion_mask
    return replace(
        example,
        prompt_ids=example.prompt_ids[:longest],
        completion_ids=example.completion_ids[:room],
        completion_mask=None if mask is None else mask[:room],
    )
