"""The result of a repair: an adapter, how it was found, and what it was measured against.

Knows: PEFT's names of adapter tensors, the report beside them. Does not know: how to repair.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from holdfast.core.errors import UserError
from holdfast.core.files import new_folder, read_json, read_tensors, write_json
from holdfast.core.results import Result
from holdfast.models import Subject, save_adapter
from holdfast.restoration.validation import Check
from holdfast.restoration.verdict import Decision

REPORT = "restoration_report.json"
WEIGHTS = "adapter_model.safetensors"
STATUSES = ("restored", "partially_restored", "undecided", "no_drift", "no_safe_step")


@dataclass(frozen=True)
class Restoration(Result):
    """A repaired adapter and its evidence: chosen on one part of the validation data, decided on another.

    ``chosen``, ``trace`` and ``baselines`` are measured on the part that chooses, and spent by it (restoration.md
    3.7); quote ``decided``. ``skill.evaluate`` is untouched and remains for final numbers.

    Attributes:
        method: "settle", "distil", "replay" or "curvature"; the solver of the last is in ``settings``.
        status: by the deciding part. "restored" (better than before, no gap to the aligned model seen, at most two
            points), "partially_restored" (better than before, a gap to the aligned model beyond chance),
            "undecided" (too few prompts, or too small a change, to say which), "no_drift" (nothing to restore),
            "no_safe_step" (nothing better kept the limit). In the last two ``adapter`` is the input, unchanged.
        reason: one sentence for people, with intervals and numbers of prompts.
        max_task_loss_increase: the user's limit, nats a token.
        chosen: the check that chose the returned adapter; chosen_name: what that is ("step 80", "scale 0.5",
            "adapter off", "drifted").
        trace: all checks in order; the first is the drifted adapter.
        baselines: "aligned" (adapter off), "drifted", and the free repairs "scale 0.25", "scale 0.5" and
            "scale 0.75", where the adapter can be scaled.
        decided: "aligned", "drifted" and "repaired" on the deciding part.
        decision: paired differences on the deciding part; None where nothing was repaired.
        counts: examples and prompts of each kind.
        settings: every argument that shaped the run, the seed included; "balanced" is measured, not assumed.
        notes: one record an outer iteration (curvature only).
        seconds: wall clock.
        input_fingerprint, fingerprint: hash of the adapter before and after.
        adapter: the repaired tensors under the names of ``adapter_model.safetensors``.
    """

    method: str
    status: str
    reason: str
    max_task_loss_increase: float
    chosen: Check
    trace: tuple[Check, ...]
    baselines: dict[str, Check]
    counts: dict[str, int]
    settings: dict[str, Any]
    notes: tuple[dict[str, float], ...]
    seconds: float
    input_fingerprint: str
    fingerprint: str
    chosen_name: str = "drifted"
    decided: dict[str, Check] = field(default_factory=dict)
    decision: Decision | None = None
    adapter: dict[str, torch.Tensor] = field(repr=False, default_factory=dict)
    subject: Subject | None = field(repr=False, default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The report: everything but the tensors and the model."""
        values = super(Restoration, _without_weights(self)).to_dict()
        return {name: value for name, value in values.items() if name not in ("adapter", "subject")}

    def save(self, path: str | Path) -> None:
        """Write the repaired adapter in PEFT's layout into a new folder, with ``restoration_report.json``.

        Raises:
            UserError: the folder exists and is not empty; a result that was read from a folder.
        """
        if self.subject is None:
            raise UserError(f"{path}: this result was loaded without its model; copy the folder it came from")
        with new_folder(path) as temporary, carrying(self.subject.model, self.adapter):
            save_adapter(self.subject.model, temporary)
            write_json(temporary / REPORT, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; the model itself is not needed."""
        result = cls.from_dict(read_json(Path(path) / REPORT))
        result.adapter.update(read_tensors(Path(path) / WEIGHTS))
        return result

    def apply(self, subject: Subject) -> Subject:
        """Put the repaired tensors into the adapter that ``subject`` carries, in place, and return the subject."""
        put_adapter(subject.model, self.adapter)
        return subject


def _without_weights(result: Restoration) -> Restoration:
    from dataclasses import replace

    return replace(result, adapter={}, subject=None)


def get_adapter(model: Any) -> dict[str, torch.Tensor]:
    """Copies of the adapter's tensors under PEFT's on-disk names."""
    from peft import get_peft_model_state_dict

    return {name: t.detach().clone() for name, t in get_peft_model_state_dict(model).items()}


def put_adapter(model: Any, adapter: Mapping[str, torch.Tensor]) -> None:
    """Write tensors under PEFT's on-disk names into the model's adapter.

    Raises:
        UserError: names or shapes of another adapter.
    """
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(model)
    odd = sorted(own.keys() ^ adapter.keys()) or [n for n in own if own[n].shape != adapter[n].shape]
    if odd:
        raise UserError(f"adapter: '{odd[0]}' does not fit the adapter of this model; load it on its own model")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(adapter[name])  # the state dict shares memory with the parameters


@contextlib.contextmanager
def carrying(model: Any, adapter: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the block the model carries ``adapter``; after it, what it carried before."""
    before = get_adapter(model)
    put_adapter(model, adapter)
    try:
        yield
    finally:
        put_adapter(model, before)


def fingerprint(adapter: Mapping[str, torch.Tensor]) -> str:
    """Hash of names and bytes: two runs that give the same adapter give the same fingerprint."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        digest.update(name.encode())
        digest.update(adapter[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
