"""Finished runs, a line each beside results.json: figures outlive their folders, and a study goes on from them.

Knows: how a record is written short. Does not know: how a run is made, claims.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast.core.files import write_text

FILE = Path(__file__).with_name("runs.jsonl")
_BITS = ("refused", "over_refused", "task_right")
_LEFT_OUT = ("setting", "notes", "wall_seconds")  # the setting is part of the key


def load(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """Records by their folder's name."""
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line.pop("run"): _whole(line) for line in lines}


def save(records: dict[str, dict[str, Any]], file: Path = FILE) -> None:
    """Write records by their folder's name; those that are there and not given stay."""
    everything = load(file) | records
    write_text(file, "".join(_lines(everything.items())))


def _lines(records: Iterable[tuple[str, dict[str, Any]]]) -> Iterable[str]:
    for name, record in sorted(records):
        yield json.dumps({"run": name, **_short(record)}) + "\n"


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """One character a prompt, four digits a number of nats."""
    bits = {name: "".join(map(str, record[name])) for name in _BITS if name in record}
    drift = [float(f"{nats:.4g}") for nats in record["drift_nats"]] if "drift_nats" in record else []
    short = {name: value for name, value in record.items() if name not in _LEFT_OUT}
    return short | bits | ({"drift_nats": drift} if drift else {})


def _whole(line: dict[str, Any]) -> dict[str, Any]:
    return line | {name: [int(bit) for bit in line[name]] for name in _BITS if name in line}
