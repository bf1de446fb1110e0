"""Two questions about a damaged adapter that need no repair: what curvature buys, whether the landscape is there.

Knows: the frozen settings of both. Does not know: what the numbers are made into.

*Worth of curvature*: the gain in refusals that the first step promises per root of the task's cost, along the
solution with ten Gauss-Newton products and along the plain gradient (both with the task's own gradient held
still); the cost is measured on rows that no curvature has seen. *Landscape*: losses of the aligned and the damaged
model along the same twenty random directions, on refusals of harmful prompts, on answers to harmless ones, and on
the task (the control).
"""

import time
from pathlib import Path
from typing import Any

from studies.restoration import cell

from holdfast.core import trees
from holdfast.core.files import write_json
from holdfast.curvature import solvers
from holdfast.geometry import preservation, profiles, random_directions
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, adapter_off
from holdfast.restoration.bench import Bench
from holdfast.restoration.curved import Curvature
from holdfast.restoration.influence import PROJECTION, task_form
from holdfast.restoration.objective import Objective
from holdfast.restoration.restore import borrowed

SEED, PRODUCTS, CURVED, UNSEEN = 0, 10, 32, 64
DIRECTIONS, AMPLITUDES, TEXTS = 20, (-0.2, -0.1, 0.1, 0.2), 24


def run(task: str, out: Path) -> dict[str, Any]:
    """Both, for one task; written once it is whole."""
    cpu = time.process_time()
    subject, rows = cell.damaged(task, SEED, cell.SETTING)
    with borrowed(subject.model):
        bench = cell.bench_of(subject, rows, cell.Memo(), SEED, cell.SETTING)
        found = {"task": task, "worth": worth(bench), "landscape": landscape(bench)}
    found["cpu_seconds"] = round(time.process_time() - cpu, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{task}.json", found)
    return found


def worth(bench: Bench) -> dict[str, float]:
    """Gain per root nat of the task, by solver."""
    subject = Subject(bench.subject.model, bench.subject.tokenizer, "adapter")
    material, found = bench.material, {}
    curvature = Curvature(subject, material.task_fit[:CURVED], material.retain_fit[:CURVED])
    unseen = material.task_fit[CURVED:][:UNSEEN]
    gradient, trace = Objective(subject, material, 1.0, 0.0).gradient(), curvature.trace(SEED)
    curvature.protect([mean_gradient(subject, unseen)], PROJECTION * trace)
    for solver in ("ggn-cg", "identity"):
        s = solvers.solve(solver, curvature.problem(gradient, trace / trees.size(gradient), solver), PRODUCTS).x
        found[solver] = trees.dot(gradient, s) * (2 / task_form(subject, unseen, s)) ** 0.5
    return found


def landscape(bench: Bench) -> dict[str, Any]:
    """Correlations of the two models' losses along the same directions, by kind of text."""
    subject, material = bench.subject, bench.material
    matrices = {name: p for name, p in subject.model.named_parameters() if "base_layer.weight" in name}
    directions, found = random_directions(matrices, DIRECTIONS, SEED), {}
    texts = {"refusals": material.refusals_fit, "harmless": material.retain_fit, "task": material.task_fit}
    for name, examples in texts.items():
        damaged = profiles(subject, examples[:TEXTS], matrices, directions, AMPLITUDES)
        with adapter_off(subject.model):
            aligned = profiles(subject, examples[:TEXTS], matrices, directions, AMPLITUDES)
        found[name] = preservation(aligned, damaged, SEED).to_dict()
    return found
