"""Published prompt lists by name: ``advbench``, ``jailbreakbench``, ``strongreject``, ``xstest``, ``harmbench``.

Knows: where each is kept, its licence, its columns, which part is harmful.
Does not know: how rows become prompts (prompt_lists.py). Nothing of any list comes with the package.

A list is read from a local folder if one is named (``advbench@FOLDER``, or HOLDFAST_PROMPTS in the environment):
a folder or a file in it has the list's name. Otherwise from the hub.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from holdfast.core.errors import UserError
from holdfast.data.sources import hub_problem

Side = Literal["harmful", "benign"]
FOLDER = "HOLDFAST_PROMPTS"
_READABLE = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")


@dataclass(frozen=True)
class PromptSet:
    """One published list.

    Attributes:
        hub, config, split: of the data set on the hub.
        licence, source: to be quoted with it.
        gated: whether the hub asks for an account that accepted its terms.
        column: that holds the prompts.
        sides: what the list has of each side: a split or a file of its own, or a label.
    """

    name: str
    hub: str
    licence: str
    source: str
    column: str
    gated: bool
    sides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config: str | None = None
    split: str = "train"

    def label(self, side: Side) -> str:
        """The selection ("label=safe") that gives one side; "" where the whole list is of it.

        Raises:
            UserError: the list has no such prompts.
        """
        if side not in self.sides:
            others = ", ".join(sorted(name for name, known in PROMPT_SETS.items() if side in known.sides))
            raise UserError(f"{self.name}: has no {side} prompts; sets that have some: {others}")
        return self.sides[side].get("label", "")

    def rows(self, side: Side, folder: str | Path | None = None) -> tuple[str, Any]:
        """Where the rows are, for people, and what :func:`holdfast.data.sources.read_rows` takes.

        Args:
            folder: a local folder that has the list; None asks the environment, then the hub.

        Raises:
            UserError: not in that folder; not on the hub, or the hub cannot be reached.
        """
        file = self.local(side, folder)
        if file is not None:
            return str(file), file
        return f"{self.hub} ({self.licence})", self._download(self.sides[side].get("split", self.split))

    def local(self, side: Side, folder: str | Path | None = None) -> Path | None:
        """The file of a local copy; None where no folder is named.

        Raises:
            UserError: the list has no such prompts; it is not in that folder.
        """
        self.label(side)
        place = folder or os.environ.get(FOLDER)
        return self._local(Path(place).expanduser(), side) if place else None

    def _local(self, folder: Path, side: Side) -> Path:
        inside = folder / self.name
        found = [inside.with_suffix(suffix) for suffix in _READABLE if inside.with_suffix(suffix).is_file()]
        places = [inside] if inside.is_dir() else [folder] if folder.name == self.name and folder.is_dir() else []
        for place in places:
            files = sorted(path for path in place.iterdir() if path.suffix.lower() in _READABLE)
            found += [
                path for path in files if path.stem.lower() not in ("source", "readme", "license", "licence")
            ]
        mark = self.sides[side].get("file")
        if mark is not None:
            found = [path for path in found if mark in path.stem.lower()]
        if len(found) != 1:
            what = "no file" if not found else f"{len(found)} files ({', '.join(path.name for path in found)})"
            raise UserError(
                f"{folder}: {what} with the {side} prompts of {self.name}; put one into {self.name}/, name the "
                f"file itself, or unset {FOLDER} to read {self.hub} from the hub"
            )
        return found[0]

    def _download(self, split: str) -> list[dict[str, Any]]:
        from datasets import load_dataset

        try:
            return [dict(row) for row in load_dataset(self.hub, self.config, split=split)]  # type: ignore[arg-type]
        except Exception as error:  # the hub client raises many kinds; all of them are the user's to mend
            raise UserError(
                f"{self.name}: {self.hub} {hub_problem(error)}; or keep a copy and name its folder: "
                f"{self.name}@FOLDER or {FOLDER}=FOLDER"
            ) from error


_ALL_HARMFUL: Mapping[str, Mapping[str, str]] = {"harmful": {}}
_HALVES = {side: {"split": side, "file": side} for side in ("harmful", "benign")}
_LABELS = {"harmful": {"label": "label=unsafe"}, "benign": {"label": "label=safe"}}
PROMPT_SETS: Mapping[str, PromptSet] = {
    known.name: known
    for known in (
        PromptSet(
            "advbench",
            "walledai/AdvBench",
            "MIT",
            "Zou et al. 2023, arXiv:2307.15043",
            "prompt",
            True,
            _ALL_HARMFUL,
        ),
        PromptSet(
            "harmbench",
            "walledai/HarmBench",
            "MIT",
            "Mazeika et al. 2024, arXiv:2402.04249",
            "prompt",
            True,
            _ALL_HARMFUL,
            config="standard",
        ),
        PromptSet(
            "jailbreakbench",
            "JailbreakBench/JBB-Behaviors",
            "MIT",
            "Chao et al. 2024, arXiv:2404.01318",
            "Goal",
            False,
            _HALVES,
            config="behaviors",
        ),
        PromptSet(
            "strongreject",
            "walledai/StrongREJECT",
            "MIT",
            "Souly et al. 2024, arXiv:2402.10260",
            "prompt",
            True,
            _ALL_HARMFUL,
        ),
        PromptSet(
            "xstest",
            "walledai/XSTest",
            "CC BY 4.0",
            "Röttger et al. 2024, arXiv:2308.01263",
            "prompt",
            True,
            _LABELS,
            split="test",
        ),
    )
}
