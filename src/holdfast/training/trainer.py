"""GuardedTrainer: TRL's SFTTrainer with defences: what chooses rows, adds a loss or changes the update.

Knows: where the loop of transformers and TRL can be entered. Does not know: any method, how drift is measured.

One update: the pool (all micro-batches) is drawn, scored on the model as it is, cut, and only then counted for
the loss scale. With nothing dropped the micro-batches are passed on untouched. Losses of defences are added once,
behind the first micro-batch. Without defences the run is bit for bit that of SFTTrainer. On several processes
(data parallel) each scores its own rows, all choose alike from the scores of all, and each keeps its own; defences
see the rows of all, so their loss is the same on each.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from holdfast.core.seeds import undisturbed
from holdfast.data import Batch
from holdfast.gradients import GhostEngine, OnePass, one_pass, pool_norms
from holdfast.gradients.ghost import Reduction
from holdfast.gradients.per_sample import TOKENS, in_chunks
from holdfast.models import Subject, batch_nll
from holdfast.models.adapter_scope import trained_base_parameters
from holdfast.selection import OnlineSelection
from holdfast.training.data import SAMPLE, NumberedCollator, are_examples, dataset_from_examples
from holdfast.training.experts import with_experts
from holdfast.training.guards import Guards, Updates
from holdfast.training.monitor import DriftMonitor, subject_of
from holdfast.training.options import cpu_safe_args
from holdfast.training.pool import MicroBatch, as_batch, as_drawn, as_rows, keep_rows, pool_size
from holdfast.training.scored_head import read_labelled_positions_only
from holdfast.training.trace import JsonLines
from holdfast.training.update import MOST_HELD_BYTES, deposit, held_bytes, obstacle
from holdfast.training.whole import Whole, told_of

logger = logging.getLogger(__name__)

TRACE_FILE = "selection.jsonl"


class GuardedTrainer(SFTTrainer):
    """``SFTTrainer`` with defences and monitors.

    Args:
        model: a :class:`Subject` (its tokenizer is used; trained is its scope, or with the scope "auto" exactly
            what requires a gradient as it is handed in, biases and single tokens included), a model, or a name.
        args: an ``SFTConfig``; default :func:`cpu_safe_args`. ``per_device_train_batch_size`` ×
            ``gradient_accumulation_steps`` (× processes) is the POOL; ``selection.keep`` of it is trained on. How
            it is cut into micro-batches and dealt out to processes changes memory and rounding, nothing else.
        train_dataset: a sequence of Examples (their masks are used as they are), or anything SFTTrainer takes.
        selection: the same as one of ``defences``; None trains on everything.
        defences: such as :class:`holdfast.Anchor`; at most one chooses rows. They look at the model as it is
            handed in: hand in the aligned one, also for a run that goes on from a checkpoint.
        callbacks: such as a :class:`DriftMonitor`, which has the last word on the weights that come out.
        processing_class: the tokenizer, if ``model`` is not a Subject.
        kwargs: of ``SFTTrainer``.

    Raises:
        UserError: selection together with packing that cuts rows apart; two defences of one name, or two that
            choose rows; on several processes a choice by the rows themselves, split weights (DeepSpeed, FSDP)
            where rows are chosen or looked at, or selection with ``average_tokens_across_devices=False``.

    Attributes:
        selection_trace: one row an update: step, pool, kept, kept_share, thresholds, quantiles of loss and norm
            (0, 16, 50, 84, 100 %), counts by reason, kept_ids; of the pool of all processes. Also in
            ``<output_dir>/selection.jsonl``, which the main process writes.
    """

    def __init__(
        self,
        model: Any,
        args: Any = None,
        train_dataset: Any = None,
        selection: OnlineSelection | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        processing_class: Any = None,
        defences: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else cpu_safe_args()
        if isinstance(model, Subject):
            processing_class = processing_class if processing_class is not None else model.tokenizer
            model = _scoped(model)
        self.guards = Guards([*([selection] if selection is not None else ()), *defences], args)
        self.selection: Any = self.guards.chooser
        self.skip_update = False
        self._losses_due = False
        self._engine: GhostEngine | None = None
        self._update: OnePass | None = None
        self._told: set[str] = set()
        self._tokens = TOKENS
        self.pending_logs: dict[str, float] = {}
        self._own_datasets: list[Any] = []
        self._ids: list[str] | None = None
        traced = self.selection is not None
        self.selection_lines = JsonLines(Path(args.output_dir) / TRACE_FILE if traced else None)
        if kwargs.get("eval_dataset") is not None:
            kwargs["eval_dataset"] = self._adopted(kwargs["eval_dataset"])
        super().__init__(
            model=model,
            args=with_experts(model, args),
            train_dataset=self._numbered(self._adopted(train_dataset)),
            callbacks=list(callbacks or ()),
            processing_class=processing_class,
            **kwargs,
        )
        wrapped: Any = self.model
        read_labelled_positions_only(wrapped.get_base_model() if hasattr(wrapped, "peft_config") else wrapped)
        self.remove_callback(PrinterCallback)  # prints every log to stdout, which belongs to the caller
        self.data_collator = NumberedCollator(self.data_collator)  # type: ignore[assignment]
        if self.guards.all:
            self.guards.check_parallel(
                str(self.accelerator.distributed_type.value),
                self.get_tp_size() * self.get_cp_size() * self.get_sp_size(),
            )
            self.add_callback(Updates(self))
            self.guards.begin(subject_of(self.model, self.processing_class))
            for callback in callbacks or ():
                if isinstance(callback, DriftMonitor):
                    callback.listener = self.guards.read

    @property
    def selection_trace(self) -> list[dict[str, Any]]:
        """Rows of the trace so far."""
        return self.selection_lines.rows

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``SFTTrainer.train``; then monitors look once more at the weights that come out."""
        output = super().train(*args, **kwargs)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, DriftMonitor):
                callback.verify(subject_of(self.model, self.processing_class), self.state)
        return output

    # --- data ------------------------------------------------------------------------------------------------

    def _adopted(self, dataset: Any) -> Any:
        if not are_examples(dataset):
            return dataset
        own = dataset_from_examples(dataset)
        self._own_datasets.append(own)
        return own

    def _numbered(self, dataset: Any) -> Any:
        """Give rows a number that travels with them; streams have none."""
        if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
            return dataset
        names = dataset.column_names
        self._ids = [str(name) for name in dataset["id"]] if "id" in names else list(map(str, range(len(dataset))))
        numbered = dataset.add_column(SAMPLE, list(range(len(dataset))))
        if any(dataset is own for own in self._own_datasets):
            self._own_datasets.append(numbered)
        return numbered

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Examples are ready as they are; anything else is prepared by TRL."""
        if any(dataset is own for own in self._own_datasets):
            return dataset
        return super()._prepare_dataset(dataset, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._signature_columns is not None and SAMPLE not in self._signature_columns:
            self._signature_columns.append(SAMPLE)

    # --- one update ------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """Draw the pool of one update; with a selection, score it, keep a part, and count its tokens anew."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        numbers = [batch.pop(SAMPLE, None) for batch in batches]
        self._losses_due = bool(batches)
        if not batches or not (self.selection is not None or self.guards.look_at_rows):
            return batches, items
        rows = as_rows(batches, self._pad_id())
        whole = Whole.drawn([batch["input_ids"].shape[0] for batch in rows])
        ids, drawn = self._pool_ids(whole, numbers), pool_size(rows)
        if self.selection is not None:
            rows, items, ids, whole = self._cut(rows, items, ids, whole)
        if self.guards.look_at_rows:
            self.guards.see(whole.rows(as_batch(rows, ids)))
        return (batches if len(ids) == drawn else as_drawn(rows, batches[0])), items

    def _cut(self, batches: list[MicroBatch], items: Any, ids: list[str], whole: Whole) -> tuple:
        """What the selection keeps of a pool: this process' micro-batches, the tokens of all, names, places."""
        self._update = None
        # Scoring takes no more memory than a training step on a micro-batch.
        chosen = self._choose(batches, ids, whole)
        own = whole.own(chosen.indices)
        self.skip_update = not chosen.indices
        if len(chosen.indices) in (0, len(whole)):
            self._update = None  # nothing to leave out: the ordinary step, bit for bit
        if self.skip_update:
            logger.warning(
                "step %d: no usable sample in the pool; the update is skipped", self.state.global_step + 1
            )
        if len(own) < len(ids):  # a process that keeps nothing still takes part, with rows without labels
            batches = keep_rows(batches, own, self._pad_id())
        if len(chosen.indices) < len(whole):  # the count asks all processes, so all of them count
            items = self._get_num_items_in_batch(batches, self.args.device)
        return batches, items, [ids[k] for k in own], whole.kept(chosen.indices)

    def _choose(self, batches: list[MicroBatch], ids: list[str], whole: Whole) -> Any:
        pool = as_batch(batches, ids)
        self._tokens = min(TOKENS, max(batch["input_ids"].numel() for batch in batches))
        step = self.state.global_step + 1
        if "norm" in self.selection.needs and self._one_pass_allowed(pool):
            chosen, scores = self._score_and_differentiate(pool, step)
        else:
            *scores, ids = whole.together(*self._score(pool), ids)
            chosen = self.guards.choose(step, tuple(scores), pool if self.args.world_size == 1 else None)
        self.selection_lines.append(told_of(step, ids, scores, chosen), write=self.is_world_process_zero())
        self.pending_logs["selection/kept_share"] = chosen.kept_share
        return chosen

    def _one_pass_allowed(self, pool: Batch) -> bool:
        if not getattr(self.selection, "one_pass", True):
            return False
        reason = obstacle(self._bare_model(), self.args, str(self.accelerator.mixed_precision))
        held = held_bytes(self._ghost().parameters, pool.input_ids_BT.numel())
        if reason is None and held > MOST_HELD_BYTES:
            reason = f"one would hold about {held / 2**30:.0f} GiB of this pool until the choice"
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            logger.info("scoring and training take two passes: %s", reason)
        return reason is None

    def _score_and_differentiate(
        self, pool: Batch, step: int
    ) -> tuple[Any, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """One pass: scores, choice, and the gradient of what is kept, which ``training_step`` will hand over."""
        chosen: list[Any] = []

        def choose(loss_N: torch.Tensor, norm_N: torch.Tensor, tokens_N: torch.Tensor) -> Sequence[int]:
            chosen.append(self.guards.choose(step, (loss_N, norm_N, tokens_N), pool))
            return chosen[0].indices

        self._update = one_pass(self._ghost(), pool, choose, "tokens", self._reduction(), self._tokens)
        norms = self._update.norms
        return chosen[0], (norms.loss_N, norms.norm_N, norms.tokens_N)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradient of a micro-batch; once an update, that of the defences' losses is added."""
        loss = self._task_step(model, inputs, num_items_in_batch)
        if self._losses_due:
            self._losses_due = False
            for added in self.guards.losses(self._bare_model(), self.state.global_step + 1):
                self.accelerator.backward(added)
            self.pending_logs |= self.guards.notes()
        return loss

    def _task_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        """An ordinary step, or the handing over of a gradient that the scoring pass has brought along."""
        if self._update is None:
            return super().training_step(model, inputs, num_items_in_batch)
        loss = torch.tensor(self._update.loss, device=self.args.device)
        deposit(self._bare_model(), self._update.gradients)
        # Further micro-batches of this update have nothing to add; their share of the loss is in the first.
        self._update = OnePass(self._update.norms, self._update.kept, 0.0, {}, 0)
        return loss

    def _bare_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=True)

    def _ghost(self) -> GhostEngine:
        """The engine for this model; it plans its routes once for the whole run."""
        model = self._bare_model()
        if self._engine is None or self._engine.model is not model:
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            self._engine = GhostEngine(model, trained)
        return self._engine

    def _reduction(self) -> Reduction:
        return "sum" if getattr(self.selection, "reduction", "mean") == "sum" else "mean"

    def _score(self, pool: Batch) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        """Loss, norm and tokens of every row, as far as the rule needs them, on the model as it is."""
        model: Any = self._bare_model()
        if "norm" in self.selection.needs:
            found = pool_norms(self._ghost(), pool, self._reduction(), self._tokens)
            return found.loss_N, found.norm_N, found.tokens_N
        tokens_B = pool.completion_mask_BT[:, 1:].sum(1).cpu()
        if "loss" not in self.selection.needs:
            return None, None, tokens_B
        with undisturbed(model):
            parts = in_chunks(pool.to(next(model.parameters()).device), self._tokens)
            loss_B = torch.cat([batch_nll(model, part).double().cpu() for part in parts])
        return loss_B.masked_fill(tokens_B == 0, float("nan")), None, tokens_B

    def _pool_ids(self, whole: Whole, numbers: list[torch.Tensor | None]) -> list[str]:
        told = [k for part in numbers if part is not None for k in part.tolist()]
        if self._ids is None or len(told) != len(whole.numbers):
            return [str(k) for k in whole.numbers]
        return [self._ids[k] for k in told]

    def _pad_id(self) -> int:
        return int(getattr(self.processing_class, "pad_token_id", None) or 0)

    # --- checkpoints -----------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """What defences must remember lies beside the optimiser's state."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.guards.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.guards.load(checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One record a step: what the filter and the monitors found rides along with the loss."""
        logs.update(self.pending_logs)
        self.pending_logs = {}
        super().log(logs, start_time)


def _scoped(subject: Subject) -> Any:
    """The subject's model with exactly the parameters in scope trainable.

    "auto", and "adapter" on a model that has one, keep what requires a gradient already: PEFT has marked what an
    adapter trains (biases, token rows and whole modules among it), and a user may have frozen layers. The base's
    biases are no sign of it: PEFT leaves them open even in an adapter that it loads frozen.
    """
    as_marked = subject.scope == "auto" or (subject.scope == "adapter" and subject.has_adapter)
    beside = {id(parameter) for parameter in trained_base_parameters(subject.model).values()}
    marked = {id(parameter) for parameter in subject.model.parameters() if parameter.requires_grad}
    if as_marked and marked - beside:
        return subject.model
    chosen = {id(parameter) for parameter in subject.parameters().values()}
    for parameter in subject.model.parameters():
        if parameter.is_floating_point():  # quantised weights cannot ask for a gradient
            parameter.requires_grad_(id(parameter) in chosen)
    return subject.model
