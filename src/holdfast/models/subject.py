"""The subject: a model with its tokenizer, optional adapter, and the parameters everything numeric works on.

Knows: how to load from a folder or the hub, parameter scopes.
Does not know: data, losses, what is done with the parameters.
"""

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.errors import UserError
from holdfast.models.adapter_scope import adapter_parameters, check_supported, has_adapter
from holdfast.models.limits import special_id, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Subject:
    """A model under study.

    Attributes:
        model: a transformers causal LM, or a PEFT model around one.
        tokenizer: None where only token ids are used.
        scope: "auto" (the adapter if there is one, else all), "adapter" (what PEFT would train), "all", or a glob
            over parameter names such as ``*.layers.3.*``; several patterns are separated by commas.

    Raises:
        UserError: an adapter that is not in the layers (prompt or prefix tuning).
    """

    model: Any
    tokenizer: "PreTrainedTokenizerBase | None" = None
    scope: str = "auto"

    def __post_init__(self) -> None:
        check_supported(self.model)

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives."""
        return next(self.model.parameters()).device

    @property
    def pad_id(self) -> int:
        """A token id to pad with; padded positions are always masked, so any id would do."""
        for value in (getattr(self.tokenizer, "pad_token_id", None), special_id(self.model, "pad_token_id")):
            if value is not None:
                return int(value)
        return 0

    @property
    def vocabulary(self) -> int:
        """Number of logits at each position, which is at least the tokenizer's number of tokens."""
        return vocabulary_size(self.model)

    @property
    def has_adapter(self) -> bool:
        """Whether the model carries a PEFT adapter."""
        return has_adapter(self.model)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters in scope, by name, sorted by name.

        Raises:
            UserError: the scope names no parameter.
        """
        scope = self.scope
        if scope == "auto":
            scope = "adapter" if self.has_adapter else "all"
        named = dict(self.model.named_parameters())
        if scope == "adapter":
            chosen = adapter_parameters(self.model)
        elif scope == "all":  # with an adapter in place: the weights of the model itself and the adapter's
            chosen = {name: named[name] for name in sorted(named)}
        else:
            patterns = [pattern.strip() for pattern in scope.split(",")]
            chosen = {
                name: named[name]
                for name in sorted(named)
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
            }
        if not chosen:
            raise UserError(f"scope '{self.scope}': names no parameter; try 'all', 'adapter' or '*.layers.0.*'")
        return chosen


def load(
    source: str | Path,
    adapter: str | Path | None = None,
    scope: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: str | None = None,
) -> Subject:
    """Load a model and its tokenizer from a folder, a hub id or a GGUF file.

    Args:
        source: folder in transformers format, hub id, ``.gguf`` file, "organism:aligned" or "organism:base".
        adapter: folder of a PEFT adapter for this model. Its tokenizer or chat template, where it has them, are
            taken in the place of the base model's, and the base gets as many rows of embeddings as it was
            trained with.
        scope: see :class:`Subject`.
        dtype: "auto" (float32 on CPU, the checkpoint's own on a GPU), "float32", "bfloat16" or "float16".
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        revision: of a hub repository.
        trust_remote_code: run code that comes with the model. Off unless you ask.
        quantize: "4bit" or "8bit" to pack the weights of the base with bitsandbytes, for an adapter on top.

    Raises:
        UserError: a missing or damaged folder, pickled weights, a gated or unreachable hub model, a device that is
            not there, an adapter of another base.
    """
    from holdfast.models.adapter_files import adapter_tokenizer, read_config
    from holdfast.models.adapters import load_adapter
    from holdfast.models.loading import check_device, read_model, read_tokenizer, resolve

    place, chosen = resolve(source), check_device(device)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    if adapter is not None:
        read_config(Path(adapter))  # before minutes are spent on the base
    try:
        tokenizer = read_tokenizer(place, options)
    except UserError:
        if adapter is None:
            raise
        tokenizer = None  # the adapter may have its own
    model = read_model(place, dtype, chosen, quantize, options)
    if adapter is not None:
        own = adapter_tokenizer(adapter, tokenizer, model, trust_remote_code)
        own = own if own is not None else read_tokenizer(place, options)  # which says what is missing
        tokens = len(own) if own is not tokenizer else 0
        model, tokenizer = load_adapter(model, adapter, revision=revision, tokens=tokens), own
    return Subject(model, tokenizer, scope)


def load_tokenizer(
    source: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer alone: enough to read rows with, and no weights are touched.

    Raises:
        UserError: as :func:`load`.
    """
    from holdfast.models.loading import read_tokenizer, resolve

    return read_tokenizer(resolve(source), {"revision": revision, "trust_remote_code": trust_remote_code})


def load_skeleton(source: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The model's modules by name, without weights; None where a file of weights has to be read for that (GGUF).

    Raises:
        UserError: as :func:`load`.
    """
    from holdfast.models.loading import read_skeleton, resolve

    return read_skeleton(resolve(source), {"revision": revision, "trust_remote_code": trust_remote_code})
