"""DriftMonitor: measures drift and refusals while a model trains, says where they lead, and keeps to a budget.

Knows: when to measure, the budget, how to go back to the last state inside it, what else may change weights.
Does not know: how drift or a refusal is measured (evaluation/) or goes on (outlook), which trainer it is in.

Measuring leaves training alone: modes and random state are restored, so a monitored run has the weights of an
unmonitored one, bit for bit.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import bootstrap_ratio
from holdfast.core.trees import assign, clone
from holdfast.data import Example
from holdfast.evaluation import Reference, drift
from holdfast.evaluation.beforehand import warn_if_little
from holdfast.evaluation.judges.base import label_rate
from holdfast.models import Subject, mean_loss
from holdfast.training.budget import BudgetStop, DriftBudget
from holdfast.training.outlook import FORECAST, Pace, look_ahead, rate_factor
from holdfast.training.place import Fingerprint, LogAhead, fingerprint, take_place
from holdfast.training.probe import RefusalProbe
from holdfast.training.trace import JsonLines

logger = logging.getLogger(__name__)

TRACE_FILE = "drift.jsonl"
LOGGED = (
    *("kl_nats", "refusal", "over_refusal", "task_loss_nats_per_token"),
    *("nats_left", "refusal_points_left", "budget_used", *FORECAST, "breaks_at_step", "rate_factor"),
)
LEAST_RATE, SLOWED_BY = 1 / 16, 0.5


class DriftMonitor(TrainerCallback):
    """Measure before the first step, every ``every`` steps, and what comes out; look ahead; keep to the budget.

    Works in any trainer of transformers or TRL, for adapters and for whole models::

        reference = Reference.of(subject, prompts)  # of the aligned model, before training
        trainer = SFTTrainer(model, ..., callbacks=[DriftMonitor(reference, every=20, budget=DriftBudget(2.0))])

    With a budget: on a stop the trainable parameters go back to the last measurement inside it (a copy of them is
    kept in memory: as many bytes as the trainable parameters); every checkpoint is measured before it is written,
    so none lies outside; and whatever changes weights after the last measurement (the best checkpoint loaded at
    the end, averaging, a callback's last act) is measured again when training ends, and taken back if it is
    outside. Optimiser and scheduler are left where they were, also where the run goes on: :class:`DriftBudget`
    says what else may happen than a stop (``then``), and "warn" promises nothing.

    From the third measurement on the trace forecasts the drift at the last step and the step at which the budget
    breaks (``outlook``). The numbers join the trainer's logs: ``drift/kl_nats``, ``drift/nats_left``,
    ``drift/forecast_kl_nats``, ``drift/slope``, ``drift/refusal``, ``drift/task_loss_nats_per_token``, ...

    Args:
        reference: of the aligned model (or an object with a ``reference``, such as an audit); None measures no
            drift.
        every: steps between measurements.
        budget: None records only.
        probe: prompts for the refusal rate; None measures none.
        task: held-out examples for the task loss; None measures none.
        batch_size: of the measurements.
        path: trace file; default ``drift.jsonl`` in the trainer's output folder.
        least_rate: share of the planned learning rate below which a budget with ``then="slow"`` does not go.

    Attributes:
        trace: one row a measurement: step, kl_nats with kl_nats_low and kl_nats_high, kl_nats_per_token, refusal
            with its interval, refusal_counts, over_refusal and task_loss_nats_per_token with theirs; nats_left,
            refusal_points_left, budget_used; what :func:`outlook.look_ahead` found; exceeded, and what was done:
            then, back_to (a step), rate_factor.
        stopped: a :class:`BudgetStop`, or None.

    Raises:
        UserError: a limit on something that is not measured; a model outside the budget before its first step
            (of a resumed run as well); a reference that is the trained model itself; weights that cannot be put
            back inside; no defence to hand over to, no optimiser whose rate could be lowered.
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
        least_rate: float = LEAST_RATE,
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
        self.task, self.batch_size, self.least_rate = task, batch_size, least_rate
        self._pace = Pace(None, None, 0)
        self.stopped: BudgetStop | None = None
        self.pending_logs: dict[str, float] = {}
        self.listener: Callable[[dict[str, Any]], None] | None = None  # hears every row but those of a resumption
        self._kept: Reference | None = None  # the reference with its log-probabilities, while a run lasts
        self._lines = JsonLines(path)
        self._given_path = path is not None
        self._seen: tuple[int, Fingerprint] | None = None  # step and weights of the last measurement
        self._inside: tuple[int, Fingerprint, dict[str, torch.Tensor]] | None = None
        self._check_budget()

    @property
    def trace(self) -> list[dict[str, Any]]:
        """Measurements so far."""
        return self._lines.rows

    def prepare(self, subject: Subject) -> None:
        """Compute the reference's side of the drift once for the measurements to come."""
        if self.reference is not None:
            self._kept = self.reference.kept(subject, self.batch_size)

    def measure(self, subject: Subject) -> dict[str, Any]:
        """One row of the trace, without step. Leaves modes and random state alone."""
        row: dict[str, Any] = {}
        with undisturbed(subject.model):
            if self.reference is not None:
                reading = drift(subject, self._kept or self.reference, self.batch_size)
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
                if self.probe.controls:
                    over = self.probe.over_refusal(subject)
                    row |= {
                        "over_refusal": over.value,
                        "over_refusal_low": over.low,
                        "over_refusal_high": over.high,
                    }
            if self.task is not None:
                found = mean_loss(subject, self.task, self.batch_size)
                interval = bootstrap_ratio(found.nll_N, found.tokens_N)
                row["task_loss_nats_per_token"] = found.nats_per_token
                row |= {"task_loss_low": interval.low, "task_loss_high": interval.high}
        return row

    # --- the trainer's events --------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        take_place(self, LogAhead(self))
        subject = subject_of(model, processing_class)
        self._check_reference(subject.model)
        self._pace = Pace(kwargs.get("optimizer"), kwargs.get("lr_scheduler"), int(state.max_steps))
        self._check_means()
        if not self._given_path:
            self._lines.path = Path(args.output_dir) / TRACE_FILE
        self._lines.take_up(int(state.global_step), write=state.is_world_process_zero)
        self.stopped, self.pending_logs, self._seen, self._inside = None, {}, None, None
        self.prepare(subject)
        row = self._measured(subject, state)
        if "refusal" in row and not self.trace:
            warn_if_little(label_rate(row["refusal_counts"], "refused"))
        # A resumed run has this row already, or would not have measured here: its trace is that of a whole run.
        if not self.trace or (self.trace[-1]["step"] != row["step"] and self._due(state, True)):
            self._keep(row, state)
        if self.listener is not None and row["step"] == 0:
            self.listener(row)
        if row["exceeded"] and (self._promises or not state.global_step):
            raise UserError(
                f"outside the budget before step {state.global_step + 1}: {row['exceeded']}; "
                "restore the model first, or widen the budget"
            )

    def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        if self._due(state, control.should_save):
            self._measure_and_decide(subject_of(model, processing_class), state, control)

    def on_epoch_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        if self.budget is not None and control.should_save:  # a checkpoint is only written of measured weights
            self.verify(subject_of(model, processing_class), state, control)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Measured numbers ride along with the next record, for every reporter."""
        if logs is not None and self.pending_logs:
            logs |= self.pending_logs
            if state.log_history:
                state.log_history[-1] |= self.pending_logs
            self.pending_logs = {}

    def on_train_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        self.verify(subject_of(model, processing_class), state, control)
        if self.pending_logs:  # no further record comes
            state.log_history.append({**self.pending_logs, "step": state.global_step})
            self.pending_logs = {}

    def verify(self, subject: Subject, state: Any, control: Any = None) -> None:
        """Measure again if the weights are not those that were measured last; go back if they are outside.

        After a stop the weights that were put back are put back once more if something has changed them.

        Raises:
            UserError: they cannot be put back inside.
        """
        if self._seen is not None and self._seen == (int(state.global_step), fingerprint(subject.model)):
            return
        if self.stopped is None:
            self._measure_and_decide(subject, state, control)
        else:
            self._put_back(subject, state)

    # --- measuring and going back ----------------------------------------------------------------------------

    def _due(self, state: Any, saves: bool) -> bool:
        regular = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        return regular or (saves and self.budget is not None)

    @property
    def _promises(self) -> bool:
        return self.budget is not None and self.budget.then != "warn"

    def _measure_and_decide(self, subject: Subject, state: Any, control: Any) -> None:
        row = self._measured(subject, state)
        limit = self.budget.max_kl_nats if self.budget is not None else None
        row |= look_ahead([*self.trace, row], self._pace.planned_T, limit)
        lowest = SLOWED_BY * rate_factor(self.trace) < self.least_rate
        ended = control is None or state.global_step >= state.max_steps
        then = self.budget.answer(row, ended, lowest) if self.budget is not None else None
        put_back = bool(row["exceeded"]) and then != "warn"
        if then is not None:
            row |= {"then": then, **({"back_to": self._inside[0]} if put_back and self._inside else {})}
            self._act(row, state, control)
        self._keep(row, state)
        self.pending_logs |= {f"drift/{name}": row[name] for name in LOGGED if row.get(name) is not None}
        if put_back:
            self._put_back(subject, state)
            if then != "stop":  # the run goes on from here: a further return leads to this step
                assert self._inside is not None
                self._inside = (int(state.global_step), *self._inside[1:])
        if then != "stop" and self.listener is not None:
            self.listener(row)

    def _act(self, row: dict[str, Any], state: Any, control: Any) -> None:
        then, back = row["then"], row.get("back_to")
        if then == "slow":
            self._pace.lower(SLOWED_BY)
            row["rate_factor"] = SLOWED_BY * rate_factor(self.trace)
        if then == "stop":
            assert back is not None
            self.stopped = BudgetStop(row["step"], row["exceeded"], back)
        if control is not None:
            control.should_log = True
            control.should_training_stop |= then == "stop"
        assert self.budget is not None
        logger.warning("step %d: %s", row["step"], self.budget.told(row))

    def _measured(self, subject: Subject, state: Any) -> dict[str, Any]:
        step = int(state.global_step)
        row = {"step": step, **self.measure(subject)}
        row["exceeded"] = self.budget.exceeded(row) if self.budget is not None else None
        self._seen = (step, fingerprint(subject.model))
        if self.budget is not None:
            row |= self.budget.left(row, self.trace[0] if self.trace else row)
        if self._promises and not row["exceeded"]:
            trained = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
            self._inside = (step, self._seen[1], clone(trained))
        return row

    def _keep(self, row: dict[str, Any], state: Any) -> None:
        self._lines.append(row, write=state.is_world_process_zero)

    def _put_back(self, subject: Subject, state: Any) -> None:
        """The last weights inside; measured again if that does not make the whole model what it was."""
        assert self._inside is not None
        _, wanted, weights = self._inside
        named = dict(subject.model.named_parameters())
        if weights.keys() <= named.keys():
            assign({name: named[name] for name in weights}, weights)
        found = fingerprint(subject.model)
        self._seen = (int(state.global_step), found)
        if found == wanted:
            return
        row = {"step": int(state.global_step), **self.measure(subject)}
        assert self.budget is not None
        if exceeded := self.budget.exceeded(row):
            raise UserError(
                f"after step {state.global_step}: {exceeded}, and putting back the trained parameters of step "
                f"{self._inside[0]} is not enough: something else in the model was changed (merging, another "
                "callback?); leave that out, or take the last checkpoint"
            )

    def _check_reference(self, model: Any) -> None:
        """A reference that moves with the model would always read 0."""
        if self.reference is None:
            return
        if self.reference.source == "adapter_off" and not hasattr(model, "peft_config"):
            raise UserError(
                "source='adapter_off' needs a model that trains an adapter; this one is trained itself: make the "
                "reference with Reference.of(..., source='stored') before training, or 'model' with a second model"
            )
        if self.reference.source != "model" or self.reference.model is None:
            return
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        if any(id(p) in trained for p in self.reference.model.parameters()):
            raise UserError(
                "the reference holds the very model that is trained, so its drift would always be 0; make it with "
                "Reference.of(..., source='stored') before training, or from a second copy of the model"
            )

    def _check_budget(self) -> None:
        if self.budget and (found := self.budget.unmeasured(self.reference, self.probe, self.task)):
            limit, source = found
            raise UserError(f"the budget limits {limit} but nothing measures it; give DriftMonitor {source}")

    def _check_means(self) -> None:
        then = self.budget.then if self.budget is not None else "stop"
        if then == "anchor" and self.listener is None:
            raise UserError(
                "then='anchor', and no defence to hand over to; give GuardedTrainer defences=[Anchor(...)]"
            )
        if then == "slow" and self._pace.optimizer is None:
            raise UserError("then='slow', and the trainer hands its callbacks no optimiser; use then='stop'")


def subject_of(model: Any, processing_class: Any) -> Subject:
    """The model under whatever accelerate wrapped around it, and its tokenizer (a processor holds one)."""
    from accelerate.utils import extract_model_from_parallel

    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    return Subject(extract_model_from_parallel(model, keep_fp32_wrapper=True), tokenizer)
