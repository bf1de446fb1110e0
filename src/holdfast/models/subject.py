"""The subject: a model with its tokenizer, optional adapter, and the parameters everything numeric works on.

Knows: how to load from a folder or the hub, parameter scopes.
Does not know: data, losses, what is done with the parameters.
"""

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Subject:
    """A model under study.

    Attributes:
        model: a transformers causal LM, or a PEFT model around one.
        tokenizer: None where only token ids are used.
        scope: "auto" (the adapter if there is one, else all), "adapter", "all", or a glob over parameter
            names such as ``*.layers.3.*``; several patterns are separated by commas.
    """

    model: Any
    tokenizer: "PreTrainedTokenizerBase | None" = None
    scope: str = "auto"

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives."""
        return next(self.model.parameters()).device

    @property
    def pad_id(self) -> int:
        """A token id to pad with; padded positions are always masked, so any id would do."""
        for value in (getattr(self.tokenizer, "pad_token_id", None), self.model.config.pad_token_id):
            if value is not None:
                return int(value)
        return 0

    @property
    def has_adapter(self) -> bool:
        """Whether the model carries a PEFT adapter."""
        return hasattr(self.model, "peft_config")

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters in scope, by name, sorted by name.

        Raises:
            UserError: the scope names no parameter.
        """
        named = dict(self.model.named_parameters())
        chosen = {name: named[name] for name in sorted(named) if self._in_scope(name)}
        if not chosen:
            raise UserError(f"scope '{self.scope}': names no parameter; try 'all', 'adapter' or '*.layers.0.*'")
        return chosen

    def _in_scope(self, name: str) -> bool:
        scope = self.scope
        if scope == "auto":
            scope = "adapter" if self.has_adapter else "all"
        if scope == "all":
            # With an adapter in place "all" means the weights of the model itself and the adapter's.
            return True
        if scope == "adapter":
            return any(mark in name for mark in ("lora_", ".modules_to_save.", "lora_magnitude_vector"))
        return any(fnmatch.fnmatchcase(name, pattern.strip()) for pattern in scope.split(","))


def load(
    source: str | Path,
    adapter: str | Path | None = None,
    scope: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Subject:
    """Load a model and its tokenizer from a folder or a hub id.

    Args:
        source: folder in transformers format, or hub id.
        adapter: folder of a PEFT adapter for this model.
        scope: see :class:`Subject`.
        dtype: "auto" (float32 on CPU, the checkpoint's own on a GPU), "float32", "bfloat16" or "float16".
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        revision: of a hub repository.
        trust_remote_code: run code that comes with the model. Off unless you ask.

    Raises:
        UserError: missing folder, gated or unreachable hub model, adapter of another base.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = str(source)
    _check_local(where)
    chosen = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    kind = _dtype(dtype, chosen)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        with _without_library_bars():
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=kind, **options)
    except Exception as error:  # the hub client and the config parsers raise many kinds
        raise UserError(f"{where}: {_load_problem(error)}") from error
    model.to(chosen)
    model.eval()
    if adapter is not None:
        from holdfast.models.adapters import load_adapter

        model = load_adapter(model, adapter)
    return Subject(model, tokenizer, scope)


def load_tokenizer(source: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer alone: enough to read rows with, and no weights are touched.

    Raises:
        UserError: as :func:`load`.
    """
    from transformers import AutoTokenizer

    where = str(source)
    _check_local(where)
    try:
        return AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # the hub client and the config parsers raise many kinds
        raise UserError(f"{where}: {_load_problem(error)}") from error


@contextlib.contextmanager
def _without_library_bars() -> Iterator[None]:
    """Loading shards draws its own bar, quiet or not."""
    from transformers.utils import logging as library

    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bar()


def _check_local(where: str) -> None:
    path = Path(where).expanduser()
    looks_local = where.startswith((".", "/", "~")) or where.count("/") > 1
    if not path.exists() and looks_local:
        raise UserError(f"{where}: no such folder; check the path, or give a hub id such as owner/name")
    if path.is_dir() and not (path / "config.json").exists():
        hint = " (this is an adapter: pass it with --adapter)" if (path / "adapter_config.json").exists() else ""
        raise UserError(f"{where}: no config.json in this folder, so it is not a model{hint}")


def _dtype(name: str, device: str) -> torch.dtype | str:
    names: Mapping[str, torch.dtype] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float64": torch.float64,
    }
    if name == "auto":
        return "auto" if device.startswith("cuda") else torch.float32
    if name not in names:
        raise UserError(f"dtype '{name}': unknown; use auto or one of {', '.join(names)}")
    return names[name]


def _load_problem(error: Exception) -> str:
    from holdfast.data.sources import hub_problem

    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return "needs code from its repository; read that code, then pass trust_remote_code"
    return hub_problem(error)
