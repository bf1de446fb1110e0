"""The run folder: one sub-folder a finished stage, renamed into place, so any kill leaves only whole stages.

Knows: names, keys, manifests, how to resume.
Does not know: what a stage does.

A stage is finished if and only if its folder exists; what a stage needs it reads from the folders of earlier
stages, never from memory, which is why a resumed run gives the numbers of an uninterrupted one.
"""

import contextlib
import importlib.metadata
import logging
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from holdfast.core.errors import UserError
from holdfast.core.files import new_folder, read_json, write_json, write_text
from holdfast.pipeline.recipe import Recipe

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
REPORT = "report.html"
STAGE_RECORD = "stage.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "numpy")


class RunFolder:
    """A run on disk.

    Attributes:
        path: the folder.
        recipe: what the run does.
    """

    def __init__(self, path: str | Path, recipe: Recipe) -> None:
        self.path = Path(path)
        self.recipe = recipe

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe, input_hashes: dict[str, str]) -> "RunFolder":
        """Start a run, or take up one that was interrupted.

        Raises:
            UserError: the folder holds something else, or a run of another recipe or of other inputs.
        """
        folder = cls(path, recipe)
        identity = {"recipe_hash": recipe.hash, "inputs": input_hashes, "holdfast": version()}
        if (folder.path / MANIFEST).exists():
            found = read_json(folder.path / MANIFEST)
            for key, value in identity.items():
                if found.get(key) != value:
                    raise UserError(
                        f"{folder.path}: holds a run with another {key.replace('_', ' ')}; choose a new folder, "
                        "or pass --fresh to delete it"
                    )
            threads = environment()["threads"]
            if found.get("threads") != threads:
                log.warning(
                    "%s was begun with %s threads, now %s: numbers can differ in the last bits",
                    folder.path, found.get("threads"), threads,
                )  # fmt: skip
            folder._sweep()
            return folder
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise UserError(f"{folder.path}: not empty and not a run folder; choose a new one")
        write_text(folder.path / RECIPE, yaml.safe_dump(recipe.to_dict(), sort_keys=False))
        write_json(folder.path / MANIFEST, {**identity, **environment(), "seed": recipe.seed})
        return folder

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


def version() -> str:
    """Version of the installed holdfast."""
    return importlib.metadata.version("holdfast")


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the recipe."""
    import torch

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
