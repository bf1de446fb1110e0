"""How a text file is written: compression, byte order mark, UTF-8, UTF-16, Windows-1252.

Knows: bytes. Does not know: what is in the text.

Bytes that are wrong in a file that is otherwise UTF-8 come through as lone surrogates (``surrogateescape``), so
that the row that holds them can be named instead of the whole file being refused or misread.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from holdfast.core.errors import UserError

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", ""),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """A codec, and a line for the reader where it is not the expected one."""

    codec: str
    note: str = ""


@contextmanager
def open_text(path: Path, notes: list[str] | None = None) -> Iterator[IO[str]]:
    """The file's text, line ends as they are; what had to be guessed is added to ``notes``.

    Raises:
        UserError: the file cannot be read or unpacked, or its text cannot be decoded.
    """
    with _explained(path):
        encoding = detect(path)
        if encoding.note and notes is not None:
            notes.append(f"{path.name}: {encoding.note}")
        errors = "surrogateescape" if encoding.codec.startswith("utf-8") else "strict"
        with _open(path) as stream:
            yield io.TextIOWrapper(stream, encoding=encoding.codec, errors=errors, newline="")


def detect(path: Path) -> Encoding:
    """The encoding of a file, from its mark, else from all of its bytes.

    Raises:
        OSError, EOFError, lzma.LZMAError, zlib.error: the file cannot be read or unpacked.
    """
    with _open(path) as stream:
        head = stream.read(4096)
    for mark, codec, name in _MARKS:
        if head.startswith(mark):
            return Encoding(codec, f"read as {name} (byte order mark)" if name else "")
    # The first character of a file of rows is a bracket or belongs to a header: nearly always ASCII.
    for start, codec in ((b"^[^\0]\0\0\0", "utf-32-le"), (b"^\0\0\0[^\0]", "utf-32-be")):
        if re.match(start, head):
            return Encoding(codec, "read as UTF-32 (three of four bytes are zero)")
    zeros = [head[side::2].count(0) for side in (0, 1)]
    for side, codec in ((1, "utf-16-le"), (0, "utf-16-be")):
        if zeros[side] > 4 * zeros[1 - side] and (
            zeros[side] > 0.2 * len(head) or head[side : side + 3 : 2] == b"\0\0"
        ):
            return Encoding(codec, "read as UTF-16 (every second byte is zero)")
    if _is_utf8(path):
        return Encoding("utf-8")
    return _eight_bit_or_damaged(path)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _open(path) as stream:
            while block := stream.read(_CHUNK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _eight_bit_or_damaged(path: Path) -> Encoding:
    """Windows-1252 if no line beyond ASCII is valid UTF-8, else UTF-8 with damaged rows.

    Raises:
        UserError: bytes that Windows-1252 does not have: another alphabet's encoding, which cannot be guessed.
    """
    foreign = False
    with _open(path) as stream:
        for line in stream:
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                foreign |= any(byte in line for byte in (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d"))
            else:
                return Encoding("utf-8", "UTF-8 with broken bytes; the rows that hold them cannot be used")
    if foreign:
        raise UserError(f"{path}: neither UTF-8 nor UTF-16 nor Latin-1 text; save it as UTF-8")
    return Encoding(
        "cp1252", "read as Latin-1 / Windows-1252 (not valid UTF-8); save it as UTF-8 if letters look wrong"
    )


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        head = stream.read(6)
    opener = next((opener for magic, opener in _MAGIC.items() if head.startswith(magic)), None)
    if opener is None:
        opener = OPENERS.get(path.suffix.lower(), open)
    return opener(path, "rb")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise UserError(f"{path}: the text cannot be decoded ({error}); save the file as UTF-8") from None
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the compressed file is damaged ({error}); make it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
