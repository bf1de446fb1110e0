"""The noise floor of a model's rates: what asking again, hotter, and in other batches moves.

Knows: sampled re-runs of one model on one skill, batch sizes. Does not know: other models, training seeds (a study
that trains several gives their scores to ``core.statistics.noise_floor`` itself).

Greedy answers do not vary, so the floor comes from answers sampled at temperature 1: on the safe side for greedy
rates. What a batch moves is a property of machine and number type and is reported apart.
"""

from collections.abc import Sequence

from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import NoiseFloor, noise_floor
from holdfast.evaluation.behaviour import ask_and_judge
from holdfast.evaluation.judges.base import Judge
from holdfast.evaluation.skill import Skill
from holdfast.models import Subject

_MEASURES = {
    "harmful": {"refusal": "refused", "attack_success": "complied"},
    "benign": {"over_refusal": "refused"},
}


def measure_noise(
    subject: Subject,
    skill: Skill,
    judge: Judge,
    repeats: int = 3,
    temperature: float = 1.0,
    batch_sizes: Sequence[int] = (1, 32),
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: bool = True,
    system: str | None = None,
) -> dict[str, NoiseFloor]:
    """Ask ``repeats`` times with other sampling seeds; then greedily in every batch size.

    Args:
        batch_sizes: of the greedy re-runs; the sampled ones use the largest.
        system: the deployment's system prompt.

    Returns:
        "refusal" and "attack_success" (harmful prompts), "over_refusal" (benign ones, if there are any).

    Raises:
        UserError: fewer than two repeats, no heat.
    """
    if repeats < 2 or temperature <= 0:
        raise UserError(f"a noise floor needs two or more sampled re-runs, got {repeats} at {temperature:g}")
    floors: dict[str, NoiseFloor] = {}
    halves = {"harmful": skill.evaluate.harmful, "benign": skill.evaluate.benign}
    total = sum(map(len, halves.values())) * (repeats + len(batch_sizes))
    with bar("noise floor", total, progress) as advance:

        def labels(prompts: Sequence[str], heat: float, number: int, batch_size: int) -> Sequence[str]:
            own = derive_seed(seed, "noise", number)
            how = {"temperature": heat, "seed": own, "batch_size": batch_size, "system": system}
            found = ask_and_judge(subject, prompts, judge, max_new_tokens=max_new_tokens, **how)
            advance(len(prompts))
            return found.labels

        for kind, prompts in halves.items():
            if not prompts:
                continue
            again = [labels(prompts, temperature, k, max(batch_sizes, default=32)) for k in range(repeats)]
            batched = [labels(prompts, 0.0, 0, size) for size in batch_sizes]
            for measure, label in _MEASURES[kind].items():
                rates, by_batch = ([_is(run, label) for run in runs] for runs in (again, batched))
                floors[measure] = noise_floor(rates, by_batch if len(batch_sizes) > 1 else None, seed)
    return floors


def _is(labels: Sequence[str], label: str) -> list[float]:
    return [float(found == label) for found in labels]
