"""A judge against labelled items: confusion, accuracy, recalls, flips, with intervals, by kind and language.

Knows: labelled items (prompt, response, label, kind, language, clear) and judges.
Does not know: where the items come from. No single item is shown: a held-out part may be counted, not read.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.statistics import Interval, wilson
from holdfast.evaluation.judges.base import Judge, Verdict, judge_all

TRUE_LABELS = ("refused", "complied", "unclear")
Part = Literal["ordinary", "hard", "hard_second", "real", "real_closed"]
_LABELLED = Path(__file__).parent.parent / "labelled"
GIVEN_LABELS = (*TRUE_LABELS, "error")


@dataclass(frozen=True)
class LabelledItem(Result):
    """One response with the label that the rules give it."""

    id: str
    prompt: str
    response: str
    label: str
    kind: str
    language: str
    clear: bool = True


@dataclass(frozen=True)
class Share(Result):
    """Right verdicts among the items of a group."""

    right: int
    items: int


@dataclass(frozen=True)
class JudgeReport(Result):
    """A judge against labels. An error counts as wrong."""

    confusion: dict[str, dict[str, int]]
    """True label -> given label -> number of items."""
    accuracy: Interval
    recall_refused: Interval
    recall_complied: Interval
    recall_unclear: Interval
    flips: Interval
    """Refused called complied or complied called refused, among the clear items that are one of the two."""
    undecided: Interval
    """Called unclear, among the clear items that are refused or complied."""
    by_kind: dict[str, Share]
    by_language: dict[str, Share]
    precision: dict[str, Interval] = field(default_factory=dict)
    """Given label -> share of its items that have it."""

    def __str__(self) -> str:
        rows = [f"{'':10}" + "".join(f"{given:>10}" for given in GIVEN_LABELS)]
        rows += [f"{true:10}" + "".join(f"{n:>10}" for n in row.values()) for true, row in self.confusion.items()]
        rows += [f"accuracy {self.accuracy}", f"recall of refused {self.recall_refused}"]
        rows += [f"recall of complied {self.recall_complied}", f"flips {self.flips}"]
        rows += [f"clear ones called unclear {self.undecided}"]
        rows += [f"precision of {label} {interval}" for label, interval in self.precision.items()]
        return "\n".join(rows)


def labelled_items(part: Part) -> tuple[LabelledItem, ...]:
    """Read a part of the labelled set. A closed part stays closed while a detector is written or tuned.

    Raises:
        UserError: an unknown part.
    """
    parts = get_args(Part)
    if part not in parts:
        raise UserError(f"the labelled set has the parts {', '.join(parts)}, not {part!r}")
    lines = (_LABELLED / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(LabelledItem.from_dict(json.loads(line)) for line in lines)


def judge_report(judge: Judge, items: Iterable[LabelledItem]) -> JudgeReport:
    """Judge every item and compare.

    Raises:
        UserError: an item whose label is none of refused, complied, unclear.
    """
    listed = tuple(items)
    for item in listed:
        if item.label not in TRUE_LABELS:
            raise UserError(f"item {item.id} has the label {item.label!r}; use one of {', '.join(TRUE_LABELS)}")
    verdicts = judge_all(judge, [i.prompt for i in listed], [i.response for i in listed], progress=False)
    return compare(listed, verdicts)


def compare(items: Sequence[LabelledItem], verdicts: Sequence[Verdict]) -> JudgeReport:
    """Compare verdicts with labels, in order."""
    cells = Counter((item.label, verdict.label) for item, verdict in zip(items, verdicts, strict=True))
    right = [item.label == verdict.label for item, verdict in zip(items, verdicts, strict=True)]
    sides = ("refused", "complied")
    clear = [(i.label, v.label) for i, v in zip(items, verdicts, strict=True) if i.clear and i.label in sides]
    recalls = [wilson(cells[label, label], sum(i.label == label for i in items)) for label in TRUE_LABELS]
    given_so = {given: sum(cells[true, given] for true in TRUE_LABELS) for given in TRUE_LABELS}
    precision = {given: wilson(cells[given, given], count) for given, count in given_so.items()}
    return JudgeReport(
        {true: {given: cells[true, given] for given in GIVEN_LABELS} for true in TRUE_LABELS},
        wilson(sum(right), len(right)),
        recalls[0],
        recalls[1],
        recalls[2],
        wilson(sum(set(couple) == set(sides) for couple in clear), len(clear)),
        wilson(sum(given == "unclear" for _, given in clear), len(clear)),
        _shares([item.kind for item in items], right),
        _shares([item.language for item in items], right),
        precision,
    )


def _shares(groups: Sequence[str], right: Sequence[bool]) -> dict[str, Share]:
    counted, hit = Counter(groups), Counter(g for g, good in zip(groups, right, strict=True) if good)
    return {group: Share(hit[group], counted[group]) for group in sorted(counted)}
