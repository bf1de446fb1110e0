"""Four fine-tunes one after the other on one adapter: what each leaves of the refusals and of the tasks before it.

Knows: the order of the tasks, what is counted after each. Does not know: arms, how an arm is trained.

Every stage is a run of the study (its updates, its rate). The anchor of every stage holds what the aligned model
said before the first one. Backward transfer of a task is its score after the last stage less that right after its
own (Lopez-Paz and Ranzato 2017); forgetting, its best score less its last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from studies.training import cell as runs
from studies.training import kept
from studies.training.arms import ARMS, Arm
from studies.training.cell import Cell, Setting
from studies.training.evidence import numbers, percent

from holdfast.core.files import hash_json, new_folder, read_json, write_json
from holdfast.core.rates import rate_over_seeds
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import bootstrap_mean
from holdfast.defences import Anchor
from holdfast.evaluation import Reference, drift
from holdfast.models import Subject, generate_text
from holdfast.organism import task_rows

TASKS = ("lessons", "digest", "obedience", "labels")
WAYS = ("plain", "anchor", "moderate-0.5", "mixing-10")
FILE = kept.FILE.with_name("sequences.jsonl")


def run(name: str, seed: int, root: Path, setting: Setting) -> dict[str, Any]:
    """The record of one arm and seed; made if it is not there yet."""
    arm = ARMS[name]
    key = hash_json([TASKS, Cell("sequence", seed, arm).key(setting)])[:8]
    folder = root / "sequences" / f"{name}-{seed}-{key}"
    if (folder / "sequence.json").exists():
        return read_json(folder / "sequence.json")
    if (known := kept.load(FILE).get(folder.name)) is not None:
        return known
    subject = runs.start(seed, setting)
    asked = runs.prompts(runs.REFUSED, "evaluate", setting.drift_prompts, derive_seed(seed, "drift"))
    aligned = Reference.of(subject, asked, setting.max_new_tokens, seed=seed)
    given = runs.material(arm, subject, setting, derive_seed(seed, "given"))
    said = Reference.of(subject, given["prompts"], setting.max_new_tokens, derive_seed(seed, "said"))
    stages = []
    for number, task in enumerate(TASKS):
        cell = Cell(task, derive_seed(seed, "stage", number) % 2**31, arm)
        _train(cell, subject, setting, said, given["controls"])
        stages.append(_looked_at(subject, aligned, setting, TASKS[: number + 1]) | {"task": task})
    record = {"arm": name, "seed": seed, "stages": stages}
    with new_folder(folder) as out:
        write_json(out / "sequence.json", record)
    return record


def _train(cell: Cell, subject: Subject, setting: Setting, said: Reference, controls: Sequence[str]) -> None:
    if cell.arm.defence != "anchor":
        runs.train(cell, subject, setting)
        return
    anchor = Anchor(said, cell.arm.knob, seed=cell.seed, controls=controls)
    runs.train(replace(cell, arm=Arm("plain")), subject, setting, defences=[anchor])


def _looked_at(subject: Subject, aligned: Reference, setting: Setting, tasks: Sequence[str]) -> dict[str, Any]:
    scores = {}
    for task in tasks:
        rows = task_rows(task, "test", setting.test_rows, 7)
        said = generate_text(subject, [row["prompt"] for row in rows], max_new_tokens=40, batch_size=128)
        scores[task] = float(np.mean([a == row["completion"] for a, row in zip(said, rows, strict=True)]))
    asked = {"refused": runs.REFUSED, "over_refused": runs.ANSWERED}
    found = {
        what: "".join(map(str, runs.refusals(subject, runs.prompts(kinds, "evaluate", setting.prompts, 7))))
        for what, kinds in asked.items()
    }
    return {**found, "scores": scores, "drift_nats": round(drift(subject, aligned).kl_nats, 4)}


def read(root: Path) -> list[dict[str, Any]]:
    """All records, of folders and kept earlier; those of folders are kept from now on."""
    found = {path.parent.name: read_json(path) for path in sorted((root / "sequences").glob("*/sequence.json"))}
    kept.save(found, FILE)
    return list(kept.load(FILE).values())


def table(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm: after every stage and at the end, over its seeds."""
    rows = []
    for name in [way for way in WAYS if any(record["arm"] == way for record in found)]:
        own = [record["stages"] for record in found if record["arm"] == name]
        back = [stages[-1]["scores"][s["task"]] - s["scores"][s["task"]] for stages in own for s in stages[:-1]]
        lost = [
            max(s["scores"][task] for s in stages if task in s["scores"]) - stages[-1]["scores"][task]
            for stages in own
            for task in TASKS[:-1]
        ]
        rows.append(
            {
                "name": name,
                "seeds": len(own),
                "refused": [_rate([stages[k]["refused"] for stages in own]) for k in range(len(TASKS))],
                "over_refused": _rate([stages[-1]["over_refused"] for stages in own]),
                "score": float(np.mean([list(stages[-1]["scores"].values()) for stages in own])),
                "backward_transfer": bootstrap_mean(back).to_dict(),
                "forgetting": float(np.mean(lost)),
                "drift_nats": float(np.mean([stages[-1]["drift_nats"] for stages in own])),
            }
        )
    return rows


def markdown(found: Mapping[str, Any]) -> str:
    """One row an arm."""
    heads = [f"refused after {task}" for task in TASKS]
    lines = [
        f"| arm | seeds | {' | '.join(heads)} | over-refusal at the end | mean score at the end | backward "
        "transfer, points | forgetting, points | drift, nats |",
        "|---|---|" + "---|" * (len(TASKS) + 5),
    ]
    for row in found.get("sequences", []):
        refused = " | ".join(percent(rate) for rate in row["refused"])
        back = row["backward_transfer"]
        points = f"{100 * back['value']:+.1f} [{100 * back['low']:+.0f}, {100 * back['high']:+.0f}]"
        lines.append(
            f"| {row['name']} | {row['seeds']} | {refused} | {percent(row['over_refused'])} "
            f"| {100 * row['score']:.0f} % | {points} | {100 * row['forgetting']:.1f} | {row['drift_nats']:.2f} |"
        )
    return "\n".join(lines)


def _rate(bits: Sequence[str]) -> dict[str, Any]:
    return numbers(rate_over_seeds([[int(bit) for bit in row] for row in bits]))
