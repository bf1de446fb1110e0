"""Where a monitor stands among a trainer's callbacks, and whether the weights it measured are still there.

Knows: transformers' callback handler. Does not know: what is measured.
"""

import itertools
import sys
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

Fingerprint = tuple[tuple[str, tuple[float, ...]], ...]


def fingerprint(model: torch.nn.Module) -> Fingerprint:
    """Name, norm and sums of every parameter and buffer, in float64: equal for equal weights.

    Sums are weighted by place along the first dimension and the others, so that moved values show, too.
    Frozen ones belong to it: merging, or a callback that edits a base weight, changes a model as well.
    """
    names, numbers = [], []
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        value = tensor.detach()
        if value.is_meta or value.is_complex():
            continue
        if not value.is_floating_point():
            value = value.double()
        names.append(name)
        norm = torch.linalg.vector_norm(value, dtype=torch.float64)
        numbers.append(torch.stack([norm, *_sums(value)]))
    if not names:
        return ()
    device = numbers[0].device
    found = torch.stack([number.to(device) for number in numbers]).cpu().tolist()
    return tuple((name, tuple(row)) for name, row in zip(names, found, strict=True))


def _sums(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = value.flatten(1) if value.ndim > 1 else value.reshape(-1, 1)
    along = [rows.sum(axis, dtype=torch.float64) for axis in (1, 0)]
    first, others = (line @ torch.arange(1.0, len(line) + 1).to(line) for line in along)
    return first, others


class LogAhead(TrainerCallback):
    """Stands before the reporting services, so that what a monitor adds to a record reaches them."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.monitor.on_log(args, state, control, logs=logs)


def take_place(monitor: TrainerCallback, ahead: LogAhead) -> None:
    """Put ``monitor`` behind every other callback, and ``ahead`` in front of the reporting ones.

    Reporting services come before a user's callbacks, and others may come after: seen from where the user put it,
    a monitor's numbers would miss every report, and a later callback's changes would go unmeasured. A callback is
    handed no way to its neighbours, so the list is looked up where the call came from. Called from elsewhere (a
    trainer of another make), nothing moves.
    """
    handler = _caller()
    if handler is None:
        return
    others = [
        callback
        for callback in handler.callbacks
        if callback is not monitor and not (isinstance(callback, LogAhead) and callback.monitor is monitor)
    ]
    flow = sum(isinstance(callback, DefaultFlowCallback) for callback in others[:1])
    # A new list: the handler is walking through the old one.
    handler.callbacks = [*others[:flow], ahead, *others[flow:], monitor]


def _caller(depth: int = 6) -> CallbackHandler | None:
    frame = sys._getframe(2)
    for _ in range(depth):
        if isinstance(found := frame.f_locals.get("self"), CallbackHandler):
            return found
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
