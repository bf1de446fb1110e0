"""A run folder as it is told: its summary, and what lies beside it: answers side by side, rows with their place.

Knows: that ``summary.json`` names the files it speaks of. Does not know: HTML, pictures.

A file that is missing leaves its chapter out; the summary alone is enough for a page.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from holdfast.core.errors import UserError
from holdfast.core.files import read_json
from holdfast.report.judgement import is_gate
from holdfast.report.plain import one_line, shown

SUMMARY, GATE_FILES = "summary.json", "gate*.json"
T = TypeVar("T")
ROW_LIMIT = 400  # characters of a training row
KINDS = {"harmful": "must be refused", "benign": "must not be refused", "task": "task"}
REASONS = {
    "kept": "kept",
    "g_high": "gradient too large",
    "g_low": "gradient too small",
    "loss_high": "loss too high",
    "loss_low": "loss too low",
}


@dataclass(frozen=True)
class Answer:
    """One model's answer to a prompt; ``text`` is safe to show, None where it is the aligned model's own, word for
    word."""

    name: str
    label: str
    verdict: str
    text: str | None
    changed: bool


@dataclass(frozen=True)
class Asked:
    """A prompt with every model's answer, the aligned model's first."""

    prompt: str
    kind: str
    attack: str
    answers: tuple[Answer, ...]

    @property
    def changed(self) -> int:
        """Models whose verdict is another one than the aligned model's."""
        return sum(answer.changed for answer in self.answers)

    @property
    def size(self) -> int:
        """Characters on the page, about."""
        return len(self.prompt) + sum(len(a.text or "") + 120 for a in self.answers)


@dataclass(frozen=True)
class TrainingRow:
    """A scored training row, with its place in the user's own file."""

    where: str
    grad_norm: float | None
    loss_nats: float | None
    tokens: int | None
    fate: str
    used: tuple[tuple[str, int], ...]
    text: str


@dataclass(frozen=True)
class Story:
    """One run.

    Attributes:
        folder: of the run. summary: ``summary.json``.
        gates: what ``holdfast gate RUN --json`` printed, kept beside it as ``gate.json`` or ``gate-NAME.json``.
    """

    folder: Path
    summary: Mapping[str, Any]
    gates: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, folder: str | Path) -> "Story":
        """Read a run folder.

        Raises:
            UserError: it holds no ``summary.json``, or one of another kind.
        """
        folder = Path(folder)
        summary = read_json(folder / SUMMARY)
        if not isinstance(summary, dict) or not isinstance(summary.get("rows"), list):
            raise UserError(f"{folder / SUMMARY}: not the summary of a run; give the folder of `holdfast run`")
        gates = [read_json(path) for path in sorted(folder.glob(GATE_FILES))]
        return cls(folder, summary, tuple(gate for gate in gates if is_gate(gate)))

    def asked(self) -> list[Asked]:
        """Prompts with all answers (of the first seed), those on which verdicts differ first."""
        from holdfast.evaluation.scorecard import ResponseRow, Scorecard

        tables: list[tuple[str, str, dict[Any, ResponseRow]]] = []
        for row in self.summary["rows"]:
            folder = self._inside((row.get("cards") or [None])[0])
            if folder is not None and (folder / "scorecard.json").is_file():
                tables.append((row["name"], row["label"], _by_place(Scorecard.load(folder).rows)))
        if not tables:
            return []
        found = []
        for place, first in tables[0][2].items():
            answers = tuple(
                _answer(name, label, row, first, name == tables[0][0])
                for name, label, rows in tables
                if (row := rows.get(place)) is not None
            )
            found.append(Asked(one_line(first.prompt, 600), first.kind, one_line(first.attack, 80), answers))
        order = list(KINDS)
        return sorted(found, key=lambda a: (not a.changed, bool(a.attack), order.index(a.kind), -a.changed))

    def training_rows(self) -> list[TrainingRow]:
        """Scored rows, those that pull hardest on the model first."""
        scores = self.summary.get("scores") or {}
        files = scores.get("files") or {}
        if not scores.get("id") or not files:
            return []
        rows_file, places_file = self._inside(files["rows"]), self._inside(files["places"])
        texts, places = _texts(rows_file), _places(places_file, files["key"])
        used = {
            trace["arm"]: trace["kept"]["used"]
            for trace in reversed(self.summary.get("drift_traces") or [])
            if trace.get("kept")
        }
        found = []
        for k, name in enumerate(scores["id"]):
            position = scores["row"][k] if scores.get("row") else None
            place = None if position is None else places.get(position)
            found.append(
                TrainingRow(
                    one_line(place[0] if place else name, 200),
                    scores["grad_norm"][k],
                    scores["loss_nats"][k],
                    scores["tokens"][k],
                    REASONS.get(reason := (scores.get("reasons") or [""] * (k + 1))[k], str(reason)),
                    tuple((arm, counts.get(name, 0)) for arm, counts in used.items()),
                    texts[place[1]] if place and place[1] < len(texts) else "",
                )
            )
        return sorted(found, key=lambda row: -(row.grad_norm or 0.0))

    def _inside(self, name: str | None) -> Path | None:
        """A file or folder of this run; None for one that lies outside."""
        if not name:
            return None
        path = self.folder / name
        return path if path.resolve().is_relative_to(self.folder.resolve()) else None


def fitting(things: Iterable[T], characters: int, size: Callable[[T], int]) -> tuple[list[T], int]:
    """As many as fit, in order, and how many did not."""
    kept, left, room = [], 0, characters
    for thing in things:
        room -= size(thing)
        if room >= 0:
            kept.append(thing)
        else:
            left += 1
    return kept, left


def _by_place(rows: Iterable[Any]) -> dict[Any, Any]:
    """By suite, kind, attack and prompt; a prompt that is asked several times by its turn."""
    counts: dict[Any, int] = defaultdict(int)
    found = {}
    for row in rows:
        key = (row.suite, row.kind, row.attack, row.prompt)
        found[(*key, counts[key])] = row
        counts[key] += 1
    return found


def _answer(name: str, label: str, row: Any, first: Any, is_first: bool) -> Answer:
    same = not is_first and row.response == first.response
    changed = not is_first and (row.label, row.score) != (first.label, first.score)
    return Answer(name, label, _said(row), None if same else shown(row.response), changed)


def _said(row: Any) -> str:
    if row.kind != "task":
        return str(row.label)
    return {1.0: "right", 0.0: "wrong"}.get(row.score, "-" if row.score != row.score else f"score {row.score:.2f}")


def _places(path: Path | None, key: str) -> dict[int, tuple[str, int]]:
    """Position in the source to its place in words and its line among the rows that were kept."""
    if path is None or not path.is_file():
        return {}
    return {position: (where, line) for line, (where, position) in enumerate(read_json(path).get(key, []))}


def _texts(path: Path | None) -> list[str]:
    if path is None or not path.is_file():
        return []
    return [_row_text(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _row_text(row: Mapping[str, Any]) -> str:
    if "prompt" in row and "completion" in row:
        return f"{_flat(row['prompt'])} → {_flat(row['completion'])}"
    return _flat(row.get("messages") or row.get("text") or row)


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return " → ".join(_flat(item.get("content") if isinstance(item, dict) else item) for item in value)
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), ROW_LIMIT)
