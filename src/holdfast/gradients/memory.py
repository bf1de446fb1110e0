"""How many tokens a batch may have, and what running out of memory looks like.

Knows: a model's sizes, a device's memory. Does not know: plans, what a pass is for.
"""

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from holdfast.data import Batch, Example, batches
from holdfast.models import Subject

CPU_BYTES = 2 << 30
GPU_SHARE = 0.6
MOST_TOKENS_CPU = 1 << 14
MOST_TOKENS_GPU = 1 << 16
UNKNOWN_MODEL = 4096
# A pass is cut no shorter than this takes: an interpreter with torch takes several times as much.
SMALL_BYTES = 96 << 20
# What some passes hold beside an ordinary one's: attention from plain operations, tangents, what layers saw.
COPIES = 2.0
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")


def automatic_max_tokens(subject: Subject, longest: int, copies: float = 1.0) -> int:
    """Padded tokens a batch may have, from the sizes in the model's configuration; a start, not a promise.

    Args:
        subject: the model; on a GPU its weights are taken off the device's memory first.
        longest: tokens of the longest sample; a batch always holds at least one of it.
        copies: how many times an ordinary pass's memory the pass will take.

    A token costs 17 h + 2.5 a T numbers a layer (h hidden size, a heads, T tokens; Korthikanti et al. 2022,
    eq. 1, halved from bytes) and four float32 copies of its logits. The allowance is 2 GiB on a CPU and 60 % of
    what the weights leave of a GPU: properties of the machine, never what happens to be free, so two runs cut
    the same batches and give the same numbers. Where the guess is too high the scorer backs off.
    """
    per_token = _bytes_per_token(subject.model, longest)
    per_token = None if per_token is None else copies * per_token
    if per_token is None:
        return max(longest, UNKNOWN_MODEL)
    if subject.device.type == "cuda":
        whole = torch.cuda.get_device_properties(subject.device).total_memory
        weights = sum(value.numel() * value.element_size() for value in subject.model.parameters())
        allowance, most = GPU_SHARE * max(0, whole - weights), MOST_TOKENS_GPU
    else:
        allowance, most = CPU_BYTES, MOST_TOKENS_CPU
    return max(longest, min(most, int(allowance / per_token)), 1)


def fitting_batches(
    subject: Subject, examples: Sequence[Example], batch_size: int, copies: float = 1.0
) -> Iterator[Batch]:
    """:func:`holdfast.data.batches` of at most ``batch_size`` rows that also fit :func:`automatic_max_tokens`.

    The cut depends on the examples, the model's sizes and the machine only, so every pass over them is the same.
    """
    return batches(examples, batch_size, subject.pad_id, max_tokens=most_tokens(subject, examples, copies))


def most_tokens(subject: Subject, examples: Sequence[Example], copies: float = 1.0) -> int:
    """:func:`automatic_max_tokens` for these examples."""
    return automatic_max_tokens(subject, max((len(e.input_ids) for e in examples), default=1), copies)


def tokens_within(subject: Subject, longest: int, step_tokens: int, share: float) -> int:
    """Padded tokens of an ordinary pass whose memory, weights included, is ``share`` of that of a training step.

    Args:
        longest: tokens of the longest sample; a batch always holds one.
        step_tokens: padded tokens that the step runs at once.
    """
    per_token = _bytes_per_token(subject.model, longest)
    if per_token is None:
        return max(longest, step_tokens)
    weights = sum(value.numel() * value.element_size() for value in subject.model.parameters())
    room = share * (weights + step_tokens * per_token) - weights
    return max(longest, int(max(SMALL_BYTES, room) / per_token))


def peak_bytes(subject: Subject, examples: Sequence[Example], batch_size: int, copies: float = 1.0) -> float:
    """The most a pass over :func:`fitting_batches` should take, the weights included; an estimate."""
    longest = max((len(example.input_ids) for example in examples), default=1)
    tokens = min(most_tokens(subject, examples, copies), batch_size * longest)
    weights = sum(value.numel() * value.element_size() for value in subject.model.parameters())
    return weights + tokens * copies * (_bytes_per_token(subject.model, longest) or 0.0)


def _bytes_per_token(model: Any, longest: int) -> float | None:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    sizes = [getattr(config, name, None) for name in names]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    layers, hidden, heads, vocabulary = (float(size) for size in sizes if size is not None)
    element = next(model.parameters()).element_size()
    return element * layers * (17 * hidden + 2.5 * heads * longest) + 16 * vocabulary


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could help: torch says it with a type on a GPU, with words on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def release() -> None:
    """Give back what a failed batch left behind; call it when its exception is out of scope."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
