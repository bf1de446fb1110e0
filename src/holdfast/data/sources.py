"""Rows from anywhere a fine-tuner keeps them: a file, a saved dataset, a hub id, a list in memory.

Knows: where rows can be, how to name one ("train.jsonl line 17").
Does not know: how a file is laid out (formats.py), what fields a row needs, tokens.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data.example import BadRow
from holdfast.data.formats import READERS, dataset_rows, reader_of
from holdfast.data.records import Problem, Records, file_kind


@dataclass(frozen=True)
class Row:
    """One record and its place, for error messages and ids.

    Attributes:
        where: for people, "train.jsonl line 17".
        values: the record; a number that is not a number is null.
        position: number of the record within its source, from 0, unusable ones counted.
    """

    where: str
    values: dict[str, Any]
    position: int = 0


FORMATS = (
    ".jsonl, .json, .csv, .tsv, .parquet, .arrow (text also as .gz), a folder written by datasets' save_to_disk "
    "or with the parts of one split, or a hub id"
)
_SAVED = ("state.json", "dataset_dict.json")
_BESIDE = {"dataset_info.json", "dataset_infos.json", "package.json", "config.json"}
_PART = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(\.[\w.]+)")
_DEEPEST = 100  # levels of lists and objects in a row; beyond them libraries below us run out of stack


def read_rows(
    source: Any,
    limit: int | None = None,
    bad_rows: list[BadRow] | None = None,
    notes: list[str] | None = None,
) -> list[Row]:
    """Read records from ``source``.

    Args:
        source: path, hub id (``owner/name`` or ``owner/name:split``), a ``datasets.Dataset``, dicts, or rows
            that were read before.
        limit: stop after this many good rows.
        bad_rows: where to put rows that cannot be parsed; None makes the first one an error.
        notes: where to put lines about what had to be guessed (encoding, separator).

    Raises:
        UserError: no such file, unknown format, a row that is not an object, no rows at all.
    """
    if isinstance(source, (list, tuple)) and source and all(isinstance(row, Row) for row in source):
        return list(source)[:limit]  # read before: each keeps its place
    rows: list[Row] = []
    for position, (where, values) in enumerate(_records(source, [] if notes is None else notes)):
        if isinstance(values, Row):  # read before: keeps its name
            where, values, position = values.where, values.values, values.position
        problem = _problem(values)
        if problem is not None:
            if bad_rows is None:
                raise UserError(f"{where}: {problem}; mend the row or pass --skip-bad-rows")
            bad_rows.append(BadRow(where, problem))
            continue
        rows.append(Row(where, {str(name): _number_or_null(value) for name, value in values.items()}, position))
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        first = f" (first problem: {bad_rows[0].where}: {bad_rows[0].reason})" if bad_rows else ""
        raise UserError(f"{source_name(source)}: no usable rows{first}; give a data set with at least one row")
    return rows


def _problem(values: Any) -> str | None:
    if isinstance(values, Problem):
        return values.reason
    if not isinstance(values, Mapping):
        return "is not an object with named fields"
    if _too_deep(values):
        return f"is nested more than {_DEEPEST} levels deep"
    broken = _broken_text(values)
    return (
        f"holds a broken character (byte or half of a pair: {broken}); save the file as UTF-8" if broken else None
    )


def _too_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        inside = [item.values() if isinstance(item, Mapping) else item for item in level]
        level = [item for items in inside for item in items if isinstance(item, (Mapping, list, tuple))]
        depth += 1
    return bool(level)


def _broken_text(value: Any) -> str:
    """The first lone surrogate in any text below ``value``, as an escape; tokenizers cannot read those."""
    if isinstance(value, str):
        if value.isascii():
            return ""
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            return ascii(value[error.start]).strip("'")
        return ""
    if isinstance(value, Mapping):
        return next((bad for pair in value.items() for item in pair if (bad := _broken_text(item))), "")
    if isinstance(value, (list, tuple)):
        return next((bad for item in value if (bad := _broken_text(item))), "")
    return ""


def _number_or_null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def source_name(source: Any) -> str:
    """What to call a source in a message: its path or id, or the kind of object it is."""
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


def _records(source: Any, notes: list[str]) -> Records:
    if isinstance(source, (str, Path)):
        yield from _from_path_or_hub(str(source), notes)
    elif isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes)):
        for number, values in enumerate(source):
            yield f"row {number}", values
    else:
        raise UserError(f"cannot read rows from a {type(source).__name__}; give {FORMATS}, or a list of dicts")


def _from_path_or_hub(source: str, notes: list[str]) -> Records:
    if not source.strip():
        raise UserError(f"rows cannot be read from ''; give {FORMATS}")
    path = Path(source).expanduser()
    if path.is_dir():
        yield from _folder(path, notes)
        return
    reader = reader_of(path)
    if path.exists():
        if reader is None:
            raise UserError(f"{source}: unknown format '{path.suffix}'; use {FORMATS}")
        yield from reader(path, notes)
        return
    if file_kind(source) in READERS or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"{source}: no such file; check the path, or give a hub id such as owner/name")
    yield from _hub(source, notes)


def _folder(path: Path, notes: list[str]) -> Records:
    """A folder of datasets' ``save_to_disk``, or one that holds a single file of rows, be it in numbered parts."""
    if any((path / name).is_file() for name in _SAVED):
        yield from _saved_dataset(path, notes)
        return
    files = sorted(file for folder in (path, path / "data") if folder.is_dir() for file in _files(folder))
    named = [str(file.relative_to(path)) for file in files]
    if not files:
        raise UserError(f"{path}: a folder without rows; give {FORMATS}")
    shown = f"{', '.join(named[:8])}{' ...' * (len(named) > 8)}"
    if not _parts_of_one(named) and (len(files) > 1 or _PART.fullmatch(named[0])):
        raise UserError(
            f"{path}: holds {shown}; give one of them, or a folder with all parts of one split and nothing else"
        )
    notes.append(f"{path.name}: read {shown}")
    for file in files:
        yield from _from_path_or_hub(str(file), notes)


def _files(folder: Path) -> list[Path]:
    return [
        file
        for file in folder.iterdir()
        if file.is_file() and reader_of(file) and not file.name.startswith(".") and file.name not in _BESIDE
    ]


def _parts_of_one(names: Sequence[str]) -> bool:
    """Whether these are all parts ``NAME-00000-of-00002.parquet`` of one split."""
    found = [_PART.fullmatch(name) for name in names]
    wholes = {(part[1], part[3], part[4]) for part in found if part}
    return all(found) and len(wholes) == 1 and len(names) == int(next(iter(wholes))[1])


def _saved_dataset(path: Path, notes: list[str]) -> Records:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except IndexError:  # how datasets fails on a data set of no rows
        return
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: a damaged folder of datasets ({type(error).__name__}: {error})") from None
    if isinstance(dataset, DatasetDict):
        if len(dataset) != 1:
            raise UserError(f"{path}: holds the splits {sorted(dataset)}; give the folder of one of them")
        dataset = next(iter(dataset.values()))
    yield from dataset_rows(path.name, dataset, notes)


def _hub(source: str, notes: list[str]) -> Records:
    from datasets import load_dataset

    name, _, split = source.partition(":")
    try:
        yield from dataset_rows(name, load_dataset(name, split=split or "train", streaming=True), notes)
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
