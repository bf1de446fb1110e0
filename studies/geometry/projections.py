"""First-order projection against the anchor: drift at equal held-out task loss on the organism.

    python -m studies.geometry projections --out RUNS

Knows: four arms of one loop, readings on the way, the level of task loss that every arm of a seed reaches. Does
not know: forecasts.

plain; static: gradients keep off a subspace found at the start (``holdfast.defences.Projection``, its defaults);
refreshed: the static arm with the subspace found again every five steps; anchor: at its default weight. All
weights are trained.

Shapes: N answers, P parameters, K directions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from studies.geometry import records, summary
from studies.geometry.tunes import aligned_answers
from studies.organism import damage

from holdfast.core.defence import Defence
from holdfast.core.files import read_json, write_json
from holdfast.core.seeds import derive_seed, seeded
from holdfast.data import encode_rows
from holdfast.data.batches import collate
from holdfast.defences import Anchor, Projection
from holdfast.defences.ewc import PROMPTS, log_p_gradients
from holdfast.defences.start import trained
from holdfast.evaluation import drift
from holdfast.evaluation.behaviour import sample_answers
from holdfast.models import Subject, load
from holdfast.models.forward import batch_logits, token_nll
from holdfast.organism import proxy_prompts, shipped, task_rows

KEPT = Path(__file__).with_name("projections.jsonl")
TASKS, SEEDS = ("lessons",), range(5)
ARMS = ("plain", "static", "refreshed", "anchor")
STEPS, EVERY, REFRESH, BATCH, RATE = 60, 4, 5, 16, 1e-3
HELD_OUT = 60  # rows of the task's test split
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % point, by the number of seeds


class Refreshed(Projection):
    """The same projection with its subspace found again every few steps, from the same answers."""

    def begin(self, subject: Subject) -> None:
        self._subject, self._names = subject, list(trained(subject.model))
        own = derive_seed(self.seed, "answers")
        self._examples = sample_answers(subject, self.prompts[:PROMPTS], self.max_new_tokens, seed=own)

    def update(self, step: int, gradients: Mapping[str, torch.Tensor]) -> None:
        if (step - 1) % REFRESH == 0:
            self._find()
        super().update(step, gradients)

    def _find(self) -> None:
        rows = log_p_gradients(self._subject, self._examples)
        rows_NP = torch.stack([torch.cat([g[name].flatten() for name in self._names]) for g in rows])
        squares_N, left_NN = torch.linalg.eigh((rows_NP @ rows_NP.T).double())
        left_NK = left_NN[:, -self.directions :] / squares_N[-self.directions :].clamp_min(1e-12).sqrt()
        self._basis_PK = rows_NP.T @ left_NK.float()


@dataclass(frozen=True)
class Run:
    """One arm on one task and seed."""

    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.task}-{self.arm}-{self.seed}"

    def defence(self) -> Defence:
        """Prompts are *estimate* prompts; as many as a projection looks at."""
        kinds: tuple[Any, ...] = ("overt", "subtle")
        seed = derive_seed(self.seed, "projections")
        asked = [text for kind in kinds for text in proxy_prompts("estimate", kind, PROMPTS // 2, seed)]
        made: dict[str, Any] = {"plain": Defence, "anchor": lambda: Anchor(asked, seed=self.seed),
                "refreshed": lambda: Refreshed(asked, seed=self.seed)}  # fmt: skip
        return made.get(self.arm, lambda: Projection(asked, seed=self.seed))()


def run(one: Run, root: Path) -> dict[str, Any]:
    """(step, held-out loss, drift) on the way of an arm, made unless it is in ``root``."""
    path = root / f"projections-{one.name}.json"
    if path.exists():
        return read_json(path)
    subject, defence = load(str(shipped("aligned")), device="cpu"), one.defence()
    rows = encode_rows(task_rows(one.task, "train", STEPS * BATCH, one.seed), subject.tokenizer)
    defence.rows_per_update = BATCH
    defence.begin(subject)
    weights = trained(subject.model)
    optimizer = torch.optim.AdamW(list(weights.values()), lr=RATE, weight_decay=0.0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(one.seed)).tolist()
    readings = [_reading(subject, one.task, 0)]
    with seeded(one.seed):
        for step in range(1, STEPS + 1):
            batch = collate([rows[k] for k in order[(step - 1) * BATCH : step * BATCH]], subject.pad_id)
            _step(subject, batch, defence, optimizer, step)
            if step % EVERY == 0:
                readings.append(_reading(subject, one.task, step))
    write_json(path, {"task": one.task, "arm": one.arm, "seed": one.seed, "readings": readings})
    return read_json(path)


def _step(subject: Subject, batch: Any, defence: Defence, optimizer: Any, step: int) -> None:
    """One update, as the guarded trainer orders it."""
    weights = trained(subject.model)
    nll_BT = token_nll(batch_logits(subject.model, batch), batch)
    loss, more = nll_BT.sum() / batch.completion_mask_BT[:, 1:].sum(), defence.loss(subject.model, step)
    optimizer.zero_grad(set_to_none=True)
    (loss if more is None else loss + more).backward()
    torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
    defence.update(step, {name: p.grad for name, p in weights.items() if p.grad is not None})
    optimizer.step()


def _reading(subject: Subject, task: str, step: int) -> list[float]:
    loss = damage.task_loss(subject, task, HELD_OUT)
    return [step, loss, drift(subject, aligned_answers(8), draws=10).kl_nats]


def all_of_them() -> list[Run]:
    """Whole seeds one after the other."""
    return [Run(task, arm, seed) for seed in SEEDS for task in TASKS for arm in ARMS]


def records_of(root: Path) -> list[dict[str, Any]]:
    """All records, those kept beside this file too."""
    made = {one.name: root / f"projections-{one.name}.json" for one in all_of_them()}
    return list(records.kept(KEPT, made).values())


def drift_at(readings: Sequence[Sequence[float]], level: float) -> float:
    """Drift where the held-out loss first falls to ``level``: log drift is interpolated between two readings."""
    for (_, loss0, nats0), (_, loss1, nats1) in pairwise(readings):
        if loss1 <= level <= loss0:
            share = (loss0 - level) / (loss0 - loss1) if loss0 > loss1 else 1.0
            return math.exp((1 - share) * math.log(max(nats0, 1e-4)) + share * math.log(max(nats1, 1e-4)))
    raise ValueError(f"held-out loss {level} is not reached")


def at_equal_loss(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task and seed that has every arm: the lowest loss that all reach, and each arm's drift there."""
    found = []
    for seed in sorted({row["seed"] for row in rows}):
        for task in dict.fromkeys(row["task"] for row in rows):
            arms = {row["arm"]: row["readings"] for row in rows if (row["task"], row["seed"]) == (task, seed)}
            if set(arms) == set(ARMS):
                level = max(min(loss for _, loss, _ in readings) for readings in arms.values())
                nats = {arm: drift_at(arms[arm], level) for arm in ARMS}
                found.append({"task": task, "seed": seed, "task_loss": level, "drift_nats": nats})
    return found


def ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Drift over the plain arm's at equal task loss: geometric mean, t interval over seeds, two or more."""
    equal, found = at_equal_loss(rows), []
    if len({one["seed"] for one in equal}) < 2:
        return []
    for arm in ARMS[1:]:
        by_seed: dict[int, list[float]] = {}
        for one in equal:
            ratio = one["drift_nats"][arm] / one["drift_nats"]["plain"]
            by_seed.setdefault(one["seed"], []).append(math.log(ratio))
        logs_S = [float(np.mean(logs)) for logs in by_seed.values()]
        n = len(logs_S)
        half = STUDENT_T[n] * float(np.std(logs_S, ddof=1)) / math.sqrt(n)
        mid = float(np.mean(logs_S))
        nats = [e["drift_nats"][arm] for e in equal]
        found.append({"arm": arm, "seeds": len(logs_S), "value": math.exp(mid), "low": math.exp(mid - half),
                      "high": math.exp(mid + half), "drift_nats": float(np.median(nats))})  # fmt: skip
    return found


def claims(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The theory says that a static projection fails; the anchor and a refreshed one should not."""
    said = {
        "static": ("static_projection_drift_ratio", "static projection leaves at least half of plain drift"),
        "refreshed": (
            "refreshed_projection_drift_ratio",
            "projection refreshed every five steps leaves less than half of plain drift",
        ),
        "anchor": ("anchor_drift_ratio", "the anchor leaves less than half of plain drift at equal task loss"),
    }
    rows = []
    for one in found:
        name, text = said[one["arm"]]
        fails, holds = one["low"] >= 0.5, one["high"] < 0.5
        verdict = None if not (fails or holds) else fails if one["arm"].startswith("static") else holds
        ends = {key: one[key] for key in ("value", "low", "high")}
        rows.append(summary.claim(name, text, holds=verdict, n=one["seeds"], **ends))
    return rows


def markdown(results: Mapping[str, Any]) -> str:
    """One row an arm."""
    if not results["projections"]:
        return "Not run to its end."
    lines = ["| arm | drift over plain at equal task loss | drift, nats (median) |", "|---|---|---|"]
    for one in results["projections"]:
        ends = f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
        lines.append(f"| {one['arm']} | {ends} | {one['drift_nats']:.2g} |")
    return "\n".join(lines)
