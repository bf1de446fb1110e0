"""A growing record: one JSON object a line, in memory and, if wanted, in a file that survives a killed run.

Knows: JSON lines. Does not know: what is recorded.
"""

import json
import math
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError


class JsonLines:
    """Rows of a trace.

    A line is written with a single call and flushed, so a killed run leaves whole lines, at worst one cut short
    at the end, which :func:`read_lines` skips.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.rows: list[dict[str, Any]] = []

    def start(self) -> None:
        """Forget everything: a new run begins."""
        self.rows.clear()
        if self.path is not None:
            self._write("w", "")

    def append(self, row: dict[str, Any]) -> None:
        """Add a row. NaN and infinities become null in the file."""
        self.rows.append(row)
        if self.path is not None:
            self._write("a", json.dumps(_finite(row), allow_nan=False) + "\n")

    def _write(self, mode: str, text: str) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as stream:
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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
