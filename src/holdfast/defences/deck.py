"""A deck of remembered answers: which of them an update looks at, prompt by prompt.

Knows: stratified draws that resume from one number. Does not know: what is done with what is drawn.
"""

from typing import Any

import torch

from holdfast.core.defence import Defence
from holdfast.core.seeds import generator


class Deck:
    """Every prompt once, in random order, before any twice; samples of a prompt take turns.

    Attributes:
        drawn: so far; all that a checkpoint needs.
    """

    def __init__(self, examples: int, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.prompts = examples // samples
        self.drawn = 0
        self._round: tuple[int, list[int]] = (-1, [])

    def draw(self, count: int) -> list[int]:
        """Numbers of the next ``count`` examples."""
        rows = [self._row(self.drawn + k) for k in range(count)]
        self.drawn += count
        return rows

    def _row(self, number: int) -> int:
        turn, place = divmod(number, self.prompts)
        if self._round[0] != turn:
            order = torch.randperm(self.prompts, generator=generator(self.seed, "round", turn))
            self._round = (turn, order.tolist())
        return self._round[1][place] * self.samples + turn % self.samples


class FromDeck(Defence):
    """A defence that must remember nothing but how far its deck is drawn; ``begin`` makes the deck."""

    _deck: Deck | None = None

    @property
    def state(self) -> dict[str, Any]:
        """How far the draws are."""
        return {"drawn": self._deck.drawn} if self._deck is not None else {}

    @state.setter
    def state(self, found: dict[str, Any]) -> None:
        assert self._deck is not None
        self._deck.drawn = int(found["drawn"])
