"""The run folder: one sub-folder a finished stage, renamed into place, so any kill leaves only whole stages.

Knows: names, keys, manifests, how to resume.
Does not know: what a stage does.

A stage is finished if and only if its folder exists; what a stage needs it reads from the folders of earlier
stages, never from memory, which is why a resumed run gives the numbers of an uninterrupted one.
"""

import contextlib
import logging
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from holdfast.core.errors import UserError
from holdfast.core.files import check_writable, new_folder, read_json, write_json, write_text
from holdfast.core.version import VERSION, versions
from holdfast.evaluation.prompt_sets import FOLDER
from holdfast.pipeline.places import PLACES
from holdfast.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from holdfast.pipeline.reading import RunInputs

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
REPORT = "report.html"
STAGE_RECORD = "stage.json"
_HASH = re.compile("[0-9a-f]{64}(:|$)")
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "numpy")


class RunFolder:
    """A run on disk.

    Attributes:
        path: the folder.
        recipe: what the run does.
        inputs: what was read for a run that begins; None when it goes on.
    """

    def __init__(self, path: str | Path, recipe: Recipe) -> None:
        self.path = Path(path)
        self.recipe = recipe
        self.inputs: RunInputs | None = None

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe, input_hashes: dict[str, str]) -> "RunFolder":
        """Start a run, or take up one that was interrupted.

        Raises:
            UserError: the folder holds something else, or a run of another recipe or of other inputs in which
                something is finished.
        """
        folder = cls(path, recipe)
        folder._sweep()
        if folder.check(input_hashes):
            return folder
        write_text(folder.path / RECIPE, yaml.safe_dump(recipe.to_dict(), sort_keys=False))
        identity = folder._identity(input_hashes)
        write_json(folder.path / MANIFEST, {**identity, **environment(), "seed": recipe.seed})
        return folder

    def _identity(self, input_hashes: dict[str, str]) -> dict[str, Any]:
        return {"recipe_hash": self.recipe.hash, "inputs": input_hashes, "holdfast": VERSION}

    def check(self, input_hashes: dict[str, str]) -> bool:
        """Whether this folder holds a run of this recipe that can go on; False if a new one can begin here.

        A run in which nothing is finished makes room for a corrected recipe.

        Raises:
            UserError: as :meth:`open`.
        """
        if (self.path / MANIFEST).exists():
            if self.begun:
                self._continue(self._identity(input_hashes))
                return True
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"{self.path}: not empty and not a run folder; choose a new one")
        check_writable(self.path / RECIPE)
        return False

    @property
    def begun(self) -> bool:
        """Whether any stage is finished."""
        return any((self.path / "stages").glob(f"*/{STAGE_RECORD}"))

    def _continue(self, identity: dict[str, Any]) -> None:
        """Make sure that what stands here was begun with the same recipe, inputs and program."""
        found = read_json(self.path / MANIFEST)
        changes = [
            self._changed_input(name, found["inputs"].get(name), identity["inputs"].get(name))
            for name in sorted({*found["inputs"], *identity["inputs"]})
            if found["inputs"].get(name) != identity["inputs"].get(name)
        ]
        if found.get("recipe_hash") != identity["recipe_hash"]:
            places = tuple(f"{section}.{key}: " for section, key in PLACES)
            keys = changed_keys(self._recipe_found(), self.recipe.to_dict())
            changes = [line for line in keys if not line.startswith(places)] + changes
        if found.get("holdfast") != identity["holdfast"]:
            changes.append(f"holdfast: {found.get('holdfast')} → {identity['holdfast']}")
        if changes:
            more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
            raise UserError(
                f"{self.path}: holds a run that was begun otherwise: {'; '.join(changes[:3])}{more}; choose a new "
                "folder, or pass --fresh to delete it"
            )
        threads = environment()["threads"]
        if found.get("threads") != threads:
            log.warning(
                "%s was begun with %s threads, now %s: numbers can differ in the last bits",
                self.path, found.get("threads"), threads,
            )  # fmt: skip

    def _changed_input(self, name: str, before: str | None, now: str | None) -> str:
        """In words. A published list is known by its local copy's hash, or by its name where there is no copy."""
        if before is None or now is None:
            return f"input '{name}' is {'new' if before is None else 'gone'}"
        source = getattr(self.recipe.skill, name, None)
        same_list = source is not None and source == self._recipe_found().get("skill", {}).get(name)
        if same_list and (_HASH.match(before) is None) != (_HASH.match(now) is None):
            was, does, way_out = ("", "not ", "set it again") if _HASH.match(before) else ("not ", "", "unset it")
            return (
                f"input '{name}': {FOLDER} was {was}set when this run began and is {does}set now; {way_out}, so "
                f"that {source} is the same copy"
            )
        return f"input '{name}' has other content"

    def _recipe_found(self) -> dict[str, Any]:
        try:
            found = yaml.safe_load((self.path / RECIPE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            found = None
        return found if isinstance(found, dict) else {}

    def _sweep(self) -> None:
        """Remove what a kill left behind."""
        for leftover in self.path.rglob(".*.partial"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        return self.path / "stages" / name

    def finished(self, name: str) -> bool:
        """Whether the stage is done."""
        return (self.stage(name) / STAGE_RECORD).exists()

    @contextlib.contextmanager
    def working(self, name: str) -> Iterator[Path]:
        """Yield a temporary folder that becomes the stage's when the block ends well."""
        started = time.monotonic()
        with new_folder(self.stage(name)) as temporary:
            yield temporary
            write_json(temporary / STAGE_RECORD, {"stage": name, "seconds": time.monotonic() - started})

    def seconds(self, name: str) -> float:
        """How long a finished stage took."""
        return float(read_json(self.stage(name) / STAGE_RECORD)["seconds"])


def changed_keys(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two recipes, key by key: ``training.steps: 60 → 80``. Places of files do not count:
    what is in them does (``inputs``)."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        pairs = [(key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list):
        longer = range(max(len(old), len(new)))
        pairs = [(k, old[k] if k < len(old) else None, new[k] if k < len(new) else None) for k in longer]
    else:
        return [] if old == new else [f"{where}: {_short(old)} → {_short(new)}"]
    found = [line for key, a, b in pairs for line in changed_keys(a, b, f"{where}.{key}" if where else str(key))]
    return found


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the recipe."""
    import torch

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "libraries": versions(LIBRARIES),
    }
