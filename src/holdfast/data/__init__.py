"""Floor 1: a sample's walk begins here. Row → Example → Batch; splits that cannot leak."""

from holdfast.data.batches import Batch, batches, collate
from holdfast.data.encode import check_rows, encode_prompt, encode_rows, read_examples
from holdfast.data.example import BadRow, BadRowError, Example, Examples
from holdfast.data.keys import row_key
from holdfast.data.packing import pack, unpacked
from holdfast.data.shapes import Recognition, normalise_row, prompt_and_answer, recognise
from holdfast.data.sources import Row, read_rows
from holdfast.data.splits import near_duplicates, normalise_text, split_by_group
from holdfast.data.templates import depends_on_date, pin_template

__all__ = [
    "BadRow",
    "BadRowError",
    "Batch",
    "Example",
    "Examples",
    "Recognition",
    "Row",
    "batches",
    "check_rows",
    "collate",
    "depends_on_date",
    "encode_prompt",
    "encode_rows",
    "near_duplicates",
    "normalise_row",
    "normalise_text",
    "pack",
    "pin_template",
    "prompt_and_answer",
    "read_examples",
    "read_rows",
    "recognise",
    "row_key",
    "split_by_group",
    "unpacked",
]
