"""From the stages' files to ``summary.json``: rates and differences; what else is drawn comes from ``recorded``.

Knows: rows, paired differences, what may be averaged over what. Does not know: models, pictures.

Every figure of several seeds has an interval over seeds *and* prompts (or examples), since training again gives
other seeds; its n is the number of prompts, and the seeds are listed beside it. One seed's is over prompts.

Shapes: S seeds, P prompts or examples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from holdfast.core.files import read_json
from holdfast.core.rates import rate_over_seeds
from holdfast.core.statistics import Interval, noise_floor, seeds_and_prompts
from holdfast.core.version import VERSION
from holdfast.evaluation import Scorecard
from holdfast.evaluation.attacks.run import worst
from holdfast.evaluation.beforehand import little_to_hold
from holdfast.pipeline import recorded
from holdfast.pipeline.changes import changes
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.recipe import ALIGNED
from holdfast.pipeline.stages import repaired_name

Cards = dict[int | None, Scorecard]
_ROWS = {"refusals": ("harmful", "refused"), "over-refusal": ("benign", "refused"), "task score": ("task", None)}


def summarise(run: RunFolder) -> dict[str, Any]:
    """The summary of a finished run."""
    recipe = run.recipe
    groups = _groups(run)
    cards = {name: found for name, _, _, found in groups}
    drift_traces = recorded.traces(run)
    return {
        "title": f"holdfast run: {recipe.name}",
        "holdfast": VERSION,
        "rows": [_row(run, *group) for group in groups],
        "differences": _differences(run, cards),
        "against_aligned": _against_aligned(run, cards),
        "attacks": [attack for group in groups for attack in _attacks(group)],
        "notes": _notes(run, drift_traces),
        "drift_traces": drift_traces,
        "spectrum": recorded.spectrum(run),
        "scores": recorded.scores(run),
        "audit": recorded.audit_lines(run),
        "elasticity": recorded.elasticity_lines(run),
        "layers": recorded.layers(run),
        "costs": recorded.costs(run),
        "computed": recorded.computed(run),
        "setting": recipe.to_dict(),
    }


def _groups(run: RunFolder) -> list[tuple[str, str, str | None, Cards]]:
    """Name, label, what it was repaired from, and the cards by seed."""

    def cards(name: str, seeds: Sequence[int]) -> Cards:
        return {seed: Scorecard.load(run.path / _card(name, seed)) for seed in seeds}

    recipe = run.recipe
    aligned: Cards = {None: Scorecard.load(run.path / _card(ALIGNED, None))}
    groups: list[tuple[str, str, str | None, Cards]] = [(ALIGNED, ALIGNED, None, aligned)]
    for arm in recipe.arms:
        groups.append((arm.name, arm.name, None, cards(arm.name, recipe.training.seeds)))
    for repair in recipe.restore:
        name = repaired_name(repair.arm, repair.method)
        seeds = repair.seeds if repair.seeds is not None else recipe.training.seeds
        some = "" if len(seeds) == len(recipe.training.seeds) else f" (seed {', '.join(map(str, seeds))} only)"
        groups.append((name, f"{repair.arm}, then {repair.method}{some}", repair.arm, cards(name, seeds)))
    return groups


def _card(name: str, seed: int | None) -> str:
    """Folder of a card, from the run's."""
    return f"stages/evaluate-{name}{'' if seed is None else f'-{seed}'}/card"


def _row(run: RunFolder, name: str, label: str, repaired_from: str | None, cards: Cards) -> dict[str, Any]:
    found = list(cards.values())
    return {
        "name": name,
        "label": label,
        "repaired_from": repaired_from,
        "seeds": [seed for seed in cards if seed is not None],
        "cards": [_card(name, seed) for seed in cards],
        "refusal": _rate(found, "harmful", "refused"),
        "over_refusal": _rate(found, "benign", "refused"),
        "unclear": _rate(found, "harmful", "unclear"),
        "task_score": _rate(found, "task", None),
        "task_loss_nats": _entry(
            [card.task("task").loss_per_example for card in found],
            [card.task("task").loss_nats_per_token for card in found],
        ),
        "drift_kl_nats": _entry(
            [card.drift.per_prompt if card.drift else () for card in found],
            [card.drift.kl_nats if card.drift else float("nan") for card in found],
        ),
        "seconds": _seconds(run, name, cards),
    }


