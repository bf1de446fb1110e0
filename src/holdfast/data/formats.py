"""Records of one file, each with its place: JSON lines, JSON, Parquet, Arrow; tables of text are in delimited.py.

Knows: file formats, lines. Does not know: what fields a row needs, hub ids, tokens.

Every reader yields ``(where, values)``; values that are a :class:`Problem` could not be parsed. ``where`` names
the line a record begins on. What had to be guessed is added to ``notes``.
"""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data.delimited import delimited
from holdfast.data.encodings import open_text
from holdfast.data.records import Problem, Records, file_kind

_ROW_FIELDS = {"messages", "conversations", "conversation", "prompt", "completion", "chosen", "rejected", "tools"}


def reader_of(path: Path) -> "Callable[[Path, list[str]], Records] | None":
    """The reader for a file's name, compression suffix aside; None for a name that says nothing known."""
    return READERS.get(file_kind(path.name))


def json_lines(path: Path, notes: list[str]) -> Records:
    """One object a line, streamed; a file that is one JSON list or object after all is read as such."""
    with open_text(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    if first.lstrip()[:1] == "[" or (first.lstrip()[:1] == "{" and not _parses(first)):
        whole = _try_whole(path, notes)
        if whole is not None:
            yield from whole
            return
    with open_text(path, notes) as stream:
        yield from _lines(path.name, stream)


def json_document(path: Path, notes: list[str]) -> Records:
    """A list of objects, an object that holds one such list, or JSON lines in disguise.

    Raises:
        UserError: none of these.
    """
    with open_text(path, notes) as stream:
        text = stream.read()
    try:
        yield from _document(path, text, notes)
    except (ValueError, RecursionError) as error:
        first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
        if first.lstrip()[:1] == "{" and _parses(first):
            notes.append(f"{path.name}: read as JSON lines (one object a line)")
            yield from _lines(path.name, io.StringIO(text, newline=""))
            return
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"{path}: not JSON ({reason}{place}); mend the file or write one object a line") from None


def _lines(name: str, lines: Iterable[str]) -> Records:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{name} line {number}", _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return Problem(f"not JSON ({error.msg})")
    except (ValueError, RecursionError) as error:  # a number of ten thousand digits, a thousand brackets
        return Problem(f"not usable JSON ({error})")


def _parses(text: str) -> bool:
    return not isinstance(_parsed(text), Problem)


def _try_whole(path: Path, notes: list[str]) -> list[tuple[str, Any]] | None:
    with open_text(path) as stream:
        text = stream.read()
    try:
        return list(_document(path, text, notes))
    except (ValueError, RecursionError, UserError):
        return None


def _document(path: Path, text: str, notes: list[str]) -> Records:
    """Records of a whole JSON text.

    Raises:
        ValueError: not JSON. UserError: JSON, but no list of rows.
    """
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        yield from _list_items(path.name, text, start)
        return
    value = json.loads(text)
    lists = [key for key, item in value.items() if _is_rows(item)] if isinstance(value, dict) else []
    if lists and not _ROW_FIELDS.intersection(value):
        if len(lists) > 1:
            raise UserError(f"{path}: holds the lists {lists}; write the one to be read to a file of its own")
        notes.append(f"{path.name}: rows taken from its list '{lists[0]}'")
        for number, row in enumerate(value[lists[0]]):
            yield f"{path.name} row {number}", row
    elif isinstance(value, dict) and value:
        yield f"{path.name} line 1", value
    else:
        raise UserError(f"{path}: the top level is not a list of rows; use JSONL or a JSON list")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _list_items(name: str, text: str, start: int) -> Records:
    """Items of a JSON list with the line each begins on; the whole text is checked before the first is given."""
    json.loads(text)
    decoder, place, line, counted, number = json.JSONDecoder(), start + 1, 1, 0, 0
    while True:
        while text[place : place + 1] in (" ", "\t", "\n", "\r", ","):
            place += 1
        if text[place] == "]":
            return
        line, counted = line + text.count("\n", counted, place), place
        item, place = decoder.raw_decode(text, place)
        yield f"{name} line {line} (row {number})", item
        number += 1


def parquet(path: Path, notes: list[str]) -> Records:
    """Rows of a Parquet file, with the column types of datasets (JSON columns among them) decoded.

    Raises:
        UserError: not a Parquet file.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            table = file.read()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file ({_first_line(error)})") from None
    yield from _table_rows(path, table, notes)


def arrow(path: Path, notes: list[str]) -> Records:
    """Rows of an Arrow file, stream (as datasets writes) or file format.

    Raises:
        UserError: not an Arrow file.
    """
    import pyarrow
    from pyarrow import ipc

    try:
        with pyarrow.memory_map(str(path)) as source:
            table = ipc.open_stream(source).read_all()
    except (OSError, ValueError, pyarrow.ArrowException):
        try:
            with pyarrow.memory_map(str(path)) as source:
                table = ipc.open_file(source).read_all()
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: not an Arrow file ({_first_line(error)})") from None
    yield from _table_rows(path, table, notes)


def _table_rows(path: Path, table: Any, notes: list[str]) -> Records:
    from datasets import Dataset

    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: names the columns {twice} twice; rename one of each")
    try:
        dataset = Dataset(table)
    except (ValueError, TypeError):  # a type that datasets does not know: Arrow's own reading
        dataset = None
    try:
        if dataset is not None:
            yield from dataset_rows(path.name, dataset, notes)
            return
        rows = (row for batch in table.to_batches() for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield f"{path.name} row {number}", row
    except Exception as error:  # broken JSON or text in a column: the user's file
        raise UserError(
            f"{path}: its rows cannot be read ({type(error).__name__}: {_first_line(error)})"
        ) from error


def dataset_rows(name: str, dataset: Any, notes: list[str]) -> Records:
    """Rows of a ``datasets`` object, streamed or not; columns of pictures and sound need decoders and stay out.

    Args:
        name: of the source, for messages.
    """
    media = [column for column, feature in (dataset.features or {}).items() if _holds_media(feature)]
    if media:
        notes.append(f"{name}: columns {media} hold pictures or sound, which are not read")
        dataset = dataset.remove_columns(media)
    for number, row in enumerate(dataset):
        yield f"{name} row {number}", row


def _holds_media(feature: Any) -> bool:
    from datasets import Json

    inner = getattr(feature, "feature", feature)
    if isinstance(inner, dict):
        return any(map(_holds_media, inner.values()))
    if isinstance(inner, (list, tuple)):
        return any(map(_holds_media, inner))
    return hasattr(inner, "decode") and not isinstance(inner, Json) if inner is feature else _holds_media(inner)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


READERS: dict[str, Callable[[Path, list[str]], Records]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_document,
    ".csv": delimited,
    ".tsv": delimited,
    ".tab": delimited,
    ".parquet": parquet,
    ".arrow": arrow,
    ".feather": arrow,
}
