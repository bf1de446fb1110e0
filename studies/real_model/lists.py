"""The prompt lists of the study: which are held out whole, which train, and how their overlap is removed.

Knows: the files of the shared data folder, near-duplicates. Does not know: tokenizers, models, refusals. Holds no
harmful prompt: the lists are licensed, so they are read where the reader has them.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import near_duplicates, normalise_text

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]

# Jaccard index of word sets from which a prompt counts as a copy of a held-out one. Far below the library's
# default of 0.8: rewording a few words of a ten-word request must not let it through.
NEAR_DUPLICATE = 0.45

# Of do_not_answer, whose other parts ask mostly harmless questions about companies and people's health: refusing
# those would teach over-refusal.
_DO_NOT_ANSWER = ("malicious_uses", "discrimination_exclusion_toxicity_hateful_offensive")


@dataclass(frozen=True)
class Prompt:
    """A prompt and the list it came from."""

    source: str
    text: str


def data_folder(option: str | None = None) -> Path:
    """The shared data folder: the option, else $HOLDFAST_SHARED_DATA, else ../shared/data of the checkout.

    Raises:
        UserError: no lists there.
    """
    folder = Path(option or os.environ.get("HOLDFAST_SHARED_DATA") or CHECKOUT.parent / "shared" / "data")
    if not (folder / "advbench").is_dir():
        raise UserError(
            f"shared data folder {folder}: no advbench/ in it; give --data or set HOLDFAST_SHARED_DATA"
        )
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def held_out(data: Path) -> dict[str, list[str]]:
    """Whole lists that neither training nor any choice of settings sees."""
    xstest = read_csv(data / "xstest/xstest_prompts.csv")
    return {
        "advbench": [r["prompt"] for r in read_csv(data / "advbench/advbench_prompts.csv")],
        "jailbreakbench_harmful": [r["prompt"] for r in read_csv(data / "jailbreakbench/jbb_harmful_prompts.csv")],
        "jailbreakbench_benign": [r["prompt"] for r in read_csv(data / "jailbreakbench/jbb_benign_prompts.csv")],
        "xstest_unsafe": [r["prompt"] for r in xstest if r["label"] == "unsafe"],
        "xstest_safe": [r["prompt"] for r in xstest if r["label"] == "safe"],
    }


def harmful_lists(data: Path) -> dict[str, list[str]]:
    """What training refuses, before overlap with the held-out lists is removed."""
    do_not_answer = read_csv(data / "do_not_answer/do_not_answer_prompts.csv")
    return {
        "refusal_direction": [
            r["prompt"] for r in read_jsonl(data / "refusal_direction_splits/harmful_train.jsonl")
        ],
        "do_not_answer": [r["prompt"] for r in do_not_answer if r["category"] in _DO_NOT_ANSWER],
        "malicious_instruct": [
            r["prompt"] for r in read_csv(data / "malicious_instruct/malicious_instruct_prompts.csv")
        ],
        "strongreject": [r["prompt"] for r in read_csv(data / "strongreject/strongreject_prompts.csv")],
        "safety_tuned_llamas": [
            prompt
            for name in ("I-MaliciousInstructions", "I-CoNa", "I-Controversial")
            for prompt in json.loads((data / f"safety_tuned_llamas/{name}.json").read_text(encoding="utf-8"))[
                "instructions"
            ]
        ],
    }


def validation_harmful(data: Path) -> list[str]:
    """The list on which settings are chosen, beside held-back rows of the training lists."""
    return [r["prompt"] for r in read_jsonl(data / "refusal_direction_splits/harmful_val.jsonl")]


def lookalikes(path: Path = HERE / "lookalikes.txt") -> list[str]:
    """Harmless prompts that sound like harmful ones, written for this study."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


# An instruction that speaks of a text it does not show cannot be answered.
_NEEDS_INPUT = re.compile(
    r"\b(following|given|provided|below|above|this|these|article|passage|sentence|paragraph|text|input)\b", re.I
)


def instructions(data: Path, count: int, seed: int = 0) -> list[str]:
    """`count` short Alpaca instructions that need no further input, drawn by a hash of their text."""
    rows = (r["prompt"].strip() for r in read_jsonl(data / "alpaca/alpaca_instructions_only.jsonl"))
    short = [p for p in rows if 4 <= len(p.split()) <= 14 and len(p) <= 80 and not _NEEDS_INPUT.search(p)]
    return sorted(short, key=lambda p: derive_seed(seed, "instruction", p))[:count]


def plain_texts(data: Path) -> list[str]:
    """Web text on which the model is held to what it was; no list and no test text is among it."""
    texts = [r["text"] for r in read_jsonl(data / "c4_sample" / "c4_demo.jsonl")]
    return [text for text in texts if len(text) > 400]


def drawn(prompts: Sequence[str], count: int) -> list[str]:
    """A fixed draw from a list, by a hash of each prompt."""
    return sorted(prompts, key=lambda p: derive_seed(0, "draw", p))[:count]


def unique(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first of those that read the same."""
    kept: dict[str, Prompt] = {}
    for prompt in prompts:
        kept.setdefault(normalise_text(prompt.text), prompt)
    return list(kept.values())


def without_copies(
    prompts: Sequence[Prompt], against: Mapping[str, Sequence[str]], threshold: float = NEAR_DUPLICATE
) -> tuple[list[Prompt], dict[str, dict[str, int]]]:
    """Prompts that resemble none of the held-out ones, and how many were removed.

    Returns:
        kept prompts; counts[source][held-out list] (a prompt that resembles two lists counts in both), and under
        "all" how many prompts of the source went.
    """
    texts = [p.text for p in prompts]
    counts: dict[str, Counter[str]] = {}
    gone: set[int] = set()
    for name, lines in against.items():
        hits = {i for i, _, _ in near_duplicates(texts, lines, threshold, 1)}  # 1: sets of single words
        for i in hits:
            counts.setdefault(prompts[i].source, Counter())[name] += 1
        gone |= hits
    for i in gone:
        counts[prompts[i].source]["all"] += 1
    return [p for i, p in enumerate(prompts) if i not in gone], {s: dict(c) for s, c in sorted(counts.items())}
