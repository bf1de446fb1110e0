"""What a row is called, and a hash of what it says that does not depend on where it stands.

Knows: canonical forms of JSON-like values, unique names.
Does not know: files, tokens.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_DIGITS = 16
_WHOLE = re.compile(r"^(-?[0-9]{1,16})\.0$")  # a data frame makes 3 into 3.0 where another row has no number


def row_key(values: Mapping[str, Any]) -> str:
    """16 hex digits over a raw row's content: the same row, the same key, in every file and at every place.

    Fields that are missing, null or empty text count as equal (each kind of table fills what a row lacks with
    another of these), so do a number or a boolean and its text (in CSV all is text), and lists, tuples and arrays;
    the order of fields does not count.
    """
    return short_hash(json.dumps(_canonical(values), sort_keys=True, separators=(",", ":")))


def short_hash(text: str | bytes) -> str:
    """The first 16 hex digits of a SHA-256."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def unique_names(names: Sequence[str]) -> tuple[list[str], int]:
    """Names of which none occurs twice, and how many had to change: the second ``a`` becomes ``a#2``."""
    taken, seen, out = set(names), Counter(), []
    for name in names:
        seen[name] += 1
        if seen[name] > 1:
            while f"{name}#{seen[name]}" in taken:
                seen[name] += 1
            taken.add(f"{name}#{seen[name]}")
            out.append(f"{name}#{seen[name]}")
        else:
            out.append(name)
    return out, sum(new != old for new, old in zip(out, names, strict=True))


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if not _missing(item)}
    if value is None:
        return None
    if isinstance(value, (str, bool, int, float)):
        return _WHOLE.sub(r"\1", str(value))
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "tolist"):  # arrays
        return _canonical(value.tolist())
    if isinstance(value, Iterable):
        return [_canonical(item) for item in value]
    return str(value)
