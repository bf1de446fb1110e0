"""Records of text tables: CSV, TSV and whatever a spreadsheet writes, each with the line that it begins on.

Knows: separators, quote marks, headers. Does not know: other formats (formats.py), what fields a row needs.
"""

import csv
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from holdfast.core.errors import UserError
from holdfast.data.encodings import open_text
from holdfast.data.records import Problem, Records, file_kind

SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?[\r\n]*$')
_WIDEST_CELL = 2**31 - 1


def delimited(path: Path, notes: list[str]) -> Records:
    """A header line, then a record a line (quoted cells may hold line ends).

    The separator is the one that cuts the header into most names. Between tabs a quote mark is often only a
    quote mark: whether they enclose cells is what the whole file says.

    Raises:
        UserError: a header that names a column twice.
    """
    expected = "\t" if file_kind(path.name) in (".tsv", ".tab") else ","
    with open_text(path, notes) as stream:
        told = _SEPARATOR_LINE.match(stream.readline())  # as spreadsheets say it
        first = 1 if told else 0
        separator = told[1] if told else _separator(_begun(stream, 0), expected)
        if separator != expected:
            notes.append(f"{path.name}: separator {SEPARATORS[separator]}")
        quoting = csv.QUOTE_MINIMAL
        if separator == "\t" and _quotes_are_text(path, stream, first):
            quoting = csv.QUOTE_NONE
            notes.append(f"{path.name}: quote marks are read as text; they do not enclose cells")
        reader = csv.reader(_begun(stream, first), delimiter=separator, quoting=quoting, strict=True)
        yield from _cells(path, reader, first)


def _begun(stream: IO[str], lines: int) -> IO[str]:
    """The stream from its beginning, the first ``lines`` lines left out."""
    stream.seek(0)
    for _ in range(lines):
        stream.readline()
    return stream


def _quotes_are_text(path: Path, stream: IO[str], first: int) -> bool:
    """Whether fewer records of a file with tabs are broken without quoted cells, or none is and there are more."""
    if not any('"' in line for line in _begun(stream, first)):
        return False

    def problems(quoting: int) -> tuple[float, int]:
        reader = csv.reader(_begun(stream, first), delimiter="\t", quoting=quoting, strict=True)  # type: ignore[arg-type]
        try:
            broken = [isinstance(values, Problem) for _, values in _cells(path, reader, first)]
        except UserError:  # of the header
            return math.inf, 0
        return sum(broken), -len(broken)

    return problems(csv.QUOTE_NONE) < problems(csv.QUOTE_MINIMAL)


def _separator(stream: IO[str], expected: str) -> str:
    sample = ""
    for line in stream:
        sample += line
        if sample.strip() and sample.count('"') % 2 == 0:
            break

    def columns(separator: str) -> int:
        with _wide_cells():
            return len(next(csv.reader([sample.strip("\r\n")], delimiter=separator), []))

    return max(SEPARATORS, key=lambda separator: (columns(separator), separator == expected))


def _cells(path: Path, reader: Any, before: int) -> Records:
    """Records by the header's names. before: lines of the file that the reader has not seen."""
    header: list[str] | None = None
    line = before
    while True:
        start, record = line + 1, _next_record(reader)
        line = before + reader.line_num
        if record is None:
            return
        if record == []:
            continue
        where = f"{path.name} line {start}"
        if header is None:
            if isinstance(record, Problem):
                raise UserError(f"{where}: the header cannot be read ({record.reason})")
            header = [name.strip() for name in record]
            twice = sorted({name for name in header if name and header.count(name) > 1})
            if twice:
                raise UserError(f"{where}: the header names {twice} twice; rename one of the columns")
        else:
            yield where, record if isinstance(record, Problem) else _by_name(header, record)


def _next_record(reader: Any) -> "list[str] | Problem | None":
    try:
        with _wide_cells():
            return next(reader, None)
    except csv.Error as error:
        end = "unexpected end" in str(error)
        return Problem("a quote is opened and never closed" if end else f"not a CSV record ({error})")


def _by_name(header: list[str], cells: list[str]) -> "dict[str, str] | Problem":
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]  # spreadsheets pad rows with empty cells
    if len(cells) != len(header):
        cells_said = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
        return Problem(f"has {cells_said} where the header names {len(header)} (quote cells that hold separators)")
    return {name: cell for name, cell in zip(header, cells, strict=True) if name}


@contextmanager
def _wide_cells() -> Iterator[None]:
    """The csv module's limit on a cell is global and small: widened for one record, then put back."""
    before = csv.field_size_limit(_WIDEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
