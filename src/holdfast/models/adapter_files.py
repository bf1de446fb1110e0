"""An adapter's folder: what it was made for, what it brings along, whether it fits a base model.

Knows: PEFT's files, safetensors headers, tokenizer files. Does not know: how an adapter is put on.
"""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import torch

from holdfast.core.errors import UserError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
log = logging.getLogger(__name__)


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration.

    Raises:
        UserError: no adapter here, weights in another format, an unreadable configuration.
    """
    if not (folder / CONFIG_FILE).is_file():
        near = [place for place in (folder / "adapter", folder.parent) if (place / CONFIG_FILE).is_file()]
        hint = f"it is in {near[0]}" if near else "give the folder of a PEFT adapter"
        raise UserError(f"{folder}: no {CONFIG_FILE} here; {hint}")
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder}: no {WEIGHTS_FILE}; holdfast reads safetensors only, convert the adapter first")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / CONFIG_FILE}: not JSON ({error}); save the adapter again") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG_FILE}: not a configuration; save the adapter again")
    return config


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the adapter's file, by its name without PEFT's prefix.

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as weights:
            names = list(weights.keys())
            return {_plain(name): tuple(weights.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: damaged ({error}); copy or save the adapter again") from error


def say_other_base(folder: Path, config: dict[str, Any], base: Any, revision: str | None) -> None:
    """Log where the adapter names another base than the one it is put on. Names are no proof: folders move."""
    named, here = str(config.get("base_model_name_or_path") or ""), str(getattr(base, "name_or_path", "") or "")
    if named and here and Path(named).name != Path(here).name:
        log.warning(
            "%s: made for '%s', put on '%s'; shapes fit, names may lie: check the base", folder, named, here
        )
    wanted = config.get("revision")
    if wanted and revision and wanted != revision:
        log.warning(
            "%s: made for revision '%s' of its base, put on '%s'; check the base", folder, wanted, revision
        )


def check_fits(base: Any, folder: Path, config: dict[str, Any], found: dict[str, tuple[int, ...]]) -> None:
    """An adapter fits if every one of its matrices meets a layer of the right shape.

    Names of base models are no proof either way, so shapes decide; the recorded name is quoted to help the user.

    Raises:
        UserError: a layer is missing or has another shape.
    """
    modules, own = dict(base.named_modules()), dict(base.state_dict())
    for name, shape in found.items():
        if ".experts." in name:  # PEFT renames and stacks these while loading, and complains by itself
            continue
        path, part = _layer_of(name, _mark(config))
        if path is None:
            wanted = tuple(own[name].shape) if name in own else None
            if name.endswith((".weight", ".bias")) and name.rpartition(".")[0] not in modules:
                raise _other_base(folder, config, name, shape, "no such layer")
            if wanted is not None and wanted != shape and own[name].is_floating_point():
                raise _other_base(folder, config, name, shape, f"the layer has {wanted}")
        elif path not in modules:
            raise _other_base(folder, config, path, shape, "no such layer")
        elif part in ("lora_A", "lora_B") and hasattr(modules[path], "in_features"):
            size = modules[path].in_features if part == "lora_A" else modules[path].out_features
            actual = shape[1] if part == "lora_A" else shape[0]
            if size != actual:
                raise _other_base(folder, config, path, (actual,), f"the layer has size {size}")


def fit_vocabulary(base: Any, config: dict[str, Any], found: dict[str, tuple[int, ...]], tokens: int = 0) -> None:
    """Give ``base`` as many rows of embeddings as the adapter was trained with; new rows are the mean of the old.

    Args:
        tokens: of the adapter's own tokenizer, 0 without one.
    """
    rows = int(base.get_input_embeddings().weight.shape[0])
    wanted = _rows_of(base, found)
    if wanted is None:
        marked = config.get("trainable_token_indices") or config.get("token_indices") or ()
        lists = marked.values() if isinstance(marked, dict) else [marked]
        wanted = max([rows, tokens, *(int(index) + 1 for indices in lists for index in indices)])
    if wanted == rows:
        return
    log.warning("the adapter was trained with %d tokens, the base has %d: resized", wanted, rows)
    base.resize_token_embeddings(wanted, mean_resizing=False)
    if wanted > rows:
        with torch.no_grad():
            for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
                for tensor in () if layer is None else (layer.weight, getattr(layer, "bias", None)):
                    if tensor is not None:
                        tensor[rows:] = tensor[:rows].float().mean(0).to(tensor.dtype)


def adapter_tokenizer(folder: str | Path, tokenizer: Any, base: Any, trust_remote_code: bool = False) -> Any:
    """The tokenizer an adapter was trained with: its own, ``tokenizer`` with its own template, or ``tokenizer``.

    Raises:
        UserError: tokenizer files that cannot be read.
    """
    folder = Path(folder)
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        from transformers import AutoTokenizer

        try:
            own = AutoTokenizer.from_pretrained(
                str(folder), config=base.config, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # tokenizer parsers raise many kinds
            raise UserError(f"{folder}: its tokenizer cannot be read ({_line(error)})") from error
        if not own.chat_template:
            own.chat_template = _template(folder) or getattr(tokenizer, "chat_template", None)
        return own
    template = _template(folder)
    if template is None or tokenizer is None:
        return tokenizer
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def _template(folder: Path) -> Any:
    """A chat template that lies there without a tokenizer."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
            except (ValueError, AttributeError) as error:
                raise UserError(f"{folder / name}: not readable ({_line(error)}); save it again") from error
            if found:
                return found
    return None


def _rows_of(base: Any, found: dict[str, tuple[int, ...]]) -> int | None:
    """Rows of the embeddings or of the head in the adapter's file."""
    places = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
    for path, module in base.named_modules():
        if id(module) not in places:
            continue
        for part, axis in (("weight", 0), ("base_layer.weight", 0), ("lora_B.weight", 0), ("lora_embedding_A", 1)):
            shape = found.get(f"{path}.{part}")
            if shape is not None:
                return shape[axis]
    return None


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _mark(config: dict[str, Any]) -> str:
    """What the names of this method's tensors begin with."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    kind = str(config.get("peft_type", "")).upper()
    return PEFT_TYPE_TO_PREFIX_MAPPING.get(PeftType(kind), "?") if kind in PeftType.__members__ else "?"


def _layer_of(name: str, mark: str) -> tuple[str | None, str]:
    """The layer a tensor of the adapter sits on, and which of its tensors it is."""
    parts = name.split(".")
    for k, part in enumerate(parts):
        if part.startswith(mark) or part == "token_adapter":
            return ".".join(parts[:k]), part
    return None, ""


def _other_base(folder: Path, config: dict[str, Any], path: str, size: tuple[int, ...], here: str) -> UserError:
    wants = size[0] if len(size) == 1 else size
    return UserError(
        f"{folder}: adapter of another base model (made for '{config.get('base_model_name_or_path')}'; {path} "
        f"wants size {wants}, {here} here); load it on its own base"
    )


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]
