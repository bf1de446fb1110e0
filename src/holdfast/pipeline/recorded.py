"""What the stages wrote down, as the report reads it: training, scores, audit, elasticity, costs, provenance.

Knows: the files of finished stages. Does not know: rates and differences (``summary``), pictures.
"""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from holdfast.core.files import read_json
from holdfast.core.statistics import Interval
from holdfast.models.movement import layer_movement
from holdfast.pipeline.folder import MANIFEST, RunFolder
from holdfast.pipeline.stages import adapters_of, stages_of
from holdfast.pipeline.training_folder import LOGS
from holdfast.pipeline.work_before import ADAPTER, PLACES, SCORES, SELECTION, TRAIN

# What of a measurement is drawn; ends of intervals are called as the monitor calls them.
TRACED = (
    *("step", "kl_nats", "kl_nats_low", "kl_nats_high", "refusal", "refusal_low", "refusal_high"),
    *("over_refusal", "task_loss_nats_per_token", "task_loss_low", "task_loss_high"),
    *("forecast_kl_nats", "then"),
)


def traces(run: RunFolder) -> list[dict[str, Any]]:
    """A record a fine-tune: its measurements as columns, its budget, why it stopped, what its rule kept."""
    found = []
    for arm in run.recipe.arms:
        for seed in run.recipe.training.seeds:
            folder = run.stage(f"train-{arm.name}-{seed}")
            values = read_json(folder / "trace.json")
            points = values["trace"]
            found.append(
                {
                    "arm": arm.name,
                    "seed": seed,
                    **{name: [point.get(name) for point in points] for name in TRACED},
                    "loss_step": [loss.get("step") for loss in values.get("losses", [])],
                    "loss": [loss.get("loss") for loss in values.get("losses", [])],
                    "stopped": values["stopped"],
                    "budget": arm.budget.model_dump(mode="json") if arm.budget is not None else None,
                    "defence": arm.defence,
                    "rule": None if arm.rule == "none" else arm.rule,
                    "kept": _kept(run, folder.name) if arm.selects else None,
                }
            )
    return found


def _kept(run: RunFolder, stage: str) -> dict[str, Any]:
    """What a rule did with its candidates: counts by reason, and how often each row was learned from."""
    path = run.stage(stage) / LOGS / "selection.jsonl"
    reasons: Counter[str] = Counter()
    used: Counter[str] = Counter()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in map(json.loads, filter(None, lines)):
        reasons.update(line.get("counts", {}))
        used.update(line.get("kept_ids", ()))
    return {"reasons": dict(reasons.most_common()), "used": dict(used)}


def scores(run: RunFolder) -> dict[str, Any] | None:
    """Gradient norms of the scored rows, what a rule would keep, and the files that hold the rows themselves."""
    from holdfast.gradients import ScoreTable

    folder = run.stage("scores")
    if not (folder / SELECTION).exists():
        return None
    table, selection = ScoreTable.from_parquet(folder / SCORES), read_json(folder / SELECTION)
    chosen = set(selection["indices"])
    kept = [float(table.grad_norm[k]) for k in sorted(chosen)]
    return {
        "grad_norm": table.grad_norm.tolist(),
        "kept": [k in chosen for k in range(len(table))],
        "kept_low": min(kept, default=None),
        "kept_high": max(kept, default=None),
        "rule": selection["rule"],
        "reasons": selection.get("reasons"),
        "loss_nats": table.loss_nats.tolist(),
        "tokens": table.completion_tokens.tolist(),
        "id": list(table.id),
        "row": None if table.row is None else table.row.tolist(),
        "files": {"rows": f"stages/prepare/{TRAIN}", "places": f"stages/prepare/{PLACES}", "key": TRAIN},
    }


