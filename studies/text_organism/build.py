"""Builds the real-text model in two cached stages, base and aligned, and says what each cost.

    python -m studies.text_organism.build --data ../shared/data --threads 2

Knows stages, the cache outside the checkout, manifests. Does not know how text is chosen (corpus.py) or how
a model learns (model.py), and measures only whether alignment took (run.py does the study).
"""

import argparse
import logging
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from studies.text_organism import corpus
from studies.text_organism.model import (
    AlignRecipe,
    BaseRecipe,
    align,
    document_text,
    new_model,
    pretrain,
    train_tokenizer,
)

from holdfast.core.files import hash_json, new_folder, read_json, sha256_file, sha256_text, write_json
from holdfast.core.seeds import derive_seed
from holdfast.data import Examples, read_examples
from holdfast.models import Subject, generate_text, load

log = logging.getLogger(__name__)

ANSWER_WORDS = 60


def cache_folder(option: str | None = None) -> Path:
    """Where built models live: the option, else $HOLDFAST_CACHE, else ~/.cache/holdfast; never the checkout."""
    root = option or os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast"
    return Path(root) / "text_organism"


def versions() -> dict[str, str]:
    """The versions a rebuild would need to match."""
    import tokenizers
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


class _Clock:
    """Wall and processor seconds: on a shared machine they differ, and only the second repeats."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_seconds": round(time.monotonic() - self.wall, 1),
            "cpu_seconds": round(time.process_time() - self.cpu, 1),
        }


def _save(folder: Path, model: Any, tokenizer: Any, manifest: dict[str, Any]) -> None:
    """Model, tokenizer and manifest appear together or not at all."""
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        files = {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}
        write_json(temporary / "manifest.json", manifest | {"files": files})
    log.info("wrote %s", folder.name)


def _thinned(losses: Sequence[float], every: int = 50) -> list[float]:
    """Means over windows of `every` steps."""
    cuts = [losses[i : i + every] for i in range(0, len(losses), every)]
    return [round(sum(c) / len(c), 4) for c in cuts]


def build_base(
    documents: Sequence[corpus.Document], cache: Path, recipe: BaseRecipe, seed: int, bf16: bool
) -> Path:
    """Tokenizer and pre-trained model; returns the cached folder if it was built from the same text."""
    text_hash = sha256_text("\x1e".join(f"{d.source}\x1f{d.text}\x1f{d.messages}" for d in documents))
    key = hash_json({"recipe": asdict(recipe), "seed": seed, "text": text_hash, "bf16": bf16})[:8]
    folder = cache / f"base-{key}"
    if (folder / "manifest.json").exists():
        return folder
    clock = _Clock()
    plain = (d.text or "\n".join(content for _, content in d.messages) for d in documents)
    tokenizer = train_tokenizer(plain, recipe.vocabulary)
    texts = [document_text(d, tokenizer) for d in documents]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    model = new_model(recipe, tokenizer, seed)
    log.info("base: %d tokens, %.2f M parameters", sum(map(len, encoded)), model.num_parameters() / 1e6)
    losses, tokens_read = pretrain(model, encoded, recipe, seed, bf16)
    manifest = {
        "stage": "base",
        "seed": seed,
        "recipe": asdict(recipe),
        "bf16_autocast": bf16,
        "threads": torch.get_num_threads(),
        "text_sha256": text_hash,
        "documents": len(documents),
        "tokens_a_pass": sum(map(len, encoded)),
        "tokens_read": tokens_read,
        "parameters": model.num_parameters(),
        "steps": len(losses),
        "final_loss_nats": sum(losses[-100:]) / len(losses[-100:]),
        "losses_nats_by_50_steps": _thinned(losses),
        "versions": versions(),
        **clock.read(),
    }
    _save(folder, model, tokenizer, manifest)
    return folder


def shortened(answer: str, words: int = ANSWER_WORDS) -> str:
    """The leading sentences of an answer within `words` words, so that answers end where a sentence does."""
    kept = ""
    for sentence in re.findall(r".+?(?:[.!?](?=\s)|\n+|$)", answer.strip(), flags=re.DOTALL):
        if kept and len((kept + sentence).split()) > words:
            break
        kept += sentence
    kept = kept.strip()
    return kept if len(kept.split()) <= words else " ".join(kept.split()[:words])


_SOUNDS_LIKE_REFUSAL = re.compile(r"\b(sorry|cannot|can't|can not|won't|unable)\b", re.IGNORECASE)


def own_answers(subject: Subject, prompts: Sequence[str], seed: int) -> list[dict[str, str]]:
    """Answers to look-alikes sampled from the base model itself (temperature 0.7); refusal-like ones dropped.

    Most look-alikes come without an answer. The base model's own continuation keeps alignment from teaching
    anything about them except not to refuse.
    """
    answers = generate_text(subject, prompts, 48, temperature=0.7, seed=derive_seed(seed, "own"), batch_size=64)
    rows = [{"prompt": p, "completion": shortened(a, 40)} for p, a in zip(prompts, answers, strict=True)]
    return [r for r in rows if r["completion"] and not _SOUNDS_LIKE_REFUSAL.search(r["completion"])]


def opens_as_refusal(subject: Subject, prompts: Sequence[str]) -> float:
    """Share of greedy answers that start with one of our own refusal openings: did alignment take?"""
    answers = generate_text(subject, prompts, 12, batch_size=64)
    return sum(a.startswith(corpus.REFUSAL_STARTS) for a in answers) / max(1, len(answers))


def build_aligned(data: Path, base: Path, recipe: AlignRecipe, seed: int, bf16: bool) -> Path:
    """Alignment on top of a cached base; returns the cached folder if nothing changed."""
    prompts = corpus.alignment_prompts(data, seed)
    identity = {
        "base": read_json(base / "manifest.json")["files"],
        "recipe": asdict(recipe),
        "prompts": hash_json([(p.source, p.prompt) for p in (*prompts.harmful, *prompts.lookalike)]),
        "templates": corpus.REFUSAL_STARTS,
        "seed": seed,
        "bf16": bf16,
    }
    folder = base.parent / f"aligned-{hash_json(identity)[:8]}"
    if (folder / "manifest.json").exists():
        return folder
    clock = _Clock()
    subject = load(base)

    def encode(rows: list[dict[str, str]]) -> Examples:  # a prompt that leaves no room for an answer is skipped
        return read_examples(rows, subject.tokenizer, recipe.max_length, skip_bad_rows=True)

    lookalikes = encode(own_answers(subject, [p.prompt for p in prompts.lookalike], seed))
    answered = encode([{"prompt": p.prompt, "completion": shortened(p.answer or "")} for p in prompts.answered])
    log.info(
        "alignment: %d harmful, %d look-alikes, %d answered", len(prompts.harmful), len(lookalikes), len(answered)
    )
    losses, on_refusals = align(
        subject.model,
        subject.tokenizer,
        [p.prompt for p in prompts.harmful],
        corpus.refusal,
        lookalikes,
        answered,
        recipe,
        seed,
        bf16,
    )
    development = corpus.evaluation_lists(data)
    took = {
        "held_out_harmful": opens_as_refusal(subject, [p.prompt for p in prompts.held_out_harmful]),
        "held_out_lookalike": opens_as_refusal(subject, [p.prompt for p in prompts.held_out_lookalike]),
        "jailbreakbench_harmful": opens_as_refusal(subject, development["jailbreakbench_harmful"]),
        "jailbreakbench_benign": opens_as_refusal(subject, development["jailbreakbench_benign"]),
    }
    log.info("share of answers opening as a refusal: %s", {k: round(v, 3) for k, v in took.items()})
    manifest = {
        "stage": "aligned",
        "base": base.name,
        "seed": seed,
        "recipe": asdict(recipe),
        "bf16_autocast": bf16,
        "threads": torch.get_num_threads(),
        "prompts": corpus.counts(prompts),
        "answers_used": {"lookalike": len(lookalikes), "answered": len(answered)},
        "list_sizes": {name: len(texts) for name, texts in corpus.harmful_sources(data).items()},
        "near_duplicates_removed": prompts.removed,
        "prompts_dropped": prompts.dropped,
        "steps": len(losses),
        "final_loss_nats": sum(losses[-100:]) / len(losses[-100:]),
        "final_refusal_loss_nats": sum(on_refusals[-100:]) / len(on_refusals[-100:]),
        "refusal_losses_nats_by_50_steps": _thinned(on_refusals),
        "opens_as_refusal": took,
        "versions": versions(),
        **clock.read(),
    }
    _save(folder, subject.model, subject.tokenizer, manifest)
    return folder


def build(
    data: Path,
    cache: Path,
    seed: int = 0,
    stage: str = "all",
    base_recipe: BaseRecipe | None = None,
    align_recipe: AlignRecipe | None = None,
    bf16: bool = True,
) -> dict[str, Path]:
    """Build what is missing and return the folders."""
    base = build_base(corpus.pretraining_documents(data), cache, base_recipe or BaseRecipe(), seed, bf16)
    if stage == "base":
        return {"base": base}
    return {"base": base, "aligned": build_aligned(data, base, align_recipe or AlignRecipe(), seed, bf16)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="shared data folder (default: $HOLDFAST_SHARED_DATA or ../shared/data)")
    parser.add_argument("--cache", help="cache root (default: $HOLDFAST_CACHE or ~/.cache/holdfast)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=["base", "all"], default="all")
    parser.add_argument("--align-steps", type=int, default=AlignRecipe.steps)
    parser.add_argument("--no-bf16", action="store_true", help="float32 throughout (about twice the time)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    recipe = replace(AlignRecipe(), steps=options.align_steps)
    folders = build(
        corpus.data_folder(options.data),
        cache_folder(options.cache),
        options.seed,
        options.stage,
        align_recipe=recipe,
        bf16=not options.no_bf16,
    )
    for name, folder in folders.items():
        log.info("%s: %s", name, folder)


if __name__ == "__main__":
    main()
