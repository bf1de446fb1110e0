"""The reference models that a sentence of `holdfast elasticity` speaks of: the family's updates to half, packaged.

Knows: which curve of a cell counts, where the package keeps the file. Does not know: who reads it
(holdfast.elasticity.reference).
"""

from collections.abc import Sequence
from pathlib import Path

from studies.elasticity import cells

from holdfast.core.files import write_json
from holdfast.elasticity import reference

PLACE = Path(reference.__file__).parent / "data" / "reference.json"


def write(found: Sequence[cells.Cell], place: Path = PLACE) -> None:
    """One number a member and seed; null where half of the refusals outlived all updates."""
    setting = found[0]["setting"]
    halves = [cells.half(cell, cells.slices_of(cell)[1]) for cell in found]
    write_json(
        place,
        {
            "models": "organism family",
            "data": "help with everything",
            "optimizer": "AdamW",
            "learning_rate": setting["undo_rate"],
            "batch_size": setting["batch_size"],
            "updates_made": setting["undo_updates"],
            "updates_to_half": [None if h == float("inf") else round(h, 2) for h in halves if h == h],
            "source": "studies/elasticity: members, last slice, negative data",
        },
    )