def spectrum(run: RunFolder) -> dict[str, Any] | None:
    """Eigenvalues of the skill's Fisher and the edge of noise."""
    if not run.finished("audit"):
        return None
    values = read_json(run.stage("audit") / "audit" / "audit.json")["spectrum"]
    return {
        "eigenvalues": values["eigenvalues"],
        "null_eigenvalues": values.get("null_eigenvalues"),
        "null_edge": values["null_edge"],
        "rank_above_edge": values["above_edge"],
        "prompts": values["n"],
    }


def audit_lines(run: RunFolder) -> list[dict[str, str]] | None:
    """The audit's numbers in words, in reading order; the alignment's stiffness last, beside the drift."""
    if not run.finished("audit"):
        return None
    from holdfast.geometry import Audit, concluded
    from holdfast.geometry.describe import describe

    found = Audit.load(run.stage("audit") / "audit")
    said, _ = concluded(found)
    first = {"name": "conclusion", "value": said.words, "meaning": f"{said.because}; {said.calibrated_on}"}
    lines = [first, *(asdict(line) for line in describe(found))]
    return lines + [{key: line[key] for key in ("name", "value", "meaning")} for line in stiffness_lines(run)]


def elasticity_lines(run: RunFolder) -> list[dict[str, Any]] | None:
    """Both probes, line by line, values with their intervals over documents or prompts."""
    if not run.finished("elasticity"):
        return None
    lines = []
    for name in ("aligned", run.recipe.arms[0].name):
        probe = read_json(run.stage("elasticity") / f"{name}-probe.json")
        for text, interval in probe["bits_per_token"].items():
            told = f"bits a token, {text} text"
            lines.append(_line(name, told, interval, "code length; a rise is forgetting"))
        lines.append(_line(name, "KL(current ‖ parent)", probe["kl_to_base_nats"], "nats a sequence"))
        lines.append(_line(name, "KL(parent ‖ current)", probe["kl_from_base_nats"], "nats a sequence"))
    return lines + stiffness_lines(run)


def stiffness_lines(run: RunFolder) -> list[dict[str, Any]]:
    """The effective stiffness, if the elasticity stage was run; runs of older versions have none."""
    place = run.stage("elasticity") / "stiffness.json"
    return [_stiffness(read_json(place))] if run.finished("elasticity") and place.exists() else []


def _stiffness(found: dict[str, Any]) -> dict[str, Any]:
    meaning = "rise of the refusals' bits for each bit that pre-training text gives up; both signs as measured"
    if not found["above_noise"]:
        meaning += "; below three times the noise floor"
    line = _line(found["after"], "effective stiffness of this fine-tune", found["k_eff"], meaning)
    if found["k_eff"]["method"] == "unbounded":
        line["value"] = "unbounded: pre-training text did not move"
    return line


def _line(of: str, measure: str, interval: dict[str, Any], meaning: str) -> dict[str, Any]:
    said = Interval.from_dict(interval).said()
    return {
        "name": f"{of}: {measure}", "value": said, "meaning": meaning,
        "of": of, "measure": measure, "interval": interval,
    }  # fmt: skip


def layers(run: RunFolder) -> list[dict[str, Any]]:
    """How far every adapter of the run moved each layer: one record an adapter."""
    found = []
    for name, stage in adapters_of(run.recipe):
        if stage is None or not (moved := layer_movement(run.stage(stage) / ADAPTER)):
            continue
        arm, _, seed = name.rpartition("-")
        found.append({"name": arm, "seed": int(seed), "layer": list(moved), "norm": list(moved.values())})
    return found


def costs(run: RunFolder) -> list[dict[str, Any]]:
    """Wall time of each stage, in order."""
    return [
        {"stage": stage.name, "title": stage.title, "seconds": run.seconds(stage.name)}
        for stage in stages_of(run.recipe)
        if run.finished(stage.name)
    ]


def computed(run: RunFolder) -> dict[str, Any]:
    """The manifest, and the commands that make this again."""
    manifest = read_json(run.path / MANIFEST) if (run.path / MANIFEST).exists() else {}
    return {**manifest, "commands": ["holdfast run recipe.yaml --out again", "holdfast report again"]}
