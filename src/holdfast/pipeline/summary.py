"""From the stages' files to ``summary.json``: everything the report draws, and nothing else.

Knows: rows, paired differences, what may be averaged over what. Does not know: models, pictures.

Several seeds of one arm are averaged prompt by prompt; intervals are over prompts, with the number of prompts
as their n, and the seeds are listed beside them. Three seeds carry no interval of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from holdfast.core.files import read_json
from holdfast.core.statistics import Interval, bootstrap_mean, noise_floor, paired_bootstrap, wilson
from holdfast.core.version import VERSION
from holdfast.evaluation import Scorecard
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.stages import repaired_name

Cards = dict[int | None, Scorecard]


def summarise(run: RunFolder) -> dict[str, Any]:
    """The summary of a finished run."""
    recipe = run.recipe
    groups = _groups(run)
    return {
        "title": f"holdfast run: {recipe.name}",
        "holdfast": VERSION,
        "rows": [_row(run, *group) for group in groups],
        "differences": _differences(run, {name: cards for name, _, _, cards in groups}),
        "notes": _notes(run),
        "drift_traces": _traces(run),
        "spectrum": _spectrum(run),
        "scores": _scores(run),
        "audit": _audit_lines(run),
        "elasticity": _elasticity_lines(run),
        "setting": recipe.to_dict(),
    }


def _groups(run: RunFolder) -> list[tuple[str, str, str | None, Cards]]:
    """Name, label, what it was repaired from, and the cards by seed."""

    def cards(name: str, seeds: Sequence[int]) -> Cards:
        return {seed: Scorecard.load(run.stage(f"evaluate-{name}-{seed}") / "card") for seed in seeds}

    recipe = run.recipe
    aligned: Cards = {None: Scorecard.load(run.stage("evaluate-aligned") / "card")}
    groups: list[tuple[str, str, str | None, Cards]] = [("aligned", "aligned", None, aligned)]
    for arm in recipe.arms:
        groups.append((arm.name, arm.name, None, cards(arm.name, recipe.training.seeds)))
    for repair in recipe.restore:
        name = repaired_name(repair.arm, repair.method)
        seeds = repair.seeds if repair.seeds is not None else recipe.training.seeds
        some = "" if len(seeds) == len(recipe.training.seeds) else f" (seed {', '.join(map(str, seeds))} only)"
        groups.append((name, f"{repair.arm}, then {repair.method}{some}", repair.arm, cards(name, seeds)))
    return groups


def _row(run: RunFolder, name: str, label: str, repaired_from: str | None, cards: Cards) -> dict[str, Any]:
    found = list(cards.values())
    return {
        "name": name,
        "label": label,
        "repaired_from": repaired_from,
        "seeds": [seed for seed in cards if seed is not None],
        "refusal": _rate(found, "harmful", "refused"),
        "over_refusal": _rate(found, "benign", "refused"),
        "unclear": _rate(found, "harmful", "unclear"),
        "task_score": _mean(found, lambda card: card.task("task").score.value, _task_interval(found)),
        "task_loss_nats": _mean(found, lambda card: card.task("task").loss_nats_per_token),
        "drift_kl_nats": _mean(found, lambda card: card.drift.kl_nats if card.drift else float("nan")),
        "seconds": {"value": _seconds(run, name, cards)},
    }


def _per_prompt(card: Scorecard, kind: str, label: str | None) -> np.ndarray:
    rows = [row for row in card.rows if row.kind == kind and not row.attack]
    return np.array([row.score if label is None else float(row.label == label) for row in rows])


def _seed_mean(cards: Sequence[Scorecard], kind: str, label: str | None) -> np.ndarray:
    """Per prompt, the mean over seeds."""
    return np.mean([_per_prompt(card, kind, label) for card in cards], axis=0)


def _rate(cards: Sequence[Scorecard], kind: str, label: str) -> dict[str, Any] | None:
    per_prompt = _seed_mean(cards, kind, label)
    if per_prompt.size == 0:
        return None
    interval = wilson(float(per_prompt.sum()), per_prompt.size)
    return _entry(interval, [float(_per_prompt(card, kind, label).mean()) for card in cards])


def _task_interval(cards: Sequence[Scorecard]) -> Interval | None:
    per_prompt = _seed_mean(cards, "task", None)
    if per_prompt.size == 0:
        return None
    if set(np.unique(np.concatenate([_per_prompt(card, "task", None) for card in cards]))) <= {0.0, 1.0}:
        return wilson(float(per_prompt.sum()), per_prompt.size)
    return bootstrap_mean(per_prompt.tolist())


def _mean(
    cards: Sequence[Scorecard], read: Callable[[Scorecard], float], interval: Interval | None = None
) -> dict[str, Any]:
    values = [read(card) for card in cards]
    if interval is not None:
        return _entry(interval, values)
    return {"value": float(np.mean(values)), "per_seed": values}


def _entry(interval: Interval, per_seed: list[float]) -> dict[str, Any]:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "method": interval.method,
        "per_seed": per_seed,
    }


def _seconds(run: RunFolder, name: str, cards: Cards) -> float:
    """Mean time of the stage that made it (the aligned model was made elsewhere: its evaluation)."""
    kinds = [run.seconds(stage) for seed in cards for stage in _made_by(run, name, seed)]
    return float(np.mean(kinds)) if kinds else float("nan")


def _made_by(run: RunFolder, name: str, seed: int | None) -> list[str]:
    return [stage for stage in (f"train-{name}-{seed}", f"restore-{name}-{seed}") if run.finished(stage)]


def _differences(run: RunFolder, groups: dict[str, Cards]) -> list[dict[str, Any]]:
    """Paired over prompts: every later arm against every earlier one, and each repair against what it repaired."""
    arms = [arm.name for arm in run.recipe.arms]
    pairs = [(later, earlier) for k, later in enumerate(arms) for earlier in arms[:k]]
    for repair in run.recipe.restore:
        pairs.append((repaired_name(repair.arm, repair.method), repair.arm))
    differences = []
    for first, second in pairs:
        seeds = [seed for seed in groups[first] if seed in groups[second]]
        for measure, kind, label in (("refusals", "harmful", "refused"), ("task score", "task", None)):
            a = _seed_mean([groups[first][seed] for seed in seeds], kind, label)
            b = _seed_mean([groups[second][seed] for seed in seeds], kind, label)
            if a.size == 0:
                continue
            interval = paired_bootstrap(a.tolist(), b.tolist(), seed=run.recipe.seed)
            differences.append(
                {
                    "name": f"{measure}, {first} minus {second}",
                    "measure": measure,
                    "first": first,
                    "second": second,
                    **interval.to_dict(),
                    "excludes_zero": interval.excludes(0.0),
                    "noise_floor": _floor([groups[first], groups[second]], kind, label),
                }
            )
    return differences


def _floor(sides: Sequence[Cards], kind: str, label: str | None) -> float | None:
    """What training again with another data order moves, the larger of both sides; None with one seed."""
    refits = [[_per_prompt(card, kind, label).tolist() for card in cards.values()] for cards in sides]
    floors = [noise_floor(runs).floor for runs in refits if len(runs) > 1]
    return max(floors, default=None)


def _notes(run: RunFolder) -> list[str]:
    notes = []
    counts = read_json(run.stage("prepare") / "counts.json")
    for file, count in counts.items():
        if count["bad_rows"] or count["truncated"]:
            notes.append(f"{file}: {len(count['bad_rows'])} bad rows skipped, {count['truncated']} rows cut")
    for trace in _traces(run):
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


def _traces(run: RunFolder) -> list[dict[str, Any]]:
    traces = []
    for arm in run.recipe.arms:
        for seed in run.recipe.training.seeds:
            values = read_json(run.stage(f"train-{arm.name}-{seed}") / "trace.json")
            points = values["trace"]
            traces.append(
                {
                    "arm": arm.name,
                    "seed": seed,
                    "step": [point["step"] for point in points],
                    "kl_nats": [point["kl_nats"] for point in points],
                    "refusal": [point.get("refusal") for point in points],
                    "stopped": values["stopped"],
                }
            )
    return traces


def _scores(run: RunFolder) -> dict[str, Any] | None:
    from holdfast.gradients import ScoreTable

    folder = run.stage("scores")
    if not (folder / "selection.json").exists():
        return None
    table, selection = ScoreTable.from_parquet(folder / "scores.parquet"), read_json(folder / "selection.json")
    chosen = set(selection["indices"])
    kept = [float(table.grad_norm[k]) for k in sorted(chosen)]
    return {
        "grad_norm": table.grad_norm.tolist(),
        "kept": [k in chosen for k in range(len(table))],
        "kept_low": min(kept, default=None),
        "kept_high": max(kept, default=None),
        "rule": selection["rule"],
    }


def _spectrum(run: RunFolder) -> dict[str, Any] | None:
    if not run.finished("audit"):
        return None
    values = read_json(run.stage("audit") / "audit" / "audit.json")["spectrum"]
    return {
        "eigenvalues": values["eigenvalues"],
        "null_edge": values["null_edge"],
        "rank_above_edge": values["above_edge"],
    }


def _audit_lines(run: RunFolder) -> list[dict[str, str]] | None:
    if not run.finished("audit"):
        return None
    from holdfast.geometry.audit import Audit
    from holdfast.geometry.describe import describe

    return [asdict(line) for line in describe(Audit.load(run.stage("audit") / "audit"))]


def _elasticity_lines(run: RunFolder) -> list[dict[str, str]] | None:
    """Both probes, line by line, values with their intervals over documents or prompts."""
    if not run.finished("elasticity"):
        return None
    lines = []
    for name in ("aligned", run.recipe.arms[0].name):
        probe = read_json(run.stage("elasticity") / f"{name}-probe.json")
        for text, interval in probe["bits_per_token"].items():
            lines.append(
                _line(f"{name}: bits a token, {text} text", interval, "code length; a rise is forgetting")
            )
        lines.append(_line(f"{name}: KL(current ‖ parent)", probe["kl_to_base_nats"], "nats a sequence"))
        lines.append(_line(f"{name}: KL(parent ‖ current)", probe["kl_from_base_nats"], "nats a sequence"))
    return lines


def _line(name: str, interval: dict[str, Any], meaning: str) -> dict[str, str]:
    value = f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
    return {"name": name, "value": value, "meaning": meaning}
