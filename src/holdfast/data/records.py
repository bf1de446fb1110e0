"""What every reader of a file yields. Knows: records and why one is none. Does not know: any format."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.data.encodings import OPENERS

Records = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Problem:
    """Why a record cannot be used."""

    reason: str


def file_kind(name: str) -> str:
    """The suffix that names the format: ``.jsonl`` of ``train.jsonl.gz``."""
    path = Path(name)
    if path.suffix.lower() in OPENERS:
        path = path.with_suffix("")
    return path.suffix.lower()
