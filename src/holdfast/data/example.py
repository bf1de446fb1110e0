"""The unit of everything numeric: token ids, of which a stretch carries the loss.

Knows: ids and masks. Does not know: text, tokenizers, files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from holdfast.core.errors import UserError
from holdfast.data.keys import short_hash


@dataclass(frozen=True)
class Example:
    """One training or evaluation sequence.

    Attributes:
        prompt_ids: what the model reads first; never carries loss.
        completion_ids: what the loss covers (with ``completion_mask``: the part of it that is True).
        id: stable name of the row.
        completion_mask: per completion id, whether it carries loss; None means all of them. Needed where
            several assistant turns alternate with user turns.
        row: position of its source row among all records of its source, from 0; None where there is no source.
        row_hash: :func:`holdfast.data.row_key` of that row; "" where there is none. Several examples of one row
            (a conversation trained turn by turn) share both.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    id: str = ""
    completion_mask: tuple[bool, ...] | None = None
    row: int | None = field(default=None, compare=False)
    row_hash: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", tuple(self.prompt_ids))
        object.__setattr__(self, "completion_ids", tuple(self.completion_ids))
        if self.completion_mask is not None and len(self.completion_mask) != len(self.completion_ids):
            raise ValueError(f"example {self.id}: mask and completion differ in length")

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Prompt and completion, in order."""
        return self.prompt_ids + self.completion_ids

    @property
    def loss_mask(self) -> tuple[bool, ...]:
        """Per input id, whether it carries loss. The very first id never does: nothing predicts it."""
        completion = self.completion_mask or (True,) * len(self.completion_ids)
        mask = (False,) * len(self.prompt_ids) + tuple(completion)
        return (False, *mask[1:]) if mask else ()

    @property
    def content_hash(self) -> str:
        """16 hex digits over the token ids and the loss mask: equal for equal sequences, whatever their names."""
        return short_hash(repr((self.input_ids, tuple(map(int, self.loss_mask)))))

    @property
    def completion_tokens(self) -> int:
        """Number of ids that carry loss."""
        return sum(self.loss_mask)


class BadRowError(UserError):
    """Why one row cannot be used; whoever reads rows adds the place, or lists it among ``bad_rows``."""


@dataclass(frozen=True)
class BadRow:
    """A row that could not be used, and why."""

    where: str
    reason: str


class Examples(Sequence[Example]):
    """A sequence of examples that remembers what was left out on the way in.

    Attributes:
        bad_rows: rows skipped on request, with reasons.
        truncated: ids of examples cut at ``max_length``.
        source: where they came from.
        dropped: ids of rows whose prompt alone fills ``max_length``, so that nothing is left to learn.
        left_out: :func:`holdfast.data.row_key` of the readable rows among those skipped or dropped.
        recognised: one line on how the rows were understood.
        notes: what else a reader should know (an encoding guessed, ids made unique, ...), one line each.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        bad_rows: Sequence[BadRow] = (),
        truncated: Sequence[str] = (),
        source: str = "",
        dropped: Sequence[str] = (),
        recognised: str = "",
        notes: Sequence[str] = (),
        left_out: Sequence[str] = (),
    ) -> None:
        self._examples = tuple(examples)
        self.bad_rows = tuple(bad_rows)
        self.truncated = tuple(truncated)
        self.source = source
        self.dropped = tuple(dropped)
        self.recognised = recognised
        self.notes = tuple(notes)
        self.left_out = tuple(left_out)

    @property
    def rendering_hash(self) -> str:
        """SHA-256 over the token ids and masks of all examples, in order: what was rendered, exactly."""
        return hashlib.sha256("".join(example.content_hash for example in self).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: int | slice) -> "Example | Examples":
        if isinstance(index, slice):
            return Examples(
                self._examples[index], source=self.source, recognised=self.recognised, notes=self.notes
            )
        return self._examples[index]

    def __repr__(self) -> str:
        return (
            f"Examples({len(self)} from {self.source or 'memory'}, {len(self.bad_rows)} bad rows skipped, "
            f"{len(self.truncated)} truncated, {len(self.dropped)} dropped)"
        )
