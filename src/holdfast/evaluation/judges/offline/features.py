"""What the model sees of a pair: hashed n-grams by field, and the measures of signals.py.

Knows: words, characters and concepts in sequence; the hash that gives every n-gram its bucket.
Does not know: the weights of a bucket.
"""

import re
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from holdfast.evaluation.judges.offline import signals
from holdfast.evaluation.judges.offline.rules import Reading
from holdfast.evaluation.judges.offline.text import sentences

BUCKETS = 2**16
FIELDS = (
    "words",
    "first",
    "last",
    "letters",
    "prompt",
    "opening",
    "said",
    "said first",
    "said last",
    "asked",
    "pair",
)
READ = 6000  # characters that are read of a text: of a longer one the beginning and the end
_SEED = {field: zlib.crc32(field.encode()) for field in FIELDS}


@dataclass(frozen=True)
class Features:
    """Sorted distinct buckets for every field of FIELDS, and measures by name."""

    buckets: tuple[np.ndarray, ...]
    measures: dict[str, float]


def features(reading: Reading) -> Features:
    """Look at a pair as the rules have read it."""
    reading = replace(reading, prompt=_ends(reading.prompt), text=_ends(reading.text))
    said = signals.concepts_of(reading)
    parts = sentences(reading.text) or [""]
    found, asked = signals.tokens(reading.text), signals.tokens(reading.prompt)
    flat = {concept for sentence in said.sentences for word in sentence for concept in word}
    wanted = {concept for word in said.prompt for concept in word} | set(signals.asked_for(reading.ask))
    fields = {
        "words": grams(found, 3),
        "first": grams(["^", *signals.tokens(parts[0]), "$"], 2),
        "last": grams(["^", *signals.tokens(parts[-1]), "$"], 2),
        "letters": letters(reading.text),
        "prompt": grams(["^", *asked, "$"], 2),
        "opening": [" ".join(asked[:size]) for size in (1, 2, 3)],
        "said": [gram for sentence in said.sentences for gram in concept_grams(sentence)],
        "said first": concept_grams(said.sentences[0]),
        "said last": concept_grams(said.sentences[-1]),
        "asked": concept_grams(said.prompt),
        "pair": [f"{one}>{other}" for one in wanted for other in flat],
    }
    return Features(tuple(buckets(field, fields[field]) for field in FIELDS), signals.measures(reading, said))


def buckets(field: str, found: list[str]) -> np.ndarray:
    """The buckets of a field's n-grams; the field's name is part of the hash."""
    seed = _SEED[field]
    return np.array(
        sorted({zlib.crc32(gram.encode("utf-8", "replace"), seed) % BUCKETS for gram in found}), np.int64
    )


def _ends(text: str) -> str:
    return text if len(text) <= READ else f"{text[: READ // 2]} {text[-READ // 2 :]}"


def grams(found: list[str], longest: int) -> list[str]:
    """Words, pairs of words, ... up to ``longest`` words."""
    return [
        " ".join(found[at : at + size]) for size in range(1, longest + 1) for at in range(len(found) - size + 1)
    ]


def letters(text: str) -> list[str]:
    """Three to five letters in a row, with the edges of words as blanks."""
    found: set[str] = set()
    for word in set(re.sub(r"\d", "0", text).split()):
        edged = f" {word[:40]} "
        found |= {edged[at : at + size] for size in (3, 4, 5) for at in range(len(edged) - size + 1)}
    return sorted(found)


def concept_grams(sentence: list[tuple[str, ...]]) -> list[str]:
    """Concepts, pairs and triples of them in order; words without a concept are stepped over."""
    stated = [word for word in sentence if word]
    found = [concept for word in stated for concept in word]
    found += [f"{a} {b}" for one, two in pairwise(stated) for a in one for b in two]
    for one, two, three in zip(stated, stated[1:], stated[2:], strict=False):
        found += [f"{a} {b} {c}" for a in one[:2] for b in two[:2] for c in three[:2]]
    return found
