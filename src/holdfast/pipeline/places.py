"""Where the names in a recipe lead: files beside the recipe, hub ids, built-in things.

Knows: which keys name a file or a folder, how a path is told from another name. Does not know: what is there.
"""

import re
from pathlib import Path

# Every key of a recipe that may name a file or a folder.
PLACES = (
    ("model", "source"),
    ("model", "base"),
    ("skill", "harmful"),
    ("skill", "benign"),
    ("task", "train"),
    ("task", "test"),
    ("evaluate", "attack_rows"),
    ("evaluate", "attack_templates"),
    ("evaluate", "suites"),
    ("elasticity", "pretrain"),
)
_BUILT_IN = "organism"
_FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|txt|ya?ml|gguf)(\.gz)?$", re.IGNORECASE)


def located(source: str, folder: Path) -> str:
    """``source`` as a path from ``folder`` if it is one; hub ids, named sets and ``organism:`` stay as they are.

    What follows a colon (``xstest.csv:label=safe``, ``owner/name:train``) is kept.
    """
    if source.split(":", maxsplit=1)[0] == _BUILT_IN:
        return source
    path, mark, rest = _cut(source)
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    here = folder / path
    looks_local = path.startswith(".") or path.count("/") > 1 or _FILE.search(path) is not None
    if Path(path).is_absolute() or not (looks_local or here.exists()):
        return path + mark + rest
    return str(here) + mark + rest


def _cut(source: str) -> tuple[str, str, str]:
    """Path, and what follows the colon after it."""
    head, mark, rest = source.rpartition(":")
    if not mark or "/" in rest or Path(source).exists():
        return source, "", ""
    return head, mark, rest
