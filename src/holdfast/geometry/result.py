"""What an audit found, as values that need no model: kept in a folder and read back.

Knows: files. Does not know: how anything was measured.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.files import new_folder, read_json, read_tensors, write_json, write_tensors
from holdfast.data import Example
from holdfast.evaluation.drift import Reference
from holdfast.geometry.attribution import Attribution
from holdfast.geometry.conditions import Conditions
from holdfast.geometry.forecast import Forecast
from holdfast.geometry.onset import Onset
from holdfast.geometry.specific import Specific
from holdfast.geometry.spectrum import Spectrum, Subspace

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Audit:
    """What :func:`holdfast.geometry.audit` found. Everything a report needs is in it; the model is not.

    Attributes:
        spectrum: the sampled Fisher's spectrum.
        conditions: the three instability conditions.
        onset: c2, c3, c4 and times to thresholds.
        forecast: the screen of the task, ranking only.
        settings: what was asked for: optimiser, learning rate, steps, seed, scope, sizes, task loss reduction.
        reference_examples: completions sampled from the aligned model; all numbers are along them.
        gram: (N, N) inner products of their scores: the alignment subspace in sample coordinates.
        dots: per sample, inner products of its score with "g", "Hg" and "first_update" (per unit learning rate).
        reference: for a drift monitor; in memory only. After :meth:`load` make one with
            ``Reference.on(subject, audit.reference_examples)``.
        compared: the skill's Fisher against a benign control's; None where no controls were asked for.
        attribution: which rows and blocks carry the forecast drift.
    """

    spectrum: Spectrum
    conditions: Conditions
    onset: Onset
    forecast: Forecast
    settings: dict[str, Any]
    reference_examples: tuple[Example, ...] = field(repr=False)
    gram: Array = field(repr=False)
    dots: dict[str, Array] = field(repr=False)
    reference: Reference | None = field(default=None, repr=False)
    compared: Specific | None = None
    attribution: Attribution | None = field(default=None, repr=False)

    @property
    def seed(self) -> int:
        """Of sampling, shuffling and intervals."""
        return int(self.settings["seed"])

    @property
    def subspace(self) -> Subspace:
        """The alignment subspace in sample coordinates."""
        return Subspace.of(self.gram)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain values (without completions and matrices)."""
        return {
            "spectrum": self.spectrum.to_dict(),
            "conditions": self.conditions.to_dict(),
            "onset": self.onset.to_dict(),
            "forecast": self.forecast.to_dict(),
            "settings": self.settings,
            "compared": self.compared.to_dict() if self.compared is not None else None,
            "attribution": self.attribution.to_dict() if self.attribution is not None else None,
        }

    def save(self, folder: str | Path) -> None:
        """Write ``audit.json``, ``reference.json`` and ``subspace.safetensors`` into a new folder.

        Raises:
            UserError: the folder exists and is not empty; the disk is full.
        """
        arrays = {"gram": self.gram, **{f"dots.{name}": value for name, value in self.dots.items()}}
        rows = [asdict(example) for example in self.reference_examples]
        with new_folder(folder) as temporary:
            write_json(temporary / "audit.json", self.to_dict())
            write_json(temporary / "reference.json", rows)
            tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
            write_tensors(temporary / "subspace.safetensors", tensors)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        folder = Path(folder)
        values = read_json(folder / "audit.json")
        rows = read_json(folder / "reference.json")
        arrays = {k: v.numpy() for k, v in read_tensors(folder / "subspace.safetensors").items()}
        return cls(
            Spectrum.from_dict(values["spectrum"]),
            Conditions.from_dict(values["conditions"]),
            Onset.from_dict(values["onset"]),
            Forecast.from_dict(values["forecast"]),
            values["settings"],
            tuple(_example(row) for row in rows),
            arrays["gram"],
            {k.removeprefix("dots."): v for k, v in arrays.items() if k.startswith("dots.")},
            None,
            Specific.from_dict(values["compared"]) if values.get("compared") else None,
            Attribution.from_dict(values["attribution"]) if values.get("attribution") else None,
        )


def _example(row: dict[str, Any]) -> Example:
    mask = row["completion_mask"]
    return Example(row["prompt_ids"], row["completion_ids"], row["id"], None if mask is None else tuple(mask))
