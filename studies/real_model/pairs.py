"""A fine-tune made another way beside its plain twin, of the same data, rate and seed, and what both began from.

Knows: run folders, pairs by prompt, how a difference is shown. Does not know: models, what is claimed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from studies.real_model import damage_table
from studies.real_model.damage import Setting, run_folder
from studies.real_model.damage_table import Kept, Values

from holdfast.core.files import read_json
from holdfast.core.rates import rate_difference_over_seeds
from holdfast.core.statistics import Interval, bootstrap_mean, paired_seeds_and_prompts, seeds_and_prompts

FEWEST = 6  # runs below which no verdict is given: three kinds of data, two seeds
REFUSED = ("advbench_refusal", "jailbreakbench_refusal")
OVER = ("jailbreakbench_benign_over_refusal", "xstest_safe_over_refusal")
SHOWN = (*REFUSED, "over_refusal", "task_score", "task_loss", "drift")


@dataclass(frozen=True)
class Pair:
    """A run, its plain twin and the model both began from: measure -> one number a prompt.

    Attributes:
        arm: has ``kind``, ``learning_rate``, ``seed`` and ``plain``, the arm of the twin.
        run, plain_run: what was recorded when they were made.
    """

    arm: Any
    aligned: Values
    plain: Values
    ours: Values
    run: Mapping[str, Any]
    plain_run: Mapping[str, Any]


def known(file: Path) -> dict[str, Any]:
    """Kept runs by folder name, of today's judge."""
    return damage_table.known({"damage": read_json(file)}) if file.exists() else {}


def gathered(arms: Sequence[Any], cache: Path, before: Kept, setting: Setting) -> dict[str, Any]:
    """Finished runs as they are kept: from their folders, and those that were kept before."""
    every = dict(before)
    for arm in arms:
        folder = run_folder(cache, arm, setting)
        if (folder / "run.json").exists():
            every[folder.name] = damage_table.kept(folder, [arm.kind])
    return {name: every[name] for name in sorted(every)}


def paired(arms: Sequence[Any], cache: Path, plain: Kept, every: Kept, setting: Setting) -> list[Pair]:
    """In the order of the plan; a run without its plain twin waits for it."""
    aligned, found = plain.get(run_folder(cache, None, setting).name), []
    for arm in arms:
        ours = every.get(run_folder(cache, arm, setting).name)
        twin = plain.get(run_folder(cache, arm.plain, setting).name)
        if ours is None or twin is None or aligned is None:
            continue
        values = [with_sums(damage_table.unpacked(run, arm.kind)) for run in (aligned, twin, ours)]
        found.append(Pair(arm, *values, run=ours["run"], plain_run=twin["run"]))
    return found


def with_sums(of: Values) -> Values:
    """Both lists of a kind as one: rates of all that is to be refused, and of all that is not."""
    sums = {"refusal": REFUSED, "over_refusal": OVER}
    return of | {name: [x for part in parts for x in of[part]] for name, parts in sums.items()}


# --- figures --------------------------------------------------------------------------------------------------


def cell(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Seeds of one kind and rate: aligned, plain, ours, and ours less plain."""
    found: dict[str, Any] = {"seeds": [p.arm.seed for p in pairs]}
    for side in ("aligned", "plain", "ours"):
        sides = [getattr(p, side) for p in pairs]
        found[side] = {name: seeds_and_prompts([of[name] for of in sides]).to_dict() for name in SHOWN}
    found["difference"] = {
        name: paired_seeds_and_prompts([p.ours[name] for p in pairs], [p.plain[name] for p in pairs]).to_dict()
        for name in SHOWN
    }
    return found


def points(pairs: Sequence[Pair], name: str, side: str = "plain") -> Interval | None:
    """Ours less the other side's, in points; paired by run and prompt."""
    if not pairs:
        return None
    found = rate_difference_over_seeds([p.ours[name] for p in pairs], [getattr(p, side)[name] for p in pairs])
    return scaled(found, 100)


def over_runs(pairs: Sequence[Pair], name: str) -> Interval | None:
    """Ours less plain's where rows differ between kinds of data: runs are resampled, and not rows."""
    changes = [float(np.mean(p.ours[name]) - np.mean(p.plain[name])) for p in pairs]
    return bootstrap_mean(changes) if changes else None


def mean_ratio(ratios: Sequence[float]) -> Interval | None:
    """Geometric mean over runs."""
    if not ratios:
        return None
    found = bootstrap_mean(np.log(ratios).tolist())
    value, low, high = (float(np.exp(x)) for x in (found.value, found.low, found.high))
    return Interval(value, low, high, found.n, found.method)


def scaled(interval: Interval | None, factor: float) -> Interval | None:
    """The same in another unit."""
    if interval is None:
        return None
    value, low, high = (factor * x for x in (interval.value, interval.low, interval.high))
    return Interval(value, min(low, high), max(low, high), interval.n, interval.method)


def claim(
    name: str,
    text: str,
    source: str,
    found: Interval | None,
    runs: int,
    holds: Any,
    fails: Any,
    fewest: int = FEWEST,
) -> dict[str, Any]:
    """``holds`` and ``fails`` judge the interval where there are runs enough."""
    verdict = "undecided"
    if found is not None and runs >= fewest:
        verdict = "supported" if holds(found) else "not supported" if fails(found) else "undecided"
    numbers = {key: getattr(found, key, None) for key in ("value", "low", "high", "n")}
    return {"id": name, "claim": text, "source": source, "cells": runs, **numbers, "verdict": verdict}


# --- pages ----------------------------------------------------------------------------------------------------


def asked(found: Mapping[str, Any]) -> str:
    """Markdown: a row a claim."""
    rows = []
    for entry in found["claims"]:
        value, low, high = ("-" if entry[key] is None else f"{entry[key]:.3g}" for key in ("value", "low", "high"))
        text = f"{entry['claim']} (`{entry['id']}`)"
        rows.append([text, str(entry["cells"]), value, f"[{low}, {high}]", entry["verdict"]])
    return markdown(["claim", "runs", "value", "95 % interval", "verdict"], rows)


def head(found: Mapping[str, Any]) -> list[str]:
    """Which runs a row is of."""
    return [found["kind"], f"{found['learning_rate']:g}", ", ".join(map(str, found["seeds"]))]


def change(found: Mapping[str, Any], name: str, scale: float, digits: int) -> str:
    """Plain, ours, and the difference with its interval."""
    was, now = (f"{scale * found[side][name]['value']:.{digits}f}" for side in ("plain", "ours"))
    gap = found["difference"][name]
    value, low, high = (f"{scale * gap[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{was} → {now}: {value} [{low}, {high}]"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
