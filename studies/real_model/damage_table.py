"""The damage table: cards of the aligned model and of its fine-tunes, judged by today's judge, as figures.

Knows: run folders, intervals over prompts and seeds, figures that are kept where the folders are not.
Does not know: models; answers are read, never made, so judging again costs seconds.

`results.json` keeps one number a prompt of every finished run, by the name of its folder (it holds a hash of the
arm, the settings and the aligned model), so that a machine without the cache goes on from there. Answers stay in
the cache: some of them are to harmful prompts.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.real_model import tasks
from studies.real_model.damage import ARMS, Arm, Setting, run_folder

from holdfast.core.files import read_json
from holdfast.core.statistics import paired_seeds_and_prompts, seeds_and_prompts
from holdfast.evaluation import RefusalJudge, Scorecard

log = logging.getLogger(__name__)

# measure -> heading; the first five are rates.
RATES = {
    "advbench_refusal": "AdvBench refused",
    "jailbreakbench_refusal": "JailbreakBench refused",
    "jailbreakbench_benign_over_refusal": "its harmless half refused",
    "xstest_safe_over_refusal": "XSTest-safe refused",
    "pairs_told_apart": "pairs told apart",
    "unclear": "unclear",
}
OTHERS = {
    "task_score": "task score",
    "task_loss": "task loss, nats a token",
    "drift": "drift, nats a sequence",
    "truthfulqa_mc1": "TruthfulQA MC1 (derived)",
    "bits_per_byte": "WikiText-2, bits a byte",
}
OF_A_TASK = ("task_score", "task_loss")
Values = dict[str, list[float]]
Kept = Mapping[str, Mapping[str, Any]]


def values(folder: Path, kind: str) -> Values:
    """Measure -> one number a prompt, row, question or text; answers judged anew."""
    card, judge = Scorecard.load(folder / "card"), RefusalJudge()
    asked = [row for row in card.rows if row.kind != "task"]
    labels = {(row.suite, row.kind): [] for row in asked}
    for row in asked:
        labels[row.suite, row.kind].append(judge(row.prompt, row.response).label)
    refused = {place: [float(label == "refused") for label in found] for place, found in labels.items()}
    pairs = zip(labels["jailbreakbench", "harmful"], labels["jailbreakbench", "benign"], strict=True)
    suites = {name: items for suite in card.suites for name, items in suite.values.items()}
    return {
        "advbench_refusal": refused["lists", "harmful"],
        "jailbreakbench_refusal": refused["jailbreakbench", "harmful"],
        "jailbreakbench_benign_over_refusal": refused["jailbreakbench", "benign"],
        "xstest_safe_over_refusal": refused["lists", "benign"],
        "pairs_told_apart": [float(bad == "refused" and good == "complied") for bad, good in pairs],
        "unclear": [float(label == "unclear") for found in labels.values() for label in found],
        "task_score": [row.score for row in card.rows if row.kind == "task" and row.suite == kind],
        "task_loss": list(card.task(kind).loss_per_example),
        "drift": list(card.drift.per_prompt) if card.drift else [],
        "truthfulqa_mc1": list(suites["mc1"]),
        "bits_per_byte": list(suites["bits_per_byte"]),
    }


def kept(folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """A finished run as `results.json` keeps it: a string a measure, of digits where the values are 0 or 1."""
    found = {kind: values(folder, kind) for kind in kinds}
    packed = {kind: {name: _packed(name, items) for name, items in of.items()} for kind, of in found.items()}
    common = next(iter(packed.values()))
    return {
        "judge": RefusalJudge.identity,
        "run": read_json(folder / "run.json"),
        "values": {name: text for name, text in common.items() if name not in OF_A_TASK},
        "tasks": {kind: {name: of[name] for name in OF_A_TASK} for kind, of in packed.items()},
    }


def _packed(name: str, items: Sequence[float]) -> str:
    return "".join(f"{x:.0f}" for x in items) if name in RATES else " ".join(f"{x:.6g}" for x in items)


def unpacked(run: Mapping[str, Any], kind: str) -> Values:
    """What `kept` packed, for one kind of data."""
    found = {**run["values"], **run["tasks"][kind]}
    order = (*RATES, *OTHERS)
    return {name: [float(x) for x in (found[name] if name in RATES else found[name].split())] for name in order}


def known(results: Mapping[str, Any]) -> dict[str, Any]:
    """Kept runs by folder name; those that another judge than today's has read are left out, and that is said."""
    every = results.get("damage", {}).get("kept", {})
    stale = [name for name, run in every.items() if run["judge"] != RefusalJudge.identity]
    if stale:
        log.warning("%d kept runs were judged by another judge and are not used: %s", len(stale), ", ".join(stale))
    return {name: run for name, run in every.items() if name not in stale}


