"""What other models took: updates to half of the refusals, of the reference models that come with the package.

The file is written by `studies/elasticity`; it says itself which models, which data and which updates. A number of
another model is beside these for size only: rate, rows and data go with it.

Knows: the file. Does not know: how it was measured.
"""

import math
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from holdfast.core.files import read_json
from holdfast.core.results import Result


@dataclass(frozen=True)
class Reference(Result):
    """Reference models of one family.

    Attributes:
        models, data, optimizer, source: in words.
        learning_rate, batch_size, updates_made: how they were undone.
        updates_to_half: one a model; None where more than all updates were needed.
    """

    models: str
    data: str
    optimizer: str
    learning_rate: float
    batch_size: int
    updates_made: int
    updates_to_half: tuple[float | None, ...]
    source: str

    @property
    def median(self) -> float:
        """Of the updates to half; infinite where half of the models were not undone by half."""
        return float(np.median([math.inf if n is None else n for n in self.updates_to_half]))

    def said(self) -> str:
        """The half sentence: "the median of the 48 reference models (...): 6"."""
        number = f"{max(1, math.ceil(self.median))}" if math.isfinite(self.median) else f"over {self.updates_made}"
        how = f"{self.models}, {self.data}, {self.batch_size} rows an update at {self.learning_rate:g}"
        return f"the median of the {len(self.updates_to_half)} reference models ({how}): {number}"


def packaged() -> Reference | None:
    """The reference models of this version; None where it has none."""
    place = files("holdfast.elasticity").joinpath("data/reference.json")
    return Reference.from_dict(read_json(str(place))) if place.is_file() else None
