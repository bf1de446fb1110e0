"""Where the names in a recipe lead: files beside the recipe, hub ids, built-in things.

Knows: which keys name a file or a folder, how a path is told from another name. Does not know: what is there.
"""

import re
from collections.abc import Container
from pathlib import Path

# Every key of a recipe that may name a file or a folder.
PLACES = (
    ("model", "source"),
    ("model", "base"),
    ("skill", "harmful"),
    ("skill", "benign"),
    ("skill", "hold"),
    ("task", "train"),
    ("task", "test"),
    ("evaluate", "attack_rows"),
    ("evaluate", "attack_templates"),
    ("evaluate", "suites"),
    ("elasticity", "pretrain"),
)
_BUILT_IN = "organism"
_COPY = re.compile(r"(?P<name>[\w-]+)@(?P<folder>[^:]+)(?P<rest>:.*)?")
_FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|txt|ya?ml|gguf)(\.gz)?$", re.IGNORECASE)


def located(source: str, folder: Path, name_of_list: Container[str] | None = None) -> str:
    """``source`` as a path from ``folder`` if it is one; hub ids and ``organism:`` stay as they are.

    What follows a colon (``xstest.csv:label=safe``, ``owner/name:train``) is kept.

    Args:
        name_of_list: published lists, which a folder of that name does not hide.
    """
    if source.split(":", maxsplit=1)[0] == _BUILT_IN:
        return source
    if (copy := _COPY.fullmatch(source)) is not None:  # a published list in a folder of one's own
        return f"{copy['name']}@{folder / Path(copy['folder']).expanduser()}{copy['rest'] or ''}"
    path, mark, rest = _cut(source)
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    here = folder / path
    looks_local = path.startswith(".") or path.count("/") > 1 or _FILE.search(path) is not None
    published = name_of_list is not None and path.lower() in name_of_list
    if Path(path).is_absolute() or published or not (looks_local or here.exists()):
        return path + mark + rest
    return str(here) + mark + rest


def _cut(source: str) -> tuple[str, str, str]:
    """Path, and what follows the colon after it."""
    head, mark, rest = source.rpartition(":")
    if not mark or "/" in rest or Path(source).exists():
        return source, "", ""
    return head, mark, rest