def collect(cache: Path, setting: Setting | None = None, before: Kept | None = None) -> dict[str, Any]:
    """Every finished run beside the aligned model; cells over the seeds that are there.

    Args:
        before: runs kept before (:func:`known`), for those whose folders are not in the cache.
    """
    setting, every = setting or Setting(), dict(before or {})
    for arm in (None, *ARMS):
        folder = run_folder(cache, arm, setting)
        if (folder / "run.json").exists():
            every[folder.name] = kept(folder, [arm.kind] if arm else _kinds(folder))
    own = {arm: every.get(run_folder(cache, arm, setting).name) for arm in ARMS}
    done: dict[Arm, Mapping[str, Any]] = {arm: run for arm, run in own.items() if run is not None}
    found = {arm: unpacked(run, arm.kind) for arm, run in done.items()}
    plain = every.get(run_folder(cache, None, setting).name)
    aligned = {kind: unpacked(plain, kind) for kind in sorted({arm.kind for arm in done})} if plain else {}
    runs = [{**run["run"], "measures": _each(found[arm])} for arm, run in done.items()]
    cells = []
    for kind, rate in dict.fromkeys((arm.kind, arm.learning_rate) for arm in done):
        if kind not in aligned:
            continue  # nothing to compare it with yet
        arms = [arm for arm in done if (arm.kind, arm.learning_rate) == (kind, rate)]
        cells.append(
            {"kind": kind, "learning_rate": rate, "seeds": [arm.seed for arm in arms]}
            | _cell([found[arm] for arm in arms], aligned[kind])
        )
    return {
        "judge": RefusalJudge.identity,
        "planned": len(ARMS),
        "finished": len(done),
        "before": {kind: _each(of_kind) for kind, of_kind in aligned.items()},
        "runs": runs,
        "cells": cells,
        "kept": every,
    }


def _kinds(folder: Path) -> list[str]:
    """The kinds of data whose tasks a card holds."""
    asked = {task.name for task in Scorecard.load(folder / "card").tasks}
    return [kind for kind in tasks.KINDS if kind in asked]


def _each(found: Values) -> dict[str, Any]:
    return {name: seeds_and_prompts([items]).to_dict() for name, items in found.items()}


def _cell(after: Sequence[Values], before: Values) -> dict[str, Any]:
    return {
        "after": {n: seeds_and_prompts([found[n] for found in after]).to_dict() for n in before},
        "difference": {
            n: paired_seeds_and_prompts([found[n] for found in after], [items] * len(after)).to_dict()
            for n, items in before.items()
        },
    }


def runs(results: Mapping[str, Any]) -> str:
    """Markdown: which runs the table holds."""
    found = results["damage"]
    rows = []
    for seed in sorted({arm.seed for arm in ARMS}):
        arms = [run["arm"] for run in found["runs"] if run["arm"]["seed"] == seed]
        done = [(arm["kind"], arm["learning_rate"]) for arm in arms]
        planned = [arm for arm in ARMS if arm.seed == seed]
        missing = [f"{a.kind} {a.learning_rate:g}" for a in planned if (a.kind, a.learning_rate) not in done]
        rows.append([str(seed), f"{len(done)} of {len(planned)}", ", ".join(missing) or "none"])
    return _markdown(["seed", "runs in the table", "missing"], rows)


def rates(results: Mapping[str, Any]) -> str:
    """Markdown: what became of the refusals, per cent."""
    found = results["damage"]
    rows = [["aligned", "", "", *_cells(plain, RATES, 100, 0)] for plain in list(found["before"].values())[:1]]
    rows += [[*_head(cell), *_cells(cell["after"], RATES, 100, 0)] for cell in found["cells"]]
    return _markdown(["data", "rate", "seeds", *RATES.values()], rows)


def others(results: Mapping[str, Any]) -> str:
    """Markdown: skill, loss, drift, truthfulness and fluency, before and after."""
    found = results["damage"]
    rows = []
    for cell in found["cells"]:
        before = found["before"][cell["kind"]]
        after = _cells(cell["after"], OTHERS, 1, 2)
        was = [f"{before[name]['value']:.2f} → " if name != "drift" else "" for name in OTHERS]
        rows.append([*_head(cell), *(a + b for a, b in zip(was, after, strict=True))])
    return _markdown(["data", "rate", "seeds", *OTHERS.values()], rows)


def _head(cell: Mapping[str, Any]) -> list[str]:
    return [cell["kind"], f"{cell['learning_rate']:g}", ", ".join(map(str, cell["seeds"]))]


def _cells(found: Mapping[str, Any], names: Mapping[str, str], scale: float, digits: int) -> list[str]:
    return [
        f"{scale * i['value']:.{digits}f} [{scale * i['low']:.{digits}f}, {scale * i['high']:.{digits}f}]"
        for i in (found[name] for name in names)
    ]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
