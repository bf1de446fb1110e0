"""What evidence is bound to: files by their hashes, and what else a card records of how it came about.

Knows: which files of a folder make a model what it is. Does not know: verdicts, formats of evidence.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import sha256_file, sha256_text
from holdfast.core.results import Result
from holdfast.core.version import VERSION

PROVENANCE_FILE = "provenance.json"
_COUNTS = {".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf", ".bin", ".pt", ".py"}


@dataclass(frozen=True)
class Bound(Result):
    """A model or an adapter by its files.

    Attributes:
        source: what it was called; says nothing, a name can stand for anything.
        files: name -> sha256; empty for a hub repository, whose ``commit`` names the files.
    """

    source: str
    files: dict[str, str] = field(default_factory=dict)
    commit: str | None = None


@dataclass(frozen=True)
class Provenance(Result):
    """What a card records of its making. None: not recorded, and never guessed.

    Attributes:
        data: what was read, by hash. code: version and hash of our source. numerics: number type, device, threads,
            libraries. judge: who judged, and what must be quoted with it.
        card: the card's own files by hash.
    """

    adapter: Bound | None = None
    base: Bound | None = None
    reference: Bound | None = None
    data: dict[str, Any] | None = None
    judge: dict[str, Any] | None = None
    code: dict[str, Any] | None = None
    numerics: dict[str, Any] | None = None
    card: dict[str, str] = field(default_factory=dict)


def bound_files(source: str | Path, commit: str | None = None) -> Bound:
    """A local file or folder by the hashes of what a model is made of; a hub id by its commit.

    Of a folder its weights, settings, templates, tokenizer and code count, without sub-folders; a README does not.

    Raises:
        UserError: a folder without any such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return Bound(path.name, {path.name: sha256_file(path)})
    if not path.is_dir():
        return Bound(str(source), commit=commit)
    files = {
        entry.name: sha256_file(entry)
        for entry in sorted(path.iterdir())
        if entry.is_file() and entry.suffix in _COUNTS and not entry.name.startswith(".")
    }
    if not files:
        raise UserError(f"{path}: no file of a model or an adapter in it; give the folder that holds the weights")
    return Bound(path.name, files)


def code_version() -> dict[str, str]:
    """Our version, and a hash over our Python source: two checkouts of one version can differ."""
    root = Path(__file__).parents[1]
    lines = [
        f"{path.relative_to(root).as_posix()} {sha256_file(path)}"
        for path in sorted(root.rglob("*.py"))
        if "__pycache__" not in path.parts
    ]
    return {"holdfast": VERSION, "source_sha256": sha256_text("\n".join(lines))}


def difference(recorded: Bound, found: Bound) -> str | None:
    """What differs between recorded files and those found, in words; None if nothing does."""
    for name in sorted({*recorded.files, *found.files}):
        if name not in found.files:
            return f"{name} is missing"
        if name not in recorded.files:
            return f"{name} was not there"
        if recorded.files[name] != found.files[name]:
            return f"{name} is another file"
    return None