def _per_prompt(card: Scorecard, kind: str, label: str | None) -> np.ndarray:
    rows = [row for row in card.rows if row.kind == kind and not row.attack]
    return np.array([row.score if label is None else float(row.label == label) for row in rows])


def _matrix(cards: Sequence[Scorecard], kind: str, label: str | None) -> np.ndarray:
    """One row a seed, one column a prompt."""
    return np.array([_per_prompt(card, kind, label) for card in cards])


def _binary(*matrices: np.ndarray) -> bool:
    return all(np.isin(values_SP, (0.0, 1.0)).all() for values_SP in matrices)


def _rate(cards: Sequence[Scorecard], kind: str, label: str | None) -> dict[str, Any] | None:
    values_SP = _matrix(cards, kind, label)
    if not values_SP.size:
        return None
    of = rate_over_seeds if _binary(values_SP) else seeds_and_prompts
    return _entry(values_SP, values_SP.mean(1).tolist(), of)


def _entry(
    values_SP: Any, per_seed: list[float], of: Callable[..., Interval] = seeds_and_prompts
) -> dict[str, Any]:
    """A mean with its interval; without one where the values behind it were not kept or are not finite.

    Only a rate is one of two outcomes a prompt: nats that happen to be all 0 are no count of successes.
    """
    data_SP = np.asarray(values_SP, dtype=np.float64)
    if data_SP.size == 0 or not np.isfinite(data_SP).all():
        return {"value": float(np.mean(per_seed)), "per_seed": per_seed}
    return {**of(data_SP.tolist()).to_dict(), "per_seed": per_seed}


def _seconds(run: RunFolder, name: str, cards: Cards) -> dict[str, Any]:
    """Time of the stages that made it, over seeds (the aligned model was made elsewhere)."""
    taken = [sum(run.seconds(stage) for stage in made) for seed in cards if (made := _made_by(run, name, seed))]
    if not taken:
        return {"value": float("nan"), "per_seed": []}
    if len(taken) == 1:
        return {"value": taken[0], "per_seed": taken}
    return {**seeds_and_prompts([taken]).to_dict(), "method": "bootstrap over seeds",
            "n": len(taken), "per_seed": taken}  # fmt: skip


def _made_by(run: RunFolder, name: str, seed: int | None) -> list[str]:
    return [stage for stage in (f"train-{name}-{seed}", f"restore-{name}-{seed}") if run.finished(stage)]


def _differences(run: RunFolder, groups: dict[str, Cards]) -> list[dict[str, Any]]:
    """Paired by seed and prompt: later arms against earlier ones, each repair against what it repaired."""
    arms = [arm.name for arm in run.recipe.arms]
    pairs = [(later, earlier) for k, later in enumerate(arms) for earlier in arms[:k]]
    for repair in run.recipe.restore:
        pairs.append((repaired_name(repair.arm, repair.method), repair.arm))
    found = []
    for first, second in pairs:
        seeds = [seed for seed in groups[first] if seed in groups[second]]
        moved = changes(run.path, [(f"{first}-{seed}", f"{second}-{seed}") for seed in seeds], run.recipe.seed)
        for measure, change in moved.items():
            if measure == "over-refusal":  # a sentence each for what was to be kept and what was to be learned
                continue
            refit = _floor([groups[first], groups[second]], *_ROWS[measure])
            found.append(
                {
                    "name": f"{measure}, {first} minus {second}",
                    "measure": measure,
                    "first": first,
                    "second": second,
                    **change,
                    "excludes_zero": bool(change["low"] > 0 or change["high"] < 0),
                    "noise_floor": _larger(refit, change["noise_floor"]),
                }
            )
    return found


