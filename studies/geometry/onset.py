"""The quartic onset: the coefficient c4 against its closed form, and on the organism against drift along the flow.

    python -m studies.geometry onset --out RUNS

Knows: the softmax toy of geometry.md C7; C8's construction (a task gradient made orthogonal to every score of some
one-token completions, gradient flow by RK4) on the matrices of the organism's last layer, in float64. Does not
know: optimisers.

Shapes: V vocabulary, Q prompts, P parameters.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from studies.geometry import summary

from holdfast.core import trees
from holdfast.curvature import hvp, kl_along, onset_coefficients, path_coefficients, path_derivatives
from holdfast.data import Example, encode_rows
from holdfast.gradients import mean_gradient
from holdfast.gradients.functional import math_attention
from holdfast.models import Subject, load
from holdfast.organism import proxy_prompts, shipped, task_rows

H, STEP = 0.7, 1e-3  # of the toy
TOYS = ((0.5, (0.0, 0.0, 0.0)), (0.5, (0.0, 1.0, 0.0)))
TASKS = ("lessons", "digest", "stories")
PROMPTS, ROWS = 2, 16
TIMES = (0.02, 0.04, 0.08)  # times the gradient's norm; earlier, float64 rounds 1 % of the drift away


def toy_errors() -> list[float]:
    """|c4 / closed form - 1| of the toy's two cases whose c4 is not zero: Var_p(h s + kappa r) / 8."""
    base = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    errors = []
    for kappa, r in TOYS:
        bend = torch.tensor(r, dtype=torch.float64)

        def logits_at(t: float, kappa: float = kappa, bend: torch.Tensor = bend) -> torch.Tensor:
            x, y = (math.cosh(H * t) - 1) / H, -math.sinh(H * t) / H
            return base + base * x + 0.5 * kappa * bend * y**2

        p, second = base.softmax(0), H * base + kappa * bend
        exact = float((p * second**2).sum() - (p * second).sum() ** 2) / 8
        errors.append(abs(float(onset_coefficients(*path_derivatives(logits_at, STEP))[2]) / exact - 1))
    return errors


def organism_runs() -> list[dict[str, Any]]:
    """Per task: c4 ahead, KL/t^4 at t → 0 along the flow, and the slopes of log KL."""
    subject = load(str(shipped("aligned")), device="cpu")
    subject = Subject(_in_float64(subject.model), subject.tokenizer, "*.layers.2.*proj*")
    asked = [proxy_prompts("estimate", kind, 1, seed=5)[0] for kind in ("overt", "subtle")][:PROMPTS]
    rows = [{"prompt": text, "completion": "sorry"} for text in asked]
    prompts = [tuple(e.prompt_ids) for e in encode_rows(rows, subject.tokenizer)]
    with math_attention():
        basis_KP = _scores(subject, prompts)
        reference = [Example(prompt, (0,), str(k)) for k, prompt in enumerate(prompts)]
        return [{"task": task} | _onset(subject, reference, basis_KP, task) for task in TASKS]


def _in_float64(model: Any) -> Any:
    """With norms that do not compute in float32, which stock ones do: drift here is 1e-10 nats and less."""
    model = model.double()
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                exact = torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon, dtype=torch.float64)
                exact.weight.data.copy_(norm.weight.data)
                setattr(module, name, exact)
    return model


def _scores(subject: Subject, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """An orthonormal basis of every score: of one prompt they sum to zero under p, so each has V - 1."""
    vocabulary = subject.model.config.vocab_size
    rows = [
        _flat(mean_gradient(subject, [Example(prompt, (label,), "s")], "sum"))
        for prompt in prompts
        for label in range(vocabulary)
    ]
    return torch.linalg.svd(torch.stack(rows), full_matrices=False)[2][: len(prompts) * (vocabulary - 1)]


def _onset(subject: Subject, reference: list[Example], basis_KP: torch.Tensor, task: str) -> dict[str, Any]:
    examples = list(encode_rows(task_rows(task, "train", ROWS, 0), subject.tokenizer))
    gradient = mean_gradient(subject, examples)
    flat_P = _flat(gradient)
    along = _shaped(basis_KP.T @ (basis_KP @ flat_P), gradient)
    start = trees.subtract(gradient, along)
    c4 = float(
        path_coefficients(subject, reference, trees.scale(start, -1.0), hvp(subject, examples, start)).c4_N.mean()
    )
    times = np.array(TIMES) / trees.norm(start)
    kls = np.array([_kl_after(subject, reference, examples, along, float(t)) for t in times])
    ratios = kls / times**4
    measured = float(2 * ratios[0] - ratios[1])  # times double, so this is linear in t at t = 0
    slopes = np.diff(np.log(kls)) / np.diff(np.log(times))
    return {"c4": c4, "measured": measured, "error": abs(measured / c4 - 1), "slopes": slopes.tolist(),
            "removed_share": trees.norm(along) / trees.norm(gradient)}  # fmt: skip


def _kl_after(
    subject: Subject, reference: list[Example], examples: list[Example], along: Any, t_end: float
) -> float:
    """KL after gradient flow on the task without what was removed at the start; the model is put back."""
    start = trees.clone(subject.parameters())

    def velocity(point: Any) -> Any:
        trees.assign(subject.parameters(), point)
        return trees.subtract(along, mean_gradient(subject, examples))

    point, h = start, t_end / 2
    for _ in range(2):
        k1 = velocity(point)
        k2 = velocity(trees.axpy(point, h / 2, k1))
        k3 = velocity(trees.axpy(point, h / 2, k2))
        k4 = velocity(trees.axpy(point, h, k3))
        for weight, k in ((1, k1), (2, k2), (2, k3), (1, k4)):
            point = trees.axpy(point, weight * h / 6, k)
    trees.assign(subject.parameters(), start)
    return float(kl_along(subject, reference, trees.subtract(point, start), [1.0])[0].mean())


def _flat(tree: Any) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tree.values()])


def _shaped(flat_P: torch.Tensor, like: Any) -> Any:
    parts = flat_P.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def claims(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both within one percent."""
    toy, worst = max(toy_errors()), max(row["error"] for row in found)
    slopes = [slope for row in found for slope in row["slopes"]]
    steady, ends = max(abs(slope - 4) for slope in slopes) <= 0.1, (min(slopes), max(slopes))
    texts = (
        "the quartic coefficient is within 1 % of its closed form (softmax toy, geometry.md C7)",
        "under exact orthogonality, drift on the organism's last layer grows as that coefficient says, within 1 %",
        "and its log-log slope stays within 0.1 of 4",
    )
    return [
        summary.claim("onset_c4_relative_error", texts[0], toy, toy <= 0.01, n=len(TOYS)),
        summary.claim("onset_c4_organism_relative_error", texts[1], worst, worst <= 0.01, n=len(found)),
        summary.claim("onset_slope_organism", texts[2], float(np.mean(slopes)), steady, *ends, len(found)),
    ]
