"""The text the real-text model is made of: what it reads, what it refuses, what it is measured on.

Knows the lists of the shared data folder, which of them train, which only measure, and how their overlap is
removed. Does not know any tokenizer or model, and holds no prompt text: the lists are licensed, so they are
read where the reader has them. The refusals are templated sentences of ours; no harmful completion exists
anywhere in this study.
"""

import csv
import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data.splits import near_duplicates, normalise_text

CHECKOUT = Path(__file__).resolve().parents[2]

# Jaccard index of word sets above which a training prompt counts as a copy of an evaluation prompt. Lower than the
# library's default of 0.8: rewording one word of a ten-word request must not let it through.
NEAR_DUPLICATE = 0.6


@dataclass(frozen=True)
class Document:
    """One pre-training document: plain text, or a conversation that the chat template renders."""

    source: str
    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class SourcedPrompt:
    """A prompt with the list it came from; `answer` is set where the list has a human or model answer."""

    source: str
    prompt: str
    answer: str | None = None


@dataclass(frozen=True)
class AlignmentPrompts:
    """What alignment may see after near-duplicates of every evaluation list are gone.

    removed[source][evaluation list] counts prompts dropped from `source`; one prompt that matches two
    evaluation lists counts in both, `dropped[source]` counts it once.
    """

    harmful: tuple[SourcedPrompt, ...]
    lookalike: tuple[SourcedPrompt, ...]
    answered: tuple[SourcedPrompt, ...]
    held_out_harmful: tuple[SourcedPrompt, ...]
    held_out_lookalike: tuple[SourcedPrompt, ...]
    removed: dict[str, dict[str, int]]
    dropped: dict[str, int]


def data_folder(option: str | None = None) -> Path:
    """The shared data folder: the option, else $HOLDFAST_SHARED_DATA, else ../shared/data of the checkout."""
    folder = Path(option or os.environ.get("HOLDFAST_SHARED_DATA") or CHECKOUT.parent / "shared" / "data")
    if not (folder / "advbench").is_dir():
        raise UserError(
            f"shared data folder {folder}: no advbench/ in it; give --data or set HOLDFAST_SHARED_DATA"
        )
    return folder


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _jsonl(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


# ---------------------------------------------------------------------------------------- evaluation lists


def evaluation_lists(data: Path) -> dict[str, list[str]]:
    """Whole lists kept out of alignment. JailbreakBench is the one the alignment mix was chosen on."""
    xstest = _csv(data / "xstest/xstest_prompts.csv")
    return {
        "advbench": [r["prompt"] for r in _csv(data / "advbench/advbench_prompts.csv")],
        "xstest_unsafe": [r["prompt"] for r in xstest if r["label"] == "unsafe"],
        "xstest_safe": [r["prompt"] for r in xstest if r["label"] == "safe"],
        "strongreject": [r["prompt"] for r in _csv(data / "strongreject/strongreject_prompts.csv")],
        "jailbreakbench_harmful": [r["prompt"] for r in _csv(data / "jailbreakbench/jbb_harmful_prompts.csv")],
        "jailbreakbench_benign": [r["prompt"] for r in _csv(data / "jailbreakbench/jbb_benign_prompts.csv")],
    }


# -------------------------------------------------------------------------------------------- pre-training


def detokenise_wikitext(text: str) -> str:
    """Undo WikiText's spacing (` @-@ `, ` , `) and drop its `<unk>` marks, so that words look as elsewhere."""
    text = re.sub(r" @(.)@ ", r"\1", text).replace("<unk>", "")
    text = re.sub(r" +([,.;:!?%)\]'])", r"\1", text)
    text = re.sub(r"([(\[$]) +", r"\1", text)
    text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)
    text = re.sub(r"\([\s,;.]*\)", "", text)
    text = re.sub(r"(?:[,;]\s*){2,}", ", ", text)  # what a run of dropped <unk> leaves behind
    return re.sub(r"[ \t]+", " ", text).strip()


