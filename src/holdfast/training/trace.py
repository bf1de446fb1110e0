"""A growing record: one JSON object a line, in memory and, if wanted, in a file that survives a killed run.

Knows: JSON lines. Does not know: what is recorded.
"""

import json
import math
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import write_text


class JsonLines:
    """Rows of a trace.

    A line is written with a single call and flushed, so a killed run leaves whole lines, at worst one cut short
    at the end, which :func:`read_lines` skips.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.rows: list[dict[str, Any]] = []

    def take_up(self, step: int, write: bool = True) -> None:
        """Begin at ``step``: 0 forgets everything; a resumed run keeps its rows up to its checkpoint's step.

        Rows after it are of steps that will be made again.
        """
        found = read_lines(self.path) if step and self.path is not None and self.path.exists() else []
        self.rows[:] = [row for row in found if row.get("step", 0) <= step]
        if self.path is not None and write:
            write_text(self.path, "".join(_line(row) for row in self.rows))

    def append(self, row: dict[str, Any], write: bool = True) -> None:
        """Add a row. NaN and infinities become null in the file; ``write=False`` keeps it in memory only."""
        self.rows.append(row)
        if self.path is not None and write:
            self._write(_line(row))

    def _write(self, text: str) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free space or choose another output_dir"
            ) from error


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a trace file; a last line cut short by a killed run is left out.

    Raises:
        UserError: no such file, or a broken line that is not the last.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise UserError(f"{path} line {number}: not JSON; the trace is damaged") from None
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
