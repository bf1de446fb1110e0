"""Records kept beside the study: a line each, six digits a number, so that a fresh clone can ``collect``.

Knows: how a record is written short and joined with new ones. Does not know: what it says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.core.files import read_json, write_text


def load(file: Path) -> dict[str, dict[str, Any]]:
    """Records by name."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {row.pop("name"): row for row in map(json.loads, lines)}


def kept(file: Path, made: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Records by name: of ``file``, and of those paths in ``made`` that exist, which are then kept there, too."""
    found = load(file)
    fresh = {name: _short(read_json(path)) for name, path in made.items() if path.exists()}
    if fresh:
        found = dict(sorted((found | fresh).items()))
        write_text(file, "".join(json.dumps({"name": name} | row) + "\n" for name, row in found.items()))
    return found


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
