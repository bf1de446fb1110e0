"""Splits that cannot leak: salted hashes of groups, and near-duplicates found before they mislead.

Knows: normalised text, groups, word shingles.
Does not know: what the texts ask for.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+", re.UNICODE)


def normalise_text(text: str) -> str:
    """Lower case, compatibility forms folded, words only, single spaces."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def split_by_group(
    texts: Sequence[str], groups: Sequence[str] | None = None, salt: str = "holdfast", share: float = 0.5
) -> tuple[list[int], list[int]]:
    """Indices of the *estimate* and the *evaluate* half.

    A text falls by the salted hash of its group's normalised text, so paraphrases and look-alikes that
    share a group stay together, and adding texts never moves the others.
    """
    estimate: list[int] = []
    evaluate: list[int] = []
    for index, key in enumerate(groups if groups is not None else texts):
        digest = hashlib.sha256(f"{salt}/{normalise_text(key)}".encode()).digest()
        side = estimate if int.from_bytes(digest[:8], "big") / 2**64 < share else evaluate
        side.append(index)
    return estimate, evaluate


def near_duplicates(
    texts: Sequence[str], against: Sequence[str], threshold: float = 0.8, width: int = 2
) -> list[tuple[int, int, float]]:
    """Pairs ``(i, j, similarity)`` where ``texts[i]`` nearly repeats ``against[j]`` (best match per i).

    Similarity is the Jaccard index of word shingles of ``width`` words (shorter texts: of words).
    """
    shingles_against = [_shingles(text, width) for text in against]
    holders: dict[str, list[int]] = defaultdict(list)
    for j, shingles in enumerate(shingles_against):
        for shingle in shingles:
            holders[shingle].append(j)
    found = []
    for i, text in enumerate(texts):
        shingles = _shingles(text, width)
        shared: dict[int, int] = defaultdict(int)
        for shingle in shingles:
            for j in holders.get(shingle, ()):
                shared[j] += 1
        scored = [(count / (len(shingles) + len(shingles_against[j]) - count), -j) for j, count in shared.items()]
        if scored and max(scored)[0] >= threshold:
            similarity, minus_j = max(scored)
            found.append((i, -minus_j, similarity))
    return found


def _shingles(text: str, width: int) -> set[str]:
    words = normalise_text(text).split()
    if len(words) < width:
        return set(words)
    return {" ".join(words[k : k + width]) for k in range(len(words) - width + 1)}
