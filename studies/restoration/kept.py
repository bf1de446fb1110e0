"""Finished cells, a line each beside results.json: figures outlive their folder, and a study goes on from them.

Knows: how a cell is written short. Does not know: how a cell is made, claims.
"""

import json
from pathlib import Path
from typing import Any

from studies.restoration.cell import name_of

from holdfast.core.files import read_json, write_text

FILE = Path(__file__).with_name("cells.jsonl")
RIVALS = Path(__file__).with_name("rivals.jsonl")
_BITS = ("refused", "over_refused", "task_right", "prefilled", "many_shot", "relearned_")


def load(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """Cells by name, "digest-adapter-0"."""
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {name_of(line["task"], line["seed"], line["weights"]): _arms(line, _whole) for line in lines}


def keep(work: Path, file: Path = FILE) -> dict[str, dict[str, Any]]:
    """All cells: those kept, and those of a folder, which are kept from now on."""
    found = load(file) | {path.stem: read_json(path) for path in sorted(work.glob("*-*-*.json"))}
    write_text(file, "".join(json.dumps(_arms(found[name], _short)) + "\n" for name in sorted(found)))
    return load(file)


def _arms(cell: dict[str, Any], change: Any) -> dict[str, Any]:
    return cell | {"arms": {name: {k: change(k, v) for k, v in arm.items()} for name, arm in cell["arms"].items()}}


def _short(name: str, value: Any) -> Any:
    """One character a prompt, four decimals a loss."""
    if name.startswith(_BITS) and not isinstance(value, str):
        return "".join(map(str, value))
    return [round(float(nats), 4) for nats in value] if name == "task_loss" else value


def _whole(name: str, value: Any) -> Any:
    return [int(bit) for bit in value] if name.startswith(_BITS) else value
