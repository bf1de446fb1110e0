"""Rows from anywhere a fine-tuner keeps them: JSONL, JSON, CSV, Parquet, a saved dataset, a hub id.

Knows: file formats and how to name a row ("train.jsonl line 17").
Does not know: what fields a row needs, tokens.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data.example import BadRow


@dataclass(frozen=True)
class Row:
    """One record and its place, for error messages and ids.

    Attributes:
        where: for people, "train.jsonl line 17".
        values: the record.
        position: number of the record within its source, from 0, unusable ones counted.
    """

    where: str
    values: dict[str, Any]
    position: int = 0


FORMATS = ".jsonl, .json, .csv, .parquet, a folder written by datasets' save_to_disk, or a hub id"


def read_rows(source: Any, limit: int | None = None, bad_rows: list[BadRow] | None = None) -> list[Row]:
    """Read records from ``source``.

    Args:
        source: path, hub id (``owner/name`` or ``owner/name:split``), a ``datasets.Dataset``, or dicts.
        limit: stop after this many good rows.
        bad_rows: where to put rows that cannot be parsed; None makes the first one an error.

    Raises:
        UserError: no such file, unknown format, a row that is not an object, no rows at all.
    """
    if isinstance(source, (list, tuple)) and source and all(isinstance(row, Row) for row in source):
        return list(source)[:limit]  # read before: each keeps its place
    rows: list[Row] = []
    for position, (where, values) in enumerate(_records(source)):
        if not isinstance(values, Mapping):
            problem = values if isinstance(values, _Problem) else _Problem("is not an object with named fields")
            if bad_rows is None:
                raise UserError(f"{where}: {problem.reason}; mend the row or pass --skip-bad-rows")
            bad_rows.append(BadRow(where, problem.reason))
            continue
        rows.append(Row(where, dict(values), position))
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise UserError(f"{_name(source)}: no usable rows; give a data set with at least one row")
    return rows


@dataclass(frozen=True)
class _Problem:
    reason: str


def _name(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


def _records(source: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(source, (str, Path)):
        yield from _from_path_or_hub(str(source))
    elif isinstance(source, Iterable):
        for number, values in enumerate(source):
            yield f"row {number}", values
    else:
        raise UserError(f"cannot read rows from a {type(source).__name__}; give {FORMATS}, or a list of dicts")


def _from_path_or_hub(source: str) -> Iterator[tuple[str, Any]]:
    path = Path(source)
    if path.is_dir():
        yield from _saved_dataset(path)
        return
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.exists():
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise UserError(f"{source}: unknown format '{path.suffix}'; use {FORMATS}")
        yield from reader(path)
        return
    if path.suffix.lower() in readers or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"{source}: no such file; check the path, or give a hub id such as owner/name")
    yield from _hub(source)


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                yield f"{path.name} line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                yield f"{path.name} line {number}", _Problem(f"not JSON ({error.msg})")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, list):
        raise UserError(f"{path}: the top level is not a list of rows; use JSONL or a JSON list")
    for number, row in enumerate(values):
        yield f"{path.name} row {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            yield f"{path.name} line {reader.line_num}", row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None
    for number, row in enumerate(table.to_pylist()):
        yield f"{path.name} row {number}", row


def _saved_dataset(path: Path) -> Iterator[tuple[str, Any]]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: a folder, but not one written by datasets' save_to_disk") from None
    if isinstance(dataset, DatasetDict):
        if len(dataset) != 1:
            raise UserError(f"{path}: holds the splits {sorted(dataset)}; give the folder of one of them")
        dataset = next(iter(dataset.values()))
    for number, row in enumerate(dataset):
        yield f"{path.name} row {number}", row


def _hub(source: str) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset

    name, _, split = source.partition(":")
    try:
        dataset = load_dataset(name, split=split or "train", streaming=True)
        for number, row in enumerate(dataset):
            yield f"{name} row {number}", row
    except Exception as error:  # the hub client raises many kinds; all of them are the user's to mend
        raise UserError(f"{source}: {hub_problem(error)}") from error


def hub_problem(error: Exception) -> str:
    """One line for a failed hub access: gated, missing, offline, or what the client said."""
    kind, text = type(error).__name__, str(error).strip().splitlines()
    if "Gated" in kind or "gated" in str(error)[:2000]:
        return "gated on the hub; accept its licence there, then run `hf auth login`"
    if "RepositoryNotFound" in kind or "DatasetNotFound" in kind:
        return "no such repository on the hub, or it is private; check the name or run `hf auth login`"
    if "Offline" in kind or "Connection" in kind or "offline" in str(error).lower():
        return "not in the local cache and the hub cannot be reached; go online once or give a local folder"
    return f"could not be loaded from the hub ({kind}: {text[0] if text else ''})"
