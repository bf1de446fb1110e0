"""Task skill: prompts with known answers, and the metrics that compare a response with an answer.

Knows: exact match, numbers, token F1, ROUGE-L. Does not know: models, safety.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data import Example, normalise_text

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact_match(response: str, answer: str) -> float:
    """1 if equal but for case, white space, Unicode form and a final full stop."""
    return float(_plain(response) == _plain(answer))


def numeric(response: str, answer: str) -> float:
    """1 if the final numbers agree to 1e-6 relative (what follows ``####`` if present, else the last number)."""
    found, wanted = final_number(response), final_number(answer)
    if found is None or wanted is None:
        return 0.0
    return float(abs(found - wanted) <= 1e-6 * max(1.0, abs(wanted)))


def final_number(text: str) -> float | None:
    """The number an answer ends on (GSM8K writes ``#### 18``); thousands separators are dropped."""
    numbers = _NUMBER.findall(text.rsplit("####", 1)[-1]) if "####" in text else _NUMBER.findall(text)
    if not numbers:
        return None
    return float((numbers[0] if "####" in text else numbers[-1]).replace(",", ""))


def token_f1(response: str, answer: str) -> float:
    """Harmonic mean of word precision and recall, words counted with multiplicity (SQuAD's F1)."""
    found, wanted = Counter(normalise_text(response).split()), Counter(normalise_text(answer).split())
    return _f1(sum((found & wanted).values()), sum(found.values()), sum(wanted.values()))


def rouge_l(response: str, answer: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, beta 1, no stemming)."""
    found, wanted = normalise_text(response).split(), normalise_text(answer).split()
    return _f1(longest_common_subsequence(found, wanted), len(found), len(wanted))


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def _f1(common: int, found: int, wanted: int) -> float:
    if found == 0 and wanted == 0:
        return 1.0
    return 2 * common / (found + wanted)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).rstrip(".").rstrip()


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "numeric": numeric,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
}


@dataclass(frozen=True)
class Task:
    """A task to score: greedy responses to ``prompts`` against ``answers``.

    Attributes:
        name: used in files and tables.
        prompts, answers: one answer a prompt.
        metric: "exact_match", "numeric", "token_f1" or "rouge_l".
        examples: held-out examples for the task loss; None encodes prompts and answers themselves.
        max_new_tokens: of a response.
    """

    name: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    metric: str = "exact_match"
    examples: tuple[Example, ...] | None = field(default=None, repr=False)
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        object.__setattr__(self, "answers", tuple(self.answers))
        if self.examples is not None:
            object.__setattr__(self, "examples", tuple(self.examples))
        if self.metric not in METRICS:
            raise UserError(f"task '{self.name}': metric '{self.metric}' unknown; use one of {', '.join(METRICS)}")
        if len(self.prompts) != len(self.answers):
            raise UserError(
                f"task '{self.name}': {len(self.prompts)} prompts but {len(self.answers)} answers; give one each"
            )

    @classmethod
    def from_rows(cls, name: str, rows: Iterable[Mapping[str, Any]], **options: Any) -> "Task":
        """From rows with ``prompt`` and ``completion`` (or ``answer``)."""
        rows = list(rows)
        try:
            answers = [row["completion"] if "completion" in row else row["answer"] for row in rows]
            return cls(name, tuple(row["prompt"] for row in rows), tuple(answers), **options)
        except KeyError as error:
            raise UserError(f"task '{name}': a row lacks {error}; rows need 'prompt' and 'completion'") from None

    def score(self, response: str, answer: str) -> float:
        """The metric, in [0, 1]."""
        return METRICS[self.metric](response, answer)
