"""The first few per cent of a real fine-tune, made to see where it goes; kept, they are the run's own first steps.

Knows: where to stop, what a checkpoint leaves to go on from. Does not know: what is forecast from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback

from holdfast.core import trees
from holdfast.core.trees import Tree
from holdfast.data import Example
from holdfast.evaluation import Reference, Skill
from holdfast.models import Subject
from holdfast.pipeline.training_run import RunSpec, build_run

SHARE, FEWEST = 0.05, 2


@dataclass(frozen=True, eq=False)
class Probe:
    """What a short run left behind.

    Attributes:
        after: the trained parameters then, a tree over the scope. steps: made. losses: of each, nats a token.
    """

    after: Tree
    steps: int
    losses: tuple[float, ...]


class _StopAt(TrainerCallback):
    """Ends a run after a step, with a checkpoint from which it goes on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


def probe_steps(steps: int) -> int:
    """5 % of the run, at least two steps (one Adam step is all size and no direction), at most the run."""
    return min(steps, max(FEWEST, math.ceil(SHARE * steps)))


def run_probe(
    spec: RunSpec,
    subject: Subject,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    reference: Reference,
    skill: Skill,
    folder: Path,
) -> Probe:
    """Train :func:`probe_steps` steps of the run and put the parameters back.

    The schedule is the whole run's. ``folder`` then holds a checkpoint that ``holdfast train`` goes on from.
    Arguments as :func:`holdfast.pipeline.training_run.build_run` takes them.
    """
    assert spec.training.steps is not None
    steps = probe_steps(spec.training.steps)
    trainer, _ = build_run(spec, subject, examples, held_out, reference, skill, folder)
    trainer.add_callback(_StopAt(steps))
    scope = subject.parameters()
    start = trees.clone(scope)
    trainer.train()
    subject.model.eval()
    after = trees.clone(subject.parameters())
    trees.assign(subject.parameters(), start)
    for parameter in scope.values():
        parameter.grad = None
    losses = tuple(float(record["loss"]) for record in trainer.state.log_history if "loss" in record)
    return Probe(after, int(trainer.state.global_step), losses)
