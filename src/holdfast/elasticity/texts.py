"""Code length of raw text: bits a token and a byte, in windows, every token scored once.

Source: elasticity.md 1.4, 3.2. The sum is the one behind lm-evaluation-harness's perplexities (rolling windows).
Bits a byte alone may be compared between tokenizers; between checkpoints of one model either may.

Knows: a stream of documents, read in blocks: three numbers a document are kept, nothing else. Does not know:
windows and likelihoods (evaluation/suites/perplexity.py, models/likelihood.py).

Shapes: N documents.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.statistics import Interval, bootstrap_ratio
from holdfast.elasticity.coefficients import DRAWS
from holdfast.evaluation.suites import read_texts
from holdfast.models import Subject

BLOCK = 64  # documents read at a time


@dataclass(frozen=True)
class CodeLength(Result):
    """Bits, tokens and UTF-8 bytes of every document, in order."""

    bits: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]

    @property
    def bits_per_token(self) -> Interval:
        """Token-weighted, with a bootstrap over documents."""
        return bootstrap_ratio(self.bits, self.tokens, 0, DRAWS)

    @property
    def bits_per_byte(self) -> Interval:
        """Of the same bits; the one to compare between tokenizers."""
        return bootstrap_ratio(self.bits, self.bytes, 0, DRAWS)


def code_length(
    subject: Subject, documents: Iterable[str], *, window: int | None = None, batch_size: int = 16
) -> CodeLength:
    """Read a stream of documents, each scored on its own.

    Args:
        documents: any number of them; a generator is read as it goes.
        window: tokens that share a context; None asks the model.

    Raises:
        UserError: no documents, an empty one, no tokenizer.
    """
    stream, parts = iter(documents), []
    while block := list(islice(stream, BLOCK)):
        parts.append(read_texts(subject, block, batch_size, window))
    if not parts:
        raise UserError("texts: no documents; give at least one")
    nats, tokens, length = (
        tuple(chain.from_iterable(getattr(part, name) for part in parts)) for name in ("nats", "tokens", "bytes")
    )
    return CodeLength(tuple(n / math.log(2) for n in nats), tokens, length)
