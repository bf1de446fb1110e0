"""The one writer of files: a temporary sibling first, then a rename, so nothing is ever half-written.

Knows: JSON, safetensors, Parquet, folders, hashes, what a full disk looks like.
Does not know: what is in the files.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError, UserError

if TYPE_CHECKING:
    import pyarrow
    import torch

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _explained(error: Exception, path: Path) -> Exception:
    if not isinstance(error, OSError):  # safetensors' own writer reports a full disk only in its text
        full = "os error 28" in str(error) or "No space left" in str(error)
        error = OSError(errno.ENOSPC, "no space left") if full else error
    if not isinstance(error, OSError):
        return error
    if error.errno in _NO_SPACE:
        return UserError(f"{path}: no space left on the device; free some or choose another folder")
    if error.errno in _NOT_ALLOWED:
        return UserError(f"{path}: not writable ({error.strerror}); choose a folder you own")
    if error.errno in {errno.ENAMETOOLONG}:
        return UserError(f"{path}: the name is too long for this file system; choose a shorter one")
    if error.errno in {errno.EISDIR}:
        return UserError(f"{path}: a folder stands where a file is needed; choose another name")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return UserError(f"{path}: a file stands where a folder is needed; choose another folder")
    return error


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the name ``path``, on error it is gone.

    Raises:
        UserError: full disk, or a folder that may not be written.
    """
    path = Path(path)
    temporary = _temporary_sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        explained = _explained(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        temporary.unlink(missing_ok=True)


RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_NAME = re.compile(r"\w(?:[\w.+@ -]*[\w+@-])?")


def check_name(name: str, what: str) -> str:
    """``name`` itself, if a file or a folder may be called that on any system and stays where it is put.

    Args:
        what: what the user calls it, for the message, such as "arms.0.name".

    Raises:
        UserError: empty, too long, a path, spaces or controls, a name that some system keeps for itself.
    """
    if (problem := name_problem(name)) is not None:
        raise UserError(f"{what} {name if len(name) <= 40 else f'{name[:37]}...'!r}: {problem}")
    return name


def name_problem(name: str) -> str | None:
    """Why a file may not be called ``name``; None if it may."""
    stem = name.split(".", maxsplit=1)[0].lower()
    if len(name.encode(errors="replace")) <= 100 and _NAME.fullmatch(name) and stem not in RESERVED:
        return None
    return (
        "becomes a file name, so use letters, digits, '-', '_', '.', '+', '@' and spaces between them, a letter "
        "or a digit first, 100 bytes at most, and no name that a system keeps for itself"
    )


def check_new_folder(path: str | Path | None) -> None:
    """Make sure that :func:`new_folder` would get its folder, before anything is computed for it.

    Raises:
        UserError: something is there already, or the folder above may not be written.
    """
    if path is None:
        return
    path = Path(path)
    try:
        taken = path.is_symlink() or path.exists()
        if taken and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path}: exists and is not empty; choose a new folder or remove this one")
    except OSError as error:
        raise _explained(error, path) from error
    check_writable(path)


def check_writable(path: str | Path) -> None:
    """Make sure that something called ``path`` can be made, before anything is computed for it.

    Raises:
        UserError: a file stands where a folder is needed, or the nearest folder above may not be written.
    """
    path = Path(path)
    above = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise UserError(f"{path}: a file stands where a folder is needed ({above}); choose another folder")
    if above is not None and not os.access(above, os.W_OK):
        raise UserError(f"{path}: not writable ({above} is not yours); choose a folder you own")


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    Raises:
        UserError: ``path`` exists and is not an empty folder; full disk; not writable.
    """
    path = Path(path)
    check_new_folder(path)
    temporary = _temporary_sibling(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    except HoldfastError:
        raise
    except Exception as error:
        explained = _explained(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON with full float precision; NaN and infinities are written as null."""
    write_text(path, json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); is it the right file?") from None


def write_tensors(
    path: str | Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as safetensors."""
    from safetensors.torch import save

    # Serialised in memory and written by us: the library's own writer hides the errno of a full disk.
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    payload = save(contiguous, metadata=dict(metadata) if metadata else None)
    with replacing(path) as temporary:
        temporary.write_bytes(payload)


def read_tensors(path: str | Path) -> "dict[str, torch.Tensor]":
    """Read a safetensors file.

    Raises:
        UserError: the file is missing or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None


def write_table(path: str | Path, table: "pyarrow.Table") -> None:
    """Write a Parquet table (no time stamps inside, so equal tables give equal bytes)."""
    import pyarrow.parquet as parquet

    with replacing(path) as temporary:
        parquet.write_table(table, str(temporary), compression="zstd")


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hex digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_folder(folder: str | Path) -> str:
    """Hex digest over the names and bytes of all files below ``folder``."""
    folder = Path(folder)
    lines = [
        f"{path.relative_to(folder).as_posix()} {sha256_file(path)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return sha256_text("\n".join(lines))


def hash_json(value: Any) -> str:
    """Hex digest of a value's canonical JSON: equal values, equal hash, whatever their key order."""
    return sha256_text(json.dumps(finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False))


def finite(value: Any) -> Any:
    """JSON has no NaN; a missing number is null."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
