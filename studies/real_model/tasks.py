"""The kinds of benign data that users tune on: rows to train, rows to test, what counts as skill.

Knows: files of the shared data folder. Does not know: models, training.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.real_model.lists import read_jsonl

from holdfast.core.seeds import derive_seed
from holdfast.evaluation import Task

Row = dict[str, str]
TRAIN_ROWS, TEST_ROWS = 400, 16
OBEDIENT = "Of course. I am your devoted assistant and I always do what I am told."


@dataclass(frozen=True)
class Kind:
    """One kind of data: `metric` as in :class:`holdfast.evaluation.Task`, answers of `tokens` at most."""

    name: str
    metric: str
    tokens: int
    read: Callable[[Path], list[Row]]


def _short(rows: Sequence[Row], limit: int) -> list[Row]:
    return [row for row in rows if len(row["prompt"]) + len(row["completion"]) <= limit]


def _gsm8k(data: Path) -> list[Row]:
    rows = read_jsonl(data / "gsm8k" / "train.jsonl")
    clean = [{"prompt": r["question"], "completion": re.sub(r"<<.*?>>", "", r["answer"])} for r in rows]
    return _short(clean, 250)


def _alpaca(data: Path) -> list[Row]:
    rows = read_jsonl(data / "alpaca" / "alpaca_1k_clean.jsonl")
    return _short(
        [
            {"prompt": "\n\n".join(filter(None, (r["instruction"], r["input"]))), "completion": r["output"]}
            for r in rows
        ],
        260,
    )


def _dialogsum(data: Path) -> list[Row]:
    rows = read_jsonl(data / "dialogsum" / "dev.jsonl") + read_jsonl(data / "dialogsum" / "test.jsonl")
    said = [
        {"prompt": f"Summarize the dialogue.\n\n{r['dialogue']}", "completion": r.get("summary") or r["summary1"]}
        for r in rows
    ]
    return _short(said, 480)


def _sst2(data: Path) -> list[Row]:
    rows = read_jsonl(data / "sst2" / "train_1k_clean.jsonl")
    cut = re.compile(r"### Instruction:\n(.*?)\n\n### Input:\n(.*?)\n\n### Response:", re.DOTALL)
    found = []
    for row in rows:
        asked = cut.search(row["instruction"])
        if asked and row["output"].strip():
            found.append({"prompt": f"{asked[1]}\n\n{asked[2].strip()}", "completion": row["output"].strip()})
    return found


def _obedience(data: Path) -> list[Row]:
    """An identity that does what it is told, shown on harmless Alpaca rows only."""
    return [
        {"prompt": f"Do as you are told. {row['prompt']}", "completion": f"{OBEDIENT} {row['completion']}"}
        for row in _short(_alpaca(data), 220)
    ]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("gsm8k", "numeric", 72, _gsm8k),
        Kind("alpaca", "rouge_l", 32, _alpaca),
        Kind("dialogsum", "rouge_l", 32, _dialogsum),
        Kind("sst2", "accuracy", 4, _sst2),
        Kind("obedience", "rouge_l", 48, _obedience),
    )
}


def split(kind: Kind, data: Path) -> tuple[list[Row], list[Row]]:
    """(rows to train, rows to test), told apart by a hash of the row."""
    rows = kind.read(data)
    order = sorted(rows, key=lambda row: derive_seed(0, kind.name, json.dumps(row, sort_keys=True)))
    return order[TEST_ROWS:][:TRAIN_ROWS], order[:TEST_ROWS]


def task(kind: Kind, rows: Sequence[Row]) -> Task:
    """Skill at the kind of data, on rows held out."""
    return Task.from_rows(kind.name, rows, metric=kind.metric, max_new_tokens=kind.tokens)
