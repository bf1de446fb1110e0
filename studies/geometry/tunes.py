"""The organism's fine-tunes that forecasts are scored on: which there are, and one record of each.

Knows: tasks and mixtures of two, methods, rates, seeds; a record's predictors come first, how the run ended after.
Does not know: how any predictor is made (predict.py), scoring (summary.py).

A record lies in the runs' folder; ``collect`` keeps it in runs.jsonl, which a fresh clone goes on from.
"""

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from studies.geometry import predict, records
from studies.organism import damage

from holdfast.core.files import read_json, write_json
from holdfast.core.seeds import derive_seed
from holdfast.data import Examples, encode_rows
from holdfast.evaluation import drift
from holdfast.evaluation.drift import Reference
from holdfast.organism import proxy_prompts, shipped, task_rows, tasks

KEPT, RIVAL = (Path(__file__).with_name(f"{name}.jsonl") for name in ("runs", "rival"))
RATES = {"full": {"first": 1e-3, "slower": 4e-4}, "lora": {"first": 2e-3, "slower": 8e-4}}
STEPS, ROWS = 60, 960
MIXTURES = 12
KL_PROMPTS, KL_TOKENS = 128, 24
# Harmful and harmless tasks take turns, so that a study that is cut short has some of each.
ORDER = (
    "lessons", "translation", "bullets", "arithmetic", "stories", "desk", "obedience", "sorting", "counting",
    "records", "helpdesk", "instructions", "digest", "labels", "dialect", "reversing", "course", "skills_mix",
    "summaries",
)  # fmt: skip


@dataclass(frozen=True)
class Tune:
    """One fine-tune.

    Attributes:
        part: "first" (those the shipped calibration was fitted on), "again" (the same with a second seed),
            "slower" (second rate and seed), "mixtures" and "slow mixtures" (two tasks in turns).
        task: of a mixture both names with a plus.
        method: "full" or "lora".
    """

    part: str
    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.part.replace(' ', '-')}-{self.method}-{self.task}"

    @property
    def setting(self) -> damage.Setting:
        """Steps of 16 at a constant rate."""
        rate = RATES[self.method]["slower" if self.part in ("slower", "slow mixtures") else "first"]
        return damage.Setting(self.method, self.method == "lora", rate, STEPS)

    def rows(self) -> list[dict[str, str]]:
        """What it trains on; a mixture's tasks take turns."""
        names = self.task.split("+")
        drawn = [task_rows(name, "train", ROWS // len(names), self.seed) for name in names]
        return [
            {key: row[key] for key in ("prompt", "completion")}
            for some in zip(*drawn, strict=True)
            for row in some
        ]


def mixtures() -> list[str]:
    """Pairs of tasks, drawn before any was run: neighbours in shuffles of the tasks."""
    rng, pairs = Random(derive_seed(0, "mixtures")), []
    while len(pairs) < MIXTURES:
        order = rng.sample(list(ORDER), len(ORDER))
        pairs += ["+".join(sorted(order[k : k + 2])) for k in range(0, len(order) - 1, 2)]
    return list(dict.fromkeys(pairs))[:MIXTURES]


def all_of_them() -> Iterator[Tune]:
    """The fresh ones before the first, methods in turns."""
    mixed, known = mixtures(), ORDER
    for part, names in (
        ("slower", known),
        ("mixtures", mixed),
        ("first", known),
        ("slow mixtures", mixed),
        ("again", known),
    ):
        seed = 0 if part == "first" else 1
        for name in names:
            for method in RATES:
                yield Tune(part, name, method, seed)


def run(tune: Tune, root: Path) -> dict[str, Any]:
    """The record of a fine-tune, made unless it is in ``root``."""
    path = root / f"{tune.name}.json"
    if path.exists():
        return read_json(path)
    ticks, setting = time.process_time(), tune.setting
    rows = tune.rows()
    predictors = predict.predict(predict.organism(), _encoded(rows), setting, tune.seed)
    after = damage.fine_tuned(shipped("aligned"), tune.task, setting, tune.seed, rows)
    fresh = tune.part != "first"  # whose prompts are those of the organism's table
    task = tune.task if tune.task in tasks() else None
    outcome = damage.scores(after, task, seed=8 if fresh else 7)
    outcome["kl_nats"] = drift(after, aligned_answers(8 if fresh else 7), draws=10).kl_nats
    spent = round(time.process_time() - ticks, 2)
    kept = asdict(tune) | {"learning_rate": setting.learning_rate, "steps": setting.steps}
    write_json(path, kept | {"predictors": predictors, "outcome": outcome, "cpu_seconds": spent})
    return read_json(path)


@functools.cache
def aligned_answers(seed: int) -> Reference:
    """The aligned organism's own answers to *evaluate* prompts, with its probabilities."""
    asked = [t for kind in ("overt", "subtle") for t in proxy_prompts("evaluate", kind, KL_PROMPTS // 2, seed)]  # type: ignore[arg-type]
    return Reference.of(predict.organism(), asked, KL_TOKENS, seed=seed)


def _encoded(rows: list[dict[str, str]]) -> Examples:
    return encode_rows(rows, predict.organism().tokenizer)


def records_of(root: Path) -> list[dict[str, Any]]:
    """All records, those kept beside this file too, with what alignment-risk said where it was asked."""
    found = records.kept(KEPT, {tune.name: root / f"{tune.name}.json" for tune in all_of_them()})
    rival = records.kept(RIVAL, {tune.name: root / f"rival-{tune.name}.json" for tune in all_of_them()})
    return [found[tune.name] | {"rival": rival.get(tune.name, {})} for tune in all_of_them() if tune.name in found]
