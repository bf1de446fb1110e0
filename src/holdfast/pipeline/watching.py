"""A run in progress, read from the traces that it writes as it goes: nothing is asked of the run itself.

Knows: where `holdfast run` and `holdfast train` write, when each has ended. Does not know: how a line is shown.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import read_json
from holdfast.pipeline.folder import MANIFEST, RECIPE, STAGE_RECORD, SUMMARY
from holdfast.pipeline.training_folder import KIND, LOGS, RESULT
from holdfast.training.budget import DriftBudget
from holdfast.training.trace import read_lines

TRACE = "drift.jsonl"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Seen:
    """Something that happened.

    Attributes:
        who: the fine-tune, such as "guarded-0"; the stage, where ``row`` is None.
        row: a measurement of the monitor; None for a stage that was finished.
        first: the fine-tune's first measurement.
        budget: its limits, or None.
    """

    who: str
    row: dict[str, Any] | None = None
    first: dict[str, Any] | None = None
    budget: DriftBudget | None = None

    @property
    def used(self) -> float | None:
        """Largest share of a limit that is used."""
        if self.row is None or self.budget is None:
            return None
        return self.budget.used(self.row, self.first)


@dataclass
class Watch:
    """Looks again and again; what was told is not told twice.

    Args:
        folder: of a run or of a fine-tune, finished or not.

    Raises:
        UserError: neither.
    """

    folder: Path
    _told: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _stages: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            raise UserError(
                f"{self.folder}: no {MANIFEST} here; give the folder of a `holdfast run` or `holdfast train`"
            )
        self._alone = read_json(manifest).get("kind") == KIND
        self._budgets = self._read_budgets(manifest)

    @property
    def ended(self) -> bool:
        """Whether the run is done."""
        return (self.folder / (RESULT if self._alone else SUMMARY)).is_file()

    def news(self) -> list[Seen]:
        """What has happened since the last look, in order."""
        found = [seen for who, path in self._traces() for seen in self._lines(who, path)]
        stages = [] if self._alone else sorted(self.folder.glob(f"stages/*/{STAGE_RECORD}"), key=_when)
        fresh = [stage.parent.name for stage in stages if stage.parent.name not in self._stages]
        self._stages.update(fresh)
        return [*found, *map(Seen, fresh)]

    def follow(self, every_seconds: float = 2.0) -> Iterator[Seen]:
        """What happens, as it happens, until the run ends."""
        while True:
            ended = self.ended  # before the last look, so that nothing is missed
            yield from self.news()
            if ended:
                return
            time.sleep(every_seconds)

    def _traces(self) -> list[tuple[str, Path]]:
        if self._alone:
            return [("train", self.folder / LOGS / TRACE)]
        done = self.folder.glob(f"stages/train-*/{LOGS}/{TRACE}")
        places = {path: path.parents[1].name.removeprefix("train-") for path in done}
        places |= {path: path.parents[1].name for path in self.folder.glob(f"{UNFINISHED}/*/{LOGS}/{TRACE}")}
        return [(places[path], path) for path in sorted(places, key=_when)]

    def _lines(self, who: str, path: Path) -> Iterator[Seen]:
        try:
            rows = read_lines(path)
        except (UserError, OSError):  # it was moved to where finished stages are, or begins this moment
            return
        told = set(self._told.get(who, ()))
        for row in rows:
            if row["step"] not in told:
                yield Seen(who, row, rows[0], self._budgets.get(who))
        self._told[who] = tuple(row["step"] for row in rows)

    def _read_budgets(self, manifest: Path) -> dict[str, DriftBudget]:
        """Limits of each fine-tune, by the name it has here."""
        if self._alone:
            selection = read_json(manifest).get("settings", {}).get("selection") or {}
            limits = selection.get("budget")
            return {"train": DriftBudget(**limits)} if limits else {}
        from holdfast.pipeline.recipe_file import load_recipe

        recipe = load_recipe(self.folder / RECIPE)
        return {
            f"{arm.name}-{seed}": DriftBudget(**arm.budget.model_dump())
            for arm in recipe.arms
            if arm.budget is not None
            for seed in recipe.training.seeds
        }


def _when(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, str(path)
    except OSError:
        return 0.0, str(path)
