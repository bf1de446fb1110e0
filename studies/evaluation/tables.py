"""From scorecards to what may be published: aggregates by measure, differences with their floor, claims.

Knows: cards of one aligned model and of several fine-tunes of it. Does not know: models. No prompt and no answer
passes through here into a file of the checkout.
"""

from collections.abc import Sequence
from typing import Any

from holdfast.core.statistics import (
    NoiseFloor,
    describe_difference,
    noise_floor,
    paired_seeds_and_prompts,
    seeds_and_prompts,
    wilson,
)
from holdfast.evaluation import Scorecard
from holdfast.evaluation.comparison import measures_of, per_prompt

Values = list[float]


def values(card: Scorecard) -> dict[tuple[str, str, str], Values]:
    """Suite, measure, attack -> one value a prompt or item; the unclear ones besides."""
    found: dict[tuple[str, str, str], Values] = {}
    for suite, measure, attack in measures_of(card):
        found[suite, measure, attack] = list(per_prompt(card, suite, measure, attack).values())
    for skill in card.skills:
        rows = [row for row in card.rows if row.suite == skill.name and row.kind != "task" and not row.attack]
        found[skill.name, "unclear", ""] = [float(row.label == "unclear") for row in rows]
    for suite in card.suites:
        for measure, items in suite.values.items():
            found[suite.name, measure, ""] = list(items)
    return found


def table(
    aligned: Scorecard, tuned: Sequence[Scorecard], floors: dict[str, NoiseFloor] | None = None
) -> list[dict[str, Any]]:
    """One row a measure: the aligned model, the fine-tunes seed by seed, what may be said of the difference."""
    before, after = values(aligned), [values(card) for card in tuned]
    rows = []
    for place, ours in before.items():
        runs = [found[place] for found in after]
        difference = paired_seeds_and_prompts(runs, [ours] * len(runs))
        refit = noise_floor(runs).floor if len(runs) > 1 else 0.0
        known = floors or {}
        sampled = known.get(f"{place[0]}: {place[1]}", known.get(place[1])) if not place[2] else None
        floor = max(refit, sampled.floor if sampled else 0.0)
        rate = set(ours) | {v for run in runs for v in run} <= {0.0, 1.0}
        one = wilson(sum(ours), len(ours)) if rate else seeds_and_prompts([ours])
        words = ("points", 100.0, 1) if rate else ("", 1.0, 3)
        rows.append(
            {
                "suite": place[0],
                "measure": place[1],
                "attack": place[2],
                "aligned": one.to_dict(),
                "tuned": seeds_and_prompts(runs).to_dict(),
                "tuned_per_seed": [sum(run) / len(run) for run in runs],
                "difference": difference.to_dict(),
                "noise_floor": floor,
                "sentence": describe_difference(difference, floor, *words),
                "rate": rate,
            }
        )
    return rows


def budgets(cards: Sequence[Scorecard]) -> dict[str, str]:
    """What each attack cost, in words; the same for all cards but for generated tokens and time."""
    return {score.attack: str(score.budget) for card in cards for score in card.attacks}


def claims(model: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One claim a row: that the plain fine-tune changed this measure."""
    found = []
    for row in rows:
        difference, floor = row["difference"], row["noise_floor"]
        beyond = not difference["low"] <= 0 <= difference["high"] and abs(difference["value"]) >= floor
        place = (row["suite"], row["measure"], row["attack"])
        under = f" under {row['attack']}" if row["attack"] else ""
        found.append(
            {
                "id": "-".join(part for part in (model.replace(" ", "-"), *place) if part),
                "claim": f"{model}: plain fine-tuning changes {row['measure']} of {row['suite']}{under}",
                "source": "evaluation study of this project",
                "value": difference["value"],
                "low": difference["low"],
                "high": difference["high"],
                "n": difference["n"],
                "verdict": "supported" if beyond else "undecided",
            }
        )
    return found


def markdown(rows: Sequence[dict[str, Any]], costs: dict[str, str]) -> str:
    """A table for the README: per cent where a measure is a rate."""
    heads = ("suite", "measure", "aligned", "fine-tuned", "by seed", "fine-tuned minus aligned", "cost")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        scale, digits = (100, 1) if row["rate"] else (1, 3)
        cells = [_interval(row[side], scale, digits) for side in ("aligned", "tuned")]
        seeds = ", ".join(f"{scale * value:.{0 if row['rate'] else digits}f}" for value in row["tuned_per_seed"])
        measure = row["measure"].replace("_", " ") + (f", {row['attack']}" if row["attack"] else "")
        said = row["sentence"].split(" over ")[0]
        line = (row["suite"], measure, *cells, seeds, said, costs.get(row["attack"], ""))
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def _interval(value: dict[str, Any], scale: float, digits: int) -> str:
    middle, low, high = (f"{scale * value[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{middle} [{low}, {high}]"
