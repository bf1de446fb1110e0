"""Where the checkpoints that come with the package are.

Knows: folders. Does not know: how they were made (builder.py) or what they can do (manifest.json says).
"""

from pathlib import Path
from typing import Any, Literal

from holdfast.core.errors import UserError
from holdfast.core.files import read_json

WEIGHTS = Path(__file__).parent / "weights"


def shipped(which: Literal["base", "aligned"] = "aligned") -> Path:
    """Return the folder of a shipped checkpoint, in transformers format.

    Raises UserError for another name, or if the installation lacks the weights.
    """
    if which not in ("base", "aligned"):
        raise UserError(f"no shipped checkpoint {which!r}; use 'base' or 'aligned'")
    folder = WEIGHTS / which
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: the shipped weights are missing; reinstall holdfast or run organism.build")
    return folder


def manifest() -> dict[str, Any]:
    """Read what is recorded about the shipped build: seed, versions, hashes, numbers reached."""
    return read_json(WEIGHTS / "manifest.json")
