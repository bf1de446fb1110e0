"""Floor 1: a sample's walk begins here. Row → Example → Batch; splits that cannot leak."""

from holdfast.data.batches import Batch, batches, collate
from holdfast.data.encode import encode_prompt, encode_rows, read_examples
from holdfast.data.example import BadRow, Example, Examples
from holdfast.data.keys import row_key
from holdfast.data.packing import pack, unpacked
from holdfast.data.splits import near_duplicates, normalise_text, split_by_group

__all__ = [
    "BadRow",
    "Batch",
    "Example",
    "Examples",
    "batches",
    "collate",
    "encode_prompt",
    "encode_rows",
    "near_duplicates",
    "normalise_text",
    "pack",
    "read_examples",
    "row_key",
    "split_by_group",
    "unpacked",
]
