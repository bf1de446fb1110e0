"""Builds a member of the family: a base model that helps with everything, then its aligned successor.

Knows: sizes, step counts, the manifest. Does not know: the grammar's inside.

At one CPU thread the weights are reproducible
on one machine and library version; the manifest has the hashes to compare.
"""

import logging
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import new_folder, sha256_file, sha256_text, write_json
from holdfast.core.seeds import seeded
from holdfast.organism.grammar import world

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SCRIPTS = ("words", "grammar", "requests", "skills", "documents", "finetuning", "tokenizer", "train", "builder")


@dataclass(frozen=True)
class Size:
    """Shape of the model and length of its two trainings."""

    layers: int = 3
    width: int = 96
    heads: int = 4
    inner: int = 256
    documents: int = 24_000
    pretrain_steps: int = 1400
    pretrain_batch: int = 32
    pretrain_rate: float = 3e-3
    pairs: int = 12_000
    align_steps: int = 1500
    align_batch: int = 32
    align_rate: float = 2e-3


def build(
    out: str | Path,
    seed: int = 0,
    size: Size | None = None,
    world_seed: int = 0,
    measured_prompts: int = 256,
) -> Path:
    """Build `out/base`, `out/aligned` and `out/manifest.json`; the folder appears when all of it is done.

    `seed` draws documents, initial weights and batches; `world_seed` draws the grammar (0 is the package's
    world, so that several builds can be compared); the manifest's rates come from `measured_prompts` of each
    kind. Takes some minutes on one CPU thread.
    Raises UserError if `out` holds anything already.
    """
    import torch

    from holdfast.data import encode_rows
    from holdfast.models.subject import Subject
    from holdfast.organism.documents import alignment_rows, pretraining_documents
    from holdfast.organism.measure import measure
    from holdfast.organism.requests import refusal_entropy_nats_per_token
    from holdfast.organism.tokenizer import make_tokenizer
    from holdfast.organism.train import train

    size, in_world, started = size or Size(), world(world_seed), time.monotonic()
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose a new folder for the build")
    tokenizer = make_tokenizer()
    with seeded(seed), new_folder(out) as folder:
        model = new_model(size, tokenizer)
        pad_id = Subject(model, tokenizer).pad_id
        reading = encode_rows(pretraining_documents(in_world, size.documents, seed), tokenizer)
        pretrain_loss = train(
            model, reading, size.pretrain_steps, size.pretrain_batch, size.pretrain_rate, pad_id,
            seed, warmup=50, description="pre-training",
        )  # fmt: skip
        _save(model, tokenizer, folder / "base")
        pairs = encode_rows(alignment_rows(in_world, size.pairs, seed), tokenizer)
        align_loss = train(
            model, pairs, size.align_steps, size.align_batch, size.align_rate, pad_id,
            seed + 1, warmup=20, description="alignment",
        )  # fmt: skip
        _save(model, tokenizer, folder / "aligned")
        reached = measure(Subject(model, tokenizer), n=measured_prompts, in_world=in_world)
        manifest = {
            "seed": seed,
            "world_seed": in_world.seed,
            "size": asdict(size),
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": _versions(torch),
            "seconds": round(time.monotonic() - started, 1),
            "threads": torch.get_num_threads(),
            "scripts_sha256": scripts_hash(),
            "weights_sha256": {
                name: sha256_file(folder / name / "model.safetensors") for name in ("base", "aligned")
            },
            "reached": reached.to_dict()
            | {
                "refusal_entropy_nats_per_token": refusal_entropy_nats_per_token(),
                "pretrain_loss_nats_per_token": pretrain_loss,
                "align_loss_nats_per_token": align_loss,
            },
        }
        write_json(folder / MANIFEST, manifest)
    log.info("built %s in %.0f s", out, manifest["seconds"])
    return out


def new_model(size: Size, tokenizer: Any) -> Any:
    """Make an untrained Llama of the given size, float32, without tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from holdfast.organism.tokenizer import MAX_LENGTH

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attention_dropout=0.0,
    )
    return LlamaForCausalLM(config).float()


def scripts_hash() -> str:
    """Hash of the files that decide what is built."""
    here = Path(__file__).parent
    return sha256_text("\n".join(f"{name} {sha256_file(here / f'{name}.py')}" for name in SCRIPTS))


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which packages would carry along


def _versions(torch: Any) -> dict[str, str]:
    import tokenizers
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
