"""DriftMonitor: measures drift and refusals while a model trains, and stops the run inside its budget.

Knows: when to measure, the budget, how to go back to the last state inside it.
Does not know: how drift or a refusal is measured (evaluation/ does), the loop around it.

Measuring leaves training alone: modes and random state are restored, so a monitored run has the weights of an
unmonitored one, bit for bit.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import Interval, wilson
from holdfast.core.trees import assign, clone
from holdfast.data import Example
from holdfast.evaluation import Judge, Reference, RefusalJudge, Skill, drift, judge_all
from holdfast.models import Subject, generate_text, mean_loss
from holdfast.training.trace import JsonLines

logger = logging.getLogger(__name__)

TRACE_FILE = "drift.jsonl"


@dataclass(frozen=True)
class DriftBudget(Result):
    """Limits of a run; None is no limit. Point estimates are compared, not intervals.

    Attributes:
        max_kl_nats: highest drift, nats a sequence.
        min_refusal: lowest refusal rate of the probe.
        max_task_loss: highest loss on the monitor's held-out task examples, nats a token.
    """

    max_kl_nats: float | None = None
    min_refusal: float | None = None
    max_task_loss: float | None = None

    def exceeded(self, row: dict[str, Any]) -> str | None:
        """Which limit a measurement breaks, in words; None if it is inside.

        A NaN is outside every limit.
        """
        checks = (
            ("drift", row.get("kl_nats"), self.max_kl_nats, 1, "nats a sequence"),
            ("refusal rate", row.get("refusal"), self.min_refusal, -1, ""),
            ("task loss", row.get("task_loss_nats_per_token"), self.max_task_loss, 1, "nats a token"),
        )
        for what, value, limit, sign, unit in checks:
            if limit is None:
                continue
            if value is None or not sign * value <= sign * limit:
                side = "above" if sign > 0 else "below"
                return f"{what} {value if value is None else format(value, '.4g')} {side} {limit} {unit}".strip()
        return None


@dataclass(frozen=True)
class RefusalProbe:
    """Prompts whose refusal rate is watched, greedily decoded.

    Use prompts of a skill's *estimate* half (:meth:`of`): a budget decides with them, so they are spent.
    """

    prompts: Sequence[str]
    judge: Judge = field(default_factory=RefusalJudge)
    max_new_tokens: int = 24
    batch_size: int = 64

    @classmethod
    def of(cls, skill: Skill, limit: int | None = None, **options: Any) -> "RefusalProbe":
        """The first ``limit`` harmful prompts of the skill's *estimate* half."""
        return cls(skill.estimate.harmful[:limit], **options)

    def rate(self, subject: Subject) -> tuple[Interval, dict[str, int]]:
        """Refused over all prompts (unclear and error count as not refused), and responses by label."""
        answers = generate_text(subject, self.prompts, self.max_new_tokens, batch_size=self.batch_size)
        verdicts = judge_all(self.judge, self.prompts, answers, progress=False)
        labels = [verdict.label for verdict in verdicts]
        counts = {label: labels.count(label) for label in ("refused", "complied", "unclear", "error")}
        return wilson(counts["refused"], len(labels)), counts


@dataclass(frozen=True)
class BudgetStop(Result):
    """Why and where a run was stopped, and the step whose weights it was given back."""

    step: int
    reason: str
    restored_step: int


