"""Answers of the chat, aligned and fine-tuned model to prompts of our own, for a labelled part of real answers.

    python -m studies.real_model.judge_answers --name chat
    python -m studies.real_model.judge_answers --name aligned --adapter FOLDER [--tuned FOLDER]

Knows: which model answers which prompt in how many tokens. Does not know: labels; a person gives them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from studies.real_model import lists, model

from holdfast.core.files import write_text
from holdfast.core.seeds import derive_seed
from holdfast.models import Subject, generate_text, load_adapter

LENGTHS = (16, 24, 32, 48, 64, 96, 128)


def prompts() -> list[str]:
    """The prompts, harmful-sounding and harmless."""
    return lists.lookalikes(Path(__file__).parent / "judge_prompts.txt")


def length(prompt: str, name: str) -> int:
    """Of an answer, drawn by the prompt and the model, so that no model is always the one that is cut."""
    return LENGTHS[derive_seed(0, "length", name, prompt) % len(LENGTHS)]


def answered(subject: Subject, name: str, cache: Path) -> list[dict]:
    """One answer a prompt, greedy."""
    found = {}
    for tokens in LENGTHS:
        asked = [p for p in prompts() if length(p, name) == tokens]
        said = generate_text(subject, asked, tokens, cache=cache / "answers", model_key=f"judge-{name}")
        found |= {
            p: {"prompt": p, "response": a, "model": name, "tokens": tokens}
            for p, a in zip(asked, said, strict=True)
        }
    return [found[p] for p in prompts()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--name", required=True, help="of the model, in the rows and in the cache")
    parser.add_argument("--adapter", type=Path, help="aligned adapter; none for the chat model")
    parser.add_argument("--tuned", type=Path, help="adapter of a fine-tune of the aligned model")
    parser.add_argument("--cache")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cache = model.cache_folder(options.cache)
    subject = (
        model.aligned(cache, options.adapter, "bfloat16") if options.adapter else model.chat(cache, "bfloat16")
    )
    if options.tuned:
        tuned = load_adapter(subject.model, options.tuned, trainable=False)
        subject = Subject(tuned, subject.tokenizer, "adapter")
    rows = answered(subject, options.name, cache)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(cache / f"judge_answers_{options.name}.jsonl", text)


if __name__ == "__main__":
    main()