def _against_aligned(run: RunFolder, groups: dict[str, Cards]) -> list[dict[str, Any]]:
    """Every adapter minus the aligned model on the same prompts; the aligned model is the same for every seed."""
    found = []
    for name, cards in groups.items():
        if name == ALIGNED:
            continue
        moved = changes(run.path, [(f"{name}-{seed}", ALIGNED) for seed in cards], run.recipe.seed)
        for measure, change in moved.items():
            floor = _larger(_floor([cards], *_ROWS[measure]), change["noise_floor"])
            found.append({"of": name, "measure": measure, **change, "noise_floor": floor})
    return found


def _larger(*floors: float | None) -> float | None:
    return max((floor for floor in floors if floor is not None), default=None)


def _attacks(group: tuple[str, str, str | None, Cards]) -> list[dict[str, Any]]:
    """What each attack got out of one model, with what it cost; several answers to a prompt count by the worst."""
    name, label, _, cards = group
    found = []
    for score in next(iter(cards.values())).attacks:
        scores = [card.attack(score.attack, score.skill) for card in cards.values()]
        values_SP = [_complied(card, score.skill, score.attack) for card in cards.values()]
        several = len(scores) > 1 and len({len(row) for row in values_SP}) == 1
        success = rate_over_seeds(values_SP) if several else score.success
        found.append(
            {
                "name": name, "label": label, "attack": score.attack, "skill": score.skill,
                "success": {**success.to_dict(), "per_seed": [each.success.value for each in scores]},
                "budget": {**score.budget.to_dict(), "said": str(score.budget)}, "notes": score.notes,
            }
        )  # fmt: skip
    return found


def _complied(card: Scorecard, skill: str, attack: str) -> list[float]:
    labels: dict[str, list[Any]] = {}
    for row in card.rows:
        if (row.suite, row.attack) == (skill, attack):
            labels.setdefault(row.prompt, []).append(row.label)
    return [float(worst(found) == "complied") for found in labels.values()]


def _floor(sides: Sequence[Cards], kind: str, label: str | None) -> float | None:
    """What training again with another data order moves, the larger of both sides; None with one seed."""
    refits = [[_per_prompt(card, kind, label).tolist() for card in cards.values()] for cards in sides]
    floors = [noise_floor(runs).floor for runs in refits if len(runs) > 1]
    return max(floors, default=None)


def _notes(run: RunFolder, drift_traces: list[dict[str, Any]]) -> list[str]:
    aligned = Scorecard.load(run.path / _card(ALIGNED, None)).skills[0].refusal
    notes = [sentence] if (sentence := little_to_hold(aligned, run.recipe.model.source)) is not None else []
    counts = read_json(run.stage("prepare") / "counts.json")
    for file, count in counts.items():
        if count["bad_rows"] or count["truncated"]:
            notes.append(f"{file}: {len(count['bad_rows'])} bad rows skipped, {count['truncated']} rows cut")
    for trace in drift_traces:
        if trace["stopped"]:
            stop = trace["stopped"]
            notes.append(
                f"{trace['arm']}, seed {trace['seed']}: stopped at step {stop['step']} ({stop['reason']}), "
                f"weights of step {stop['restored_step']} put back"
            )
    for repair in run.recipe.restore:
        seeds = repair.seeds if repair.seeds is not None else run.recipe.training.seeds
        for seed in seeds:
            name = repaired_name(repair.arm, repair.method)
            report = read_json(run.stage(f"restore-{name}-{seed}") / "adapter" / "restoration_report.json")
            notes.append(f"{name}, seed {seed}: {report['status']}, {report['reason']}")
    return notes
