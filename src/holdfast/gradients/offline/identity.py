"""What a table of scores depends on, as hashes: the examples, the model, the scope, the options.

Knows: token ids, tokenizers, the machine. Does not know: how a model is hashed (``models``), plans, scores.
"""

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from holdfast.core.files import hash_json, sha256_text
from holdfast.core.version import VERSION, versions
from holdfast.data import Example
from holdfast.models import Subject, model_hash

LIBRARIES = ("holdfast", "torch", "transformers", "peft", "numpy", "pyarrow")


def fingerprint(
    subject: Subject,
    examples: Sequence[Example],
    reduction: str,
    groups: bool,
    proxy: str = "full",
    directions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the numbers are a function of; two runs with equal fingerprints may share shards."""
    return {
        "examples": examples_hash(examples),
        "model": model_hash(subject.model),
        "scope": hash_json(list(subject.parameters())),
        "reduction": reduction,
        "dtype": dtypes(subject.parameters()),
        "groups": groups,
        "proxy": proxy,
        "directions": dict(directions) if directions is not None else None,
    }


def machine(subject: Subject) -> dict[str, Any]:
    """What the last bits of the numbers depend on besides."""
    device = subject.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "holdfast": VERSION,
    }


def examples_hash(examples: Sequence[Example]) -> str:
    """Of token ids and loss masks in order; names are not part of it."""
    digest = hashlib.sha256()
    for example in examples:
        ids, mask = example.input_ids, example.loss_mask
        digest.update(array("q", [len(ids), *ids]).tobytes())
        digest.update(bytes(mask))
    return digest.hexdigest()


def dtypes(parameters: Mapping[str, torch.Tensor]) -> str:
    """Element types of the scope: "float32", or several joined by "+"."""
    return "+".join(sorted({str(value.dtype).removeprefix("torch.") for value in parameters.values()}))


def tokenizer_hash(tokenizer: Any) -> str | None:
    """Of the vocabulary, merges and special tokens; None without a tokenizer."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hash_json({"vocabulary": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map})
    values = json.loads(backend.to_str())
    for state in ("truncation", "padding"):  # set by the last call, not part of the tokenizer
        values.pop(state, None)
    return hash_json(values)


def template_hash(tokenizer: Any) -> str | None:
    """Of the chat template; None where there is none."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    return sha256_text(template) if isinstance(template, str) else hash_json(template)


def libraries() -> dict[str, str]:
    """Versions of the libraries that a score passes through."""
    return versions(LIBRARIES)