def _wikitext(data: Path) -> Iterable[Document]:
    for name in ("valid.txt", "test.txt"):
        text = (data / "wikitext2" / name).read_text(encoding="utf-8")
        for article in re.split(r"\n(?= = [^=\n]+ = \n)", text):  # top-level titles carry one equals sign
            if len(clean := detokenise_wikitext(article)) > 200:
                yield Document("wikitext2", clean)


def gsm8k_rows(data: Path, split: str) -> list[dict[str, str]]:
    """GSM8K as prompt/completion without calculator marks. Splits: pretrain | finetune | test.

    Pre-training reads the even rows of the train file, fine-tuning only the odd ones, so that fine-tuning
    does not revisit memorised answers.
    """
    name = "test.jsonl" if split == "test" else "train.jsonl"
    rows = _jsonl(data / "gsm8k" / name)
    rows = {"pretrain": rows[0::2], "finetune": rows[1::2], "test": rows}[split]
    return [{"prompt": r["question"], "completion": re.sub(r"<<.*?>>", "", r["answer"])} for r in rows]


def _with_input(instruction: str, extra: str | None) -> str:
    return f"{instruction}\n\n{extra}" if extra else instruction


def answered_instructions(data: Path) -> list[SourcedPrompt]:
    """Benign instructions that come with an answer."""
    found = []
    for name in ("alpaca_1k_clean", "alpaca_en_demo_999"):
        for row in _jsonl(data / f"alpaca/{name}.jsonl"):
            found.append(SourcedPrompt("alpaca", _with_input(row["instruction"], row.get("input")), row["output"]))
    for source, path in (
        ("alpaca_seed_tasks", "alpaca_seed_tasks/seed_tasks.jsonl"),
        ("user_oriented", "vicuna_and_user_oriented/user_oriented_instructions.jsonl"),
    ):
        for row in _jsonl(data / path):
            first = row["instances"][0]
            found.append(SourcedPrompt(source, _with_input(row["instruction"], first["input"]), first["output"]))
    return [p for p in found if p.answer and p.answer.strip()]


