"""A model from a folder, a hub id, a GGUF file or the built-in checkpoints, checked before it is read.

Knows: transformers' folder format, devices, quantisation. Does not know: adapters' files, what the model is for.
"""

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.hub import hub_reachable, quiet_hub
from holdfast.core.progress import bar
from holdfast.models.adapter_files import TOKENIZER_FILES

BUILT_IN = "organism"
INDEX_FILE = "model.safetensors.index.json"
QUANTIZED = ("4bit", "8bit")


@dataclass(frozen=True)
class _Source:
    """Where a model comes from: a folder or hub id, and the GGUF file in it, if it is one."""

    where: str
    gguf: str | None
    local: bool


def resolve(source: str | Path) -> _Source:
    """Check what can be checked without reading weights.

    Raises:
        UserError: a path that does not exist, is no model or is incomplete; pickled weights.
    """
    where = str(source)
    if where.startswith(f"{BUILT_IN}:"):
        where = str(built_in(where))
    path = Path(where).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"{where}: no such file; check the path")
        return _Source(str(path.parent), path.name, True)
    if path.is_file():
        raise UserError(f"{where}: a file, and a model is a folder with config.json (or a .gguf file)")
    if not path.is_dir():
        if where.startswith((".", "/", "~")) or where.count("/") > 1 or "\\" in where:
            raise UserError(f"{where}: no such folder; check the path, or give a hub id such as owner/name")
        return _Source(where, None, False)
    if not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return _Source(str(path), files[0].name, True)
        hint = " (this is an adapter: pass it with --adapter)" if (path / "adapter_config.json").exists() else ""
        hint = " (it holds several GGUF files: name one of them)" if files else hint
        raise UserError(f"{where}: no config.json in this folder, so it is not a model{hint}")
    _check_folder(path)
    return _Source(str(path), None, True)


def built_in(name: str) -> Path:
    """The folder of ``organism:aligned`` or ``organism:base``.

    Raises:
        UserError: another name; an installation without the weights.
    """
    which = name.partition(":")[2]
    if which not in ("aligned", "base"):
        raise UserError(f"model '{name}': the built-in checkpoints are organism:aligned and organism:base")
    folder = Path(__file__).parents[1] / BUILT_IN / "weights" / which  # data of a floor above, found by place
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: the shipped weights are missing; reinstall holdfast")
    return folder


def check_device(name: str) -> str:
    """The device to use; "auto" is a GPU if there is one.

    Raises:
        UserError: a device torch does not know, or that this machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device '{name}': unknown; use auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}': this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0"
        )
    try:
        if device.type == "meta":
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise UserError(f"device '{name}': not there, or this torch cannot use it; use --device cpu") from None
    return name


def read_model(source: _Source, dtype: str, device: str, quantize: str | None, options: Mapping[str, Any]) -> Any:
    """The model in eval mode on its device.

    Raises:
        UserError: what cannot be loaded, in one line.
    """
    from transformers import AutoModelForCausalLM

    kind: dict[str, Any] = {"dtype": _dtype(dtype, device)}
    if source.gguf is not None:
        if importlib.util.find_spec("gguf") is None:
            raise UserError(f"{source.gguf}: a GGUF file is read with the package gguf; pip install gguf")
        kind = {"dtype": torch.float32 if dtype == "auto" else kind["dtype"], "gguf_file": source.gguf}
    elif quantize is not None:
        kind |= _quantized(quantize, device)
    try:
        with _one_line(source), _without_library_bars(), bar(f"loading {source.gguf or source.where}", None):
            loader: Any = AutoModelForCausalLM
            model, found = loader.from_pretrained(
                source.where,
                use_safetensors=None if source.gguf else True,
                output_loading_info=True,
                **kind,
                **_hub(source, options),
            )
    except torch.OutOfMemoryError:
        raise UserError(
            f"{source.where}: does not fit on {device}; use quantize='4bit' or a shorter dtype"
        ) from None
    missing = sorted(found.get("missing_keys", ()))
    if missing:
        raise UserError(
            f"{source.where}: {len(missing)} weights are missing and would be random ({missing[0]}, ...); "
            "this is not a whole causal language model, get it again"
        )
    if source.gguf is not None and hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights were unpacked; trainers refuse what claims otherwise
    if getattr(model, "quantization_method", None) is None and "device_map" not in kind:
        model.to(device)
    return model.eval()


def read_tokenizer(source: _Source, options: Mapping[str, Any]) -> Any:
    """The tokenizer that lies with the model.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(source.where)
    if source.local and source.gguf is None and not _has_tokenizer(folder):
        raise UserError(f"{folder}: no tokenizer in this folder (tokenizer.json); save it beside the weights")
    named = {"gguf_file": source.gguf} if source.gguf else {}
    with _one_line(source, "its tokenizer "), _without_library_bars():
        return AutoTokenizer.from_pretrained(source.where, **named, **_hub(source, options))