class DriftMonitor(TrainerCallback):
    """Measure before the first step, every ``every`` steps, and at the end; stop when the budget is exceeded.

    On a stop the trainable parameters go back to the last measurement inside the budget (a copy of them is kept
    in memory: as many bytes as the trainable parameters), so the model that comes out is inside it. Optimiser and
    scheduler are left where they were: the run is over.

    Args:
        reference: of the aligned model (or an object with a ``reference``, such as an audit); None measures no
            drift.
        every: steps between measurements.
        budget: None records only.
        probe: prompts for the refusal rate; None measures none.
        task: held-out examples for the task loss; None measures none.
        batch_size: of the measurements.
        path: trace file; default ``drift.jsonl`` in the trainer's output folder.

    Attributes:
        trace: one row a measurement: step, kl_nats with kl_nats_low and kl_nats_high, kl_nats_per_token, refusal
            with its interval, refusal_counts, task_loss_nats_per_token, exceeded.
        stopped: a :class:`BudgetStop`, or None.

    Raises:
        UserError: a limit on something that is not measured; a model outside the budget before the first step.
    """

    def __init__(
        self,
        reference: Any = None,
        every: int = 10,
        budget: DriftBudget | None = None,
        probe: RefusalProbe | None = None,
        task: Sequence[Example] | None = None,
        batch_size: int = 32,
        path: str | Path | None = None,
    ) -> None:
        if reference is not None and not isinstance(reference, Reference):
            reference = getattr(reference, "reference", None)
            if not isinstance(reference, Reference):
                raise UserError(
                    "DriftMonitor needs a Reference of the aligned model; make one with Reference.of(...)"
                )
        if every < 1:
            raise UserError(f"every={every}: measure every 1 step or more")
        if reference is None and probe is None and task is None:
            raise UserError("DriftMonitor has nothing to measure; give a reference, a probe or task examples")
        self.reference, self.every, self.budget, self.probe = reference, every, budget, probe
        self.task, self.batch_size = task, batch_size
        self.stopped: BudgetStop | None = None
        self._lines = JsonLines(path)
        self._trainer: Any = None
        self._inside: dict[str, torch.Tensor] | None = None
        self._inside_step = 0
        self._check_budget()

    @property
    def trace(self) -> list[dict[str, Any]]:
        """Measurements so far."""
        return self._lines.rows

    def bind(self, trainer: Any) -> None:
        """Called by the trainer it was given to."""
        self._trainer = trainer
        if self._lines.path is None:
            self._lines.path = Path(trainer.args.output_dir) / TRACE_FILE

    def measure(self, subject: Subject) -> dict[str, Any]:
        """One row of the trace, without step. Leaves modes and random state alone."""
        row: dict[str, Any] = {}
        with undisturbed(subject.model):
            if self.reference is not None:
                reading = drift(subject, self.reference, self.batch_size)
                row |= {
                    "kl_nats": reading.kl_nats,
                    "kl_nats_low": reading.interval.low,
                    "kl_nats_high": reading.interval.high,
                    "kl_nats_per_token": reading.kl_nats_per_token,
                }
            if self.probe is not None:
                rate, counts = self.probe.rate(subject)
                row |= {"refusal": rate.value, "refusal_low": rate.low, "refusal_high": rate.high}
                row["refusal_counts"] = counts
            if self.task is not None:
                row["task_loss_nats_per_token"] = mean_loss(subject, self.task, self.batch_size).nats_per_token
        return row

    # --- the trainer's events --------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):
        if self._trainer is None:
            raise UserError("DriftMonitor is not bound to a trainer; pass it to GuardedTrainer(callbacks=[...])")
        if state.global_step == 0:
            self._lines.start()
            self.stopped = None
        row = self._record(state)
        if row["exceeded"]:
            raise UserError(
                f"outside the budget before step {state.global_step + 1}: {row['exceeded']}; "
                "restore the model first, or widen the budget"
            )

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self._measure_and_decide(state, control)

    def on_train_end(self, args, state, control, **kwargs):
        # The last steps of a run are rarely a multiple of `every`; what comes out must be inside the budget too.
        if self.stopped is None and self.trace[-1]["step"] != state.global_step:
            self._measure_and_decide(state, control)

    def _measure_and_decide(self, state: Any, control: Any) -> None:
        row = self._record(state)
        self._trainer.pending_logs |= {
            f"drift/{name}": row[name]
            for name in ("kl_nats", "refusal", "task_loss_nats_per_token")
            if row.get(name) is not None
        }
        if row["exceeded"]:
            self._go_back(state, row["exceeded"])
            control.should_log = control.should_training_stop = True

    def _record(self, state: Any) -> dict[str, Any]:
        row = {"step": int(state.global_step), **self.measure(self._subject())}
        row["exceeded"] = self.budget.exceeded(row) if self.budget is not None else None
        if self.budget is not None and not row["exceeded"]:
            self._inside, self._inside_step = clone(self._trained()), int(state.global_step)
        if state.is_world_process_zero:
            self._lines.append(row)
        else:
            self._lines.rows.append(row)
        return row

    def _go_back(self, state: Any, reason: str) -> None:
        assert self._inside is not None
        assign(self._trained(), self._inside)
        self.stopped = BudgetStop(int(state.global_step), reason, self._inside_step)
        logger.warning(
            "step %d: %s; stopped, weights of step %d put back", state.global_step, reason, self._inside_step
        )

    def _model(self) -> Any:
        return self._trainer.accelerator.unwrap_model(self._trainer.model, keep_fp32_wrapper=True)

    def _subject(self) -> Subject:
        return Subject(self._model(), self._trainer.processing_class)

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self._model().named_parameters() if p.requires_grad}

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        missing = [
            (limit, source)
            for limit, source, given in (
                ("max_kl_nats", "a reference", self.reference),
                ("min_refusal", "a probe", self.probe),
                ("max_task_loss", "task examples", self.task),
            )
            if getattr(self.budget, limit) is not None and given is None
        ]
        if missing:
            limit, source = missing[0]
            raise UserError(f"the budget limits {limit} but nothing measures it; give DriftMonitor {source}")
