"""KL between a checkpoint and its parent, both ways, each along samples of its own first model.

Source: elasticity.md 3.2, T6: averaging one model's rows over the other's prefixes is another number.
Knows: how to stand in the parent model, sampling, the exact sum over each prefix's vocabulary.
Does not know: why the checkpoint moved.

Shapes: P prompts.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, undisturbed
from holdfast.data import Example
from holdfast.evaluation.behaviour import prompt_ids, sample_answers
from holdfast.models import Subject, adapter_off, kl_on_examples, log_probabilities

Prompts = Sequence[str] | Sequence[Sequence[int]]
Base = Callable[[], contextlib.AbstractContextManager[Subject]]


def pair(subject: Subject, base: Subject | None) -> Base:
    """A way to stand in the base model, which may be the same object with its adapter off.

    Raises:
        UserError: no base, and no adapter to switch off.
    """
    if base is None and not subject.has_adapter:
        raise UserError("base: none given and the subject has no adapter to switch off; give the base model")
    if base is None or base.model is subject.model:

        @contextlib.contextmanager
        def off() -> Iterator[Subject]:
            with adapter_off(subject.model):
                yield subject

        return off
    other = base

    @contextlib.contextmanager
    def separate() -> Iterator[Subject]:
        with undisturbed(other.model):
            yield other

    return separate


class Divergence:
    """KL to and from the base model, of a subject that may move between two questions.

    The base's own completions are drawn once. Prompts are read by the subject's tokenizer for both models.
    """

    def __init__(
        self,
        subject: Subject,
        run_base: Base,
        prompts: Prompts,
        max_new_tokens: int,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self._subject, self._run_base = subject, run_base
        self._sizes = (max_new_tokens, batch_size)
        self._asked = prompt_ids(subject, prompts, max_new_tokens)
        self._seed = seed
        self._theirs: list[Example] | None = None

    def to_base(self) -> np.ndarray:
        """KL(current ‖ base), nats a sequence, one a prompt, on completions sampled from the current model."""
        return self._kl(self._sample(self._subject, "current"), forward=True)

    def from_base(self) -> np.ndarray:
        """KL(base ‖ current), likewise, on the base model's completions."""
        if self._theirs is None:
            with self._run_base() as model:
                self._theirs = self._sample(model, "base")
        return self._kl(self._theirs, forward=False)

    def _sample(self, model: Subject, who: str) -> list[Example]:
        stream = derive_seed(self._seed, "elasticity", who)
        new, batch = self._sizes
        return sample_answers(model, self._asked, new, seed=stream, batch_size=batch, name=who)

    def _kl(self, examples: Sequence[Example], forward: bool) -> np.ndarray:
        subject = self._subject
        current = log_probabilities(subject.model)
        with self._run_base() as model:
            based = log_probabilities(model.model, self._run_base)
        sides = (current, based) if forward else (based, current)
        with undisturbed(subject.model):
            kl_P, _ = kl_on_examples(*sides, examples, subject.pad_id, subject.device, self._sizes[1])
        return kl_P
