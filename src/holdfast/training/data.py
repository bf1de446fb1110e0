"""Training data for TRL from examples that are already tokenised, templated and masked.

Knows: how an Example becomes a row with labels; how a row's number travels with it through the collator.
Does not know: templates, tokenizers (data/ has done that), models.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.data.batches import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = "sample_index"


def dataset_from_examples(examples: Sequence[Example]) -> "Dataset":
    """Rows of ``id``, ``input_ids`` and ``labels`` (-100 where a token carries no loss).

    TRL takes ``labels`` as they are, so the loss covers exactly the tokens that :attr:`Example.loss_mask` names,
    in conversations of several turns as well; there is no second tokenisation and no second masking.

    Raises:
        UserError: no examples, or one without a completion token.
    """
    from datasets import Dataset

    if not len(examples):
        raise UserError("no examples to train on; read a data set with at least one row")
    for example in examples:
        if not example.completion_tokens:
            raise UserError(f"example '{example.id}': no completion token to learn from; leave it out")
    return Dataset.from_dict(
        {
            "id": [example.id for example in examples],
            "input_ids": [list(example.input_ids) for example in examples],
            "labels": [labels(example) for example in examples],
        }
    )


def labels(example: Example) -> list[int]:
    """Token ids where the loss looks, -100 elsewhere."""
    pairs = zip(example.input_ids, example.loss_mask, strict=True)
    return [token if scored else IGNORED for token, scored in pairs]


def are_examples(dataset: Any) -> bool:
    """Whether ``dataset`` is a sequence of Examples."""
    return (
        isinstance(dataset, Sequence)
        and not isinstance(dataset, str)
        and len(dataset) > 0
        and isinstance(dataset[0], Example)
    )


class NumberedCollator:
    """Any collator, with the number of each row added as ``sample_index`` (B) when the rows carry one."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [row.get(SAMPLE) for row in rows]
        batch = self.collate([{key: row[key] for key in row if key != SAMPLE} for row in rows])
        if all(number is not None for number in numbers):
            batch[SAMPLE] = torch.tensor(numbers, dtype=torch.long)
        return batch