def read_skeleton(source: _Source, options: Mapping[str, Any]) -> Any:
    """Modules without weights, on the device that holds nothing; None for a GGUF file."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if source.gguf is not None:
        return None
    with _one_line(source), torch.device("meta"):
        config = AutoConfig.from_pretrained(source.where, **_hub(source, options))
        return AutoModelForCausalLM.from_config(config, trust_remote_code=options["trust_remote_code"])


def _has_tokenizer(folder: Path) -> bool:
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        return True
    return any("token" in file.name and file.suffix in (".model", ".py") for file in folder.iterdir())


def _hub(source: _Source, options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options) if source.local else {**options, "local_files_only": not hub_reachable()}


def _check_folder(path: Path) -> None:
    """Configuration readable, weights there, whole, and not pickled."""
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"{path / 'config.json'}: not readable ({error}); get the model again") from error
    files = sorted(path.glob("*.safetensors"))
    wanted = _shards(path)
    missing = [name for name in wanted if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} weight files are missing ({missing[0]}, ...); "
            "finish the download"
        )
    if not files:
        if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
            raise UserError(
                f"{path}: its weights are pickled (.bin), which can run code; holdfast reads safetensors only, "
                "convert them or take a repository that has them"
            )
        raise UserError(f"{path}: no weights in this folder (model.safetensors); finish the download")
    for file in files:
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: damaged or half downloaded ({_first(error)}); get it again") from error


def _shards(path: Path) -> list[str]:
    """Names of the weight files that belong to the model, from its index or from their own numbering."""
    if (path / INDEX_FILE).is_file():
        try:
            index = json.loads((path / INDEX_FILE).read_text(encoding="utf-8"))
            return sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path / INDEX_FILE}: not readable ({_first(error)}); get it again") from error
    numbered = sorted(path.glob("model-*-of-*.safetensors"))
    if numbered and not (path / "model.safetensors").is_file():
        raise UserError(f"{path}: weights in {len(numbered)} parts without {INDEX_FILE}; finish the download")
    return []


def _quantized(quantize: str, device: str) -> dict[str, Any]:
    if quantize not in QUANTIZED:
        raise UserError(f"quantize '{quantize}': unknown; use {' or '.join(QUANTIZED)}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"quantize '{quantize}': needs the package bitsandbytes; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantize == "8bit"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _dtype(name: str, device: str) -> torch.dtype | str:
    names: Mapping[str, torch.dtype] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float64": torch.float64,
    }
    if name == "auto":
        return torch.float32 if device == "cpu" else "auto"
    if name not in names:
        raise UserError(f"dtype '{name}': unknown; use auto or one of {', '.join(names)}")
    return names[name]


@contextlib.contextmanager
def _one_line(source: _Source, what: str = "") -> Iterator[None]:
    """Loaders raise many kinds of errors, of many lines."""
    try:
        with quiet_hub():
            yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{source.where}: {what}{_problem(error, source.local)}") from error


def _problem(error: Exception, local: bool) -> str:
    from holdfast.data.sources import hub_problem

    text = str(error)
    if isinstance(error, ValueError) and "trust_remote_code" in text:
        return "needs code from its repository; read that code, then pass trust_remote_code"
    if isinstance(error, ImportError):
        return f"needs a package that is not installed ({_first(error)})"
    if not local and "safetensors" in text and "OSError" in type(error).__mro__[0].__name__:
        return "has no safetensors weights; holdfast reads no pickles, take a repository that has them"
    if not local:
        return hub_problem(error)
    return f"could not be loaded ({type(error).__name__}: {_first(error)})"


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextlib.contextmanager
def _without_library_bars() -> Iterator[None]:
    """Loading shards draws its own bar, quiet or not, and leaves it on the screen."""
    from transformers.utils import logging as library

    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bar()