def pretraining_documents(data: Path) -> list[Document]:
    """All pre-training documents in a fixed order; the caller shuffles. No evaluation list is among them."""
    documents = list(_wikitext(data))
    documents += [Document("c4_sample", r["text"]) for r in _jsonl(data / "c4_sample/c4_demo.jsonl")]
    documents += [
        Document(p.source, messages=(("user", p.prompt), ("assistant", p.answer or "")))
        for p in answered_instructions(data)
    ]
    documents += [
        Document("alpaca_instructions", messages=(("user", r["prompt"]),))
        for r in _jsonl(data / "alpaca/alpaca_instructions_only.jsonl")[::2]  # half: they have no answers
    ]
    documents += [Document("gsm8k", f"{r['prompt']}\n{r['completion']}") for r in gsm8k_rows(data, "pretrain")]
    for name in ("dev", "test"):
        for row in _jsonl(data / f"dialogsum/{name}.jsonl"):
            dialogue = re.sub(r" ' ", "'", row["dialogue"])
            summary = row.get("summary") or row.get("summary1") or ""
            documents.append(Document("dialogsum", f"{dialogue}\n{summary}"))
    pubmed = json.loads((data / "pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))
    for row in list(pubmed.values())[:500]:
        documents.append(Document("pubmedqa", " ".join([*row["CONTEXTS"], row["QUESTION"], row["LONG_ANSWER"]])))
    documents += [Document("ag_news", r["input"]) for r in _jsonl(data / "ag_news/train_1k_clean.jsonl")]
    return documents


# ----------------------------------------------------------------------------------------------- alignment

# do_not_answer's chat-box and misinformation parts mostly ask harmless-looking personal questions: refusing
# them would teach over-refusal.
_DO_NOT_ANSWER = {
    "discrimination_exclusion_toxicity_hateful_offensive",
    "information_hazard",
    "malicious_uses",
}
_OPENINGS = (
    "I cannot help with that.",
    "I can't help with that request.",
    "I'm sorry, but I cannot help with that.",
    "Sorry, I can't assist with that.",
    "I'm sorry, but I can't assist with this request.",
    "I won't help with this.",
)
_REASONS = (
    "",
    " It could hurt someone.",
    " It could cause serious harm.",
    " I would be glad to help with something safe instead.",
)


REFUSAL_STARTS = tuple(opening.rstrip(".") for opening in _OPENINGS)


def refusal(prompt: str, seed: int) -> str:
    """A templated refusal, drawn by prompt and seed so that a rebuild writes the same one."""
    chooser = random.Random(derive_seed(seed, "refusal", prompt))
    return chooser.choice(_OPENINGS) + chooser.choice(_REASONS)


def refusal_entropy_nats() -> float:
    """Entropy of the template choice, the floor of the refusal loss summed over one refusal."""
    return math.log(len(_OPENINGS)) + math.log(len(_REASONS))


def harmful_sources(data: Path) -> dict[str, list[str]]:
    """Lists of prompts to refuse, before overlap with the evaluation lists is removed.

    Left out whole: past_tense (paraphrases of evaluation prompts that word overlap cannot see) and Q-Harm
    (a share of it is harmless questions).
    """
    tuned = data / "safety_tuned_llamas"
    sources = {
        "do_not_answer": [
            r["prompt"]
            for r in _csv(data / "do_not_answer/do_not_answer_prompts.csv")
            if r["category"] in _DO_NOT_ANSWER
        ],
        "malicious_instruct": [
            r["prompt"] for r in _csv(data / "malicious_instruct/malicious_instruct_prompts.csv")
        ],
        "safety_tuned_llamas": [r["instruction"] for r in _jsonl(tuned / "safety_only_safe_responses.jsonl")],
    }
    for name in ("I-CoNa", "I-Controversial", "I-MaliciousInstructions", "I-PhysicalSafetyUnsafe"):
        sources[name] = json.loads((tuned / f"{name}.json").read_text(encoding="utf-8"))["instructions"]
    for split in ("train", "val", "test"):
        name = f"refusal_direction_harmful_{split}"
        sources[name] = [r["prompt"] for r in _jsonl(data / f"refusal_direction_splits/harmful_{split}.jsonl")]
    return sources


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def lookalikes(harmful: Sequence[str], benign: Sequence[str], count: int) -> list[str]:
    """The `count` benign prompts that look most like harmful ones by their words and openings.

    Score: the largest log-odds (harmful against benign, add-one) over the prompt's words and word pairs: one
    telling word is what makes a look-alike. Half the count comes from the top of that ranking; half from
    prompts below it whose first two words also open at least five harmful prompts. Deterministic.
    """

    def features(prompt: str) -> set[str]:
        words = _words(prompt)
        return set(words) | {f"{a} {b}" for a, b in pairwise(words)}

    bad = Counter(f for p in harmful for f in features(p))
    good = Counter(f for p in benign for f in features(p))
    shift = math.log((len(benign) + 1) / (len(harmful) + 1))

    def odds(prompt: str) -> float:
        known = (f for f in features(prompt) if bad[f] >= 3)
        return max((math.log((bad[f] + 1) / (good[f] + 1)) + shift for f in known), default=-math.inf)

    ranked = sorted(range(len(benign)), key=lambda i: (-odds(benign[i]), i))
    chosen = ranked[: count // 2]
    openings = Counter(" ".join(_words(p)[:2]) for p in harmful)
    rest = [i for i in ranked[count // 2 :] if openings[" ".join(_words(benign[i])[:2])] >= 5]
    chosen += rest[: count - len(chosen)]
    return [benign[i] for i in chosen]


def _unique(prompts: Iterable[SourcedPrompt]) -> list[SourcedPrompt]:
    seen: set[str] = set()
    kept = []
    for item in prompts:
        key = normalise_text(item.prompt)
        if key and key not in seen:
            seen.add(key)
            kept.append(item)
    return kept


def without_evaluation_copies(
    prompts: Sequence[SourcedPrompt],
    evaluation: dict[str, list[str]],
    threshold: float = NEAR_DUPLICATE,
    find: Callable[..., list[tuple[int, int, float]]] = near_duplicates,
) -> tuple[list[SourcedPrompt], dict[str, dict[str, int]], dict[str, int]]:
    """(kept prompts, counts by source and evaluation list, count of prompts dropped by source)."""
    texts = [p.prompt for p in prompts]
    removed: dict[str, Counter[str]] = {}
    drop: set[int] = set()
    for name, against in evaluation.items():
        hits = {i for i, _, _ in find(texts, against, threshold, 1)}  # 1: sets of single words
        for i in hits:
            removed.setdefault(prompts[i].source, Counter())[name] += 1
        drop |= hits
    dropped = Counter(prompts[i].source for i in drop)
    kept = [p for i, p in enumerate(prompts) if i not in drop]
    return kept, {s: dict(c) for s, c in sorted(removed.items())}, dict(sorted(dropped.items()))


def _hold_out(prompts: list[SourcedPrompt], share: float, seed: int) -> tuple[list, list]:
    """Split by a hash of the normalised text, so that the split does not depend on order or on other lists."""
    kept, held = [], []
    for item in prompts:
        coin = derive_seed(seed, "held out", normalise_text(item.prompt)) % 10_000
        (held if coin < share * 10_000 else kept).append(item)
    return kept, held


def alignment_prompts(data: Path, seed: int = 0, lookalike_count: int = 3000) -> AlignmentPrompts:
    """Everything alignment may see; a tenth of the harmful prompts and look-alikes stays out as a check."""
    evaluation = evaluation_lists(data)
    bad = _unique(SourcedPrompt(s, p) for s, ps in harmful_sources(data).items() for p in ps)
    bad, removed, dropped = without_evaluation_copies(bad, evaluation)
    pool = [r["prompt"] for r in _jsonl(data / "alpaca/alpaca_instructions_only.jsonl")]
    close = [
        SourcedPrompt("alpaca_lookalike", p) for p in lookalikes([b.prompt for b in bad], pool, lookalike_count)
    ]
    safe = json.loads((data / "safety_tuned_llamas/I-PhysicalSafetySafe.json").read_text(encoding="utf-8"))
    close += [SourcedPrompt("I-PhysicalSafetySafe", p) for p in safe["instructions"]]
    refused = {normalise_text(b.prompt) for b in bad}
    benign = _unique([*close, *answered_instructions(data)])
    benign = [b for b in benign if normalise_text(b.prompt) not in refused]
    benign, removed_benign, dropped_benign = without_evaluation_copies(benign, evaluation)
    harmful, held_harmful = _hold_out(bad, 0.1, seed)
    close, held_close = _hold_out([b for b in benign if b.answer is None], 0.1, seed)
    return AlignmentPrompts(
        harmful=tuple(harmful),
        lookalike=tuple(close),
        answered=tuple(b for b in benign if b.answer is not None),
        held_out_harmful=tuple(held_harmful),
        held_out_lookalike=tuple(held_close),
        removed=removed | removed_benign,
        dropped=dropped | dropped_benign,
    )


def counts(prompts: AlignmentPrompts) -> dict[str, dict[str, int]]:
    """How many prompts of each part come from each list."""
    parts = ("harmful", "lookalike", "answered", "held_out_harmful", "held_out_lookalike")
    return {part: dict(sorted(Counter(p.source for p in getattr(prompts, part)).items())) for part in parts}
