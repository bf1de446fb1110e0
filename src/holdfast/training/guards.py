"""The defences of one training run: who chooses rows, who adds a loss, who changes the update, what is resumed.

Knows: the interface (``core.defence``), where a checkpoint keeps state.
Does not know: any method; how a pool is scored (the trainer does).
"""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from holdfast.core.defence import Choice, Defence, PoolView, UndeclaredReadError
from holdfast.core.errors import UserError
from holdfast.core.files import read_json, write_json
from holdfast.models import Subject

if TYPE_CHECKING:
    from holdfast.training.trainer import GuardedTrainer

STATE_FILE = "defences.json"
_SPLITTING = frozenset({"DEEPSPEED", "FSDP", "MEGATRON_LM"})  # accelerate's names for split weights


class Guards:
    """Defences in the order in which they act.

    Attributes:
        chooser: the one that chooses rows, or None.

    Raises:
        UserError: something that is no defence, two of one name, two that choose rows, settings that they cannot
            work with.
    """

    def __init__(self, defences: Sequence[Any], args: Any) -> None:
        self.all: tuple[Defence, ...] = tuple(defences)
        for defence in self.all:
            if not isinstance(defence, Defence):
                raise UserError(f"defences: {defence!r} is none; give objects such as holdfast.Anchor(skill)")
        names = [defence.name for defence in self.all]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"defences: '{min(twice)}' is given twice; leave one out, or give it another name")
        choosers = [defence for defence in self.all if defence.overrides("choose")]
        if len(choosers) > 1:
            raise UserError(
                f"defences: '{choosers[0].name}' and '{choosers[1].name}' both choose rows; leave one out"
            )
        self.chooser: Any = choosers[0] if choosers else None
        self._args = args
        self._check_supported(args)

    def begin(self, subject: Subject) -> None:
        """The model as it was handed in."""
        rows = int(self._args.per_device_train_batch_size) * int(self._args.gradient_accumulation_steps)
        rows *= int(self._args.world_size)
        for defence in self.all:
            object.__setattr__(defence, "rows_per_update", rows)  # some are frozen dataclasses
            defence.begin(subject)

    def read(self, row: Mapping[str, Any]) -> None:
        """What a monitor has measured."""
        for defence in self.all:
            defence.read(row)

    def choose(self, step: int, scores: tuple[Any, Any, Any], rows: Any) -> Any:
        """What the chooser says of a pool, as a Selection or a :class:`Choice`.

        Args:
            scores: loss, gradient norm and completion tokens of each row, as far as they were computed.
        """
        loss_B, norm_B, tokens_B = scores
        chosen = self.chooser.choose(PoolView(self.chooser.needs, step, tokens_B, loss_B, norm_B, rows))
        if hasattr(chosen, "indices"):
            return chosen
        kept = range(len(tokens_B)) if chosen is None else chosen
        return Choice(tuple(int(k) for k in kept), len(tokens_B))

    @property
    def look_at_rows(self) -> bool:
        """Whether any of them looks at the rows that are trained on."""
        return any(defence.overrides("see") for defence in self.all)

    def see(self, rows: Any) -> None:
        """The rows of this update."""
        for defence in self.all:
            if not defence.overrides("see"):
                continue
            if "rows" not in defence.needs:
                raise UndeclaredReadError(f"{defence.name} looks at rows; add 'rows' to its `needs`")
            defence.see(rows)

    def losses(self, model: Any, step: int) -> list[torch.Tensor]:
        """What is added to the task loss of this update."""
        found = (defence.loss(model, step) for defence in self.all)
        return [loss for loss in found if loss is not None]

    def update(self, model: Any, step: int) -> None:
        """Let them change the gradients."""
        changing = [defence for defence in self.all if defence.overrides("update")]
        if not changing:
            return
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for defence in changing:
            defence.update(step, gradients)

    def notes(self) -> dict[str, float]:
        """Numbers for the log."""
        return {f"{defence.name}/{key}": value for defence in self.all for key, value in defence.notes.items()}

    def save(self, folder: str | Path) -> None:
        """State of those that have some, beside a checkpoint's optimiser."""
        if state := {defence.name: defence.state for defence in self.all if defence.state}:
            write_json(Path(folder) / STATE_FILE, state)

    def load(self, folder: str | Path) -> None:
        """Take it up.

        Raises:
            UserError: the checkpoint was made with other defences.
        """
        path = Path(folder) / STATE_FILE
        found: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        wanted = {defence.name for defence in self.all if defence.state}
        if wanted != set(found):
            raise UserError(
                f"{folder}: its defences are {sorted(found) or 'none'}, this run's {sorted(wanted) or 'none'}; "
                "go on with the same ones, or begin anew"
            )
        for defence in self.all:
            if defence.name in found:
                defence.state = found[defence.name]

    def _check_supported(self, args: Any) -> None:
        if self.chooser is not None and (reason := unsuited(self.chooser.needs, args)) is not None:
            raise UserError(reason)
        looking = [defence for defence in self.all if defence.overrides("see")]
        cut = getattr(args, "packing", False) and getattr(args, "packing_strategy", "bfd") == "wrapped"
        if cut and (self.chooser is not None or looking):
            raise UserError(
                "defences: packing_strategy 'wrapped' cuts rows apart, so none can be chosen or looked at; use "
                "'bfd', or select before training with `holdfast select` and pack what is kept"
            )
        if args.world_size == 1:
            return
        if self.chooser is None:
            return
        if "rows" in self.chooser.needs:
            raise UserError(
                f"defences: '{self.chooser.name}' chooses by the rows themselves, which {args.world_size} "
                "processes do not share; use one process, or OnlineSelection, which goes by their scores"
            )
        if not args.average_tokens_across_devices:
            raise UserError(
                f"online selection on {args.world_size} processes keeps more rows on one than on another, and "
                "average_tokens_across_devices=False weighs processes alike; leave it at True"
            )

    def check_parallel(self, how: str, sharers: int) -> None:
        """That every process has whole weights and rows of its own, where rows are chosen or looked at.

        Args:
            how: accelerate's name for what is done with processes.
            sharers: processes that work on the same rows (tensor, context or sequence parallelism).

        Raises:
            UserError: it has not.
        """
        split = how if how in _SPLITTING else "parallelism within a row or a layer" if sharers > 1 else None
        if self._args.world_size > 1 and split and (self.chooser is not None or self.look_at_rows):
            raise UserError(
                f"defences: choosing or looking at rows on {self._args.world_size} processes needs the whole "
                f"model and rows of its own on each, and {split} splits one of them; use data parallelism (DDP)"
            )


def unsuited(needs: Container[str], args: Any) -> str | None:
    """Why rows cannot be chosen under these arguments: their scores would be of another loss than is trained.

    Args:
        needs: what the choice reads.
    """
    other = (
        f"loss_type {args.loss_type}"
        if getattr(args, "loss_type", "nll") not in ("nll", "chunked_nll", None)
        else "label_smoothing_factor"
        if getattr(args, "label_smoothing_factor", 0.0)
        else None
    )
    if other is None or not ("loss" in needs or "norm" in needs):
        return None
    return (
        f"online selection scores rows by their plain loss, and {other} trains another one; leave it out, or "
        "choose rows without it (rule none, random or a rule of lengths)"
    )


class Updates(TrainerCallback):
    """Let defences change an update, and make one whose whole pool was dropped a no-op.

    Adam moves weights even on a zero gradient. A resumed run's trace forgets the updates that will be made again.
    """

    def __init__(self, trainer: "GuardedTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.selection is not None:
            self.trainer.selection_lines.take_up(int(state.global_step), write=state.is_world_process_zero)

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self.trainer.skip_update and optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
        elif model is not None:
            self.trainer.guards.update(model, int(state.global_step) + 1)
