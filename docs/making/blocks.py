"""The code blocks of README and docs: found, told apart, and run as they are written.

A block is one of these, and an error if it is none:

    python, sh, bash      run, on the built-in model where the page says `my-model`
    <!-- real -->         before it: run on a real model (real.py), because the built-in one would say nothing
    <!-- install -->      before it: installs something; its targets and packages are looked up
    --8<-- "file"         the block is a file of this repository, which is run elsewhere
    yaml, toml, json      parsed; with title="NAME" also written to NAME, for the blocks after it
    text                  no code

`<!-- small: A -> B; C -> D -->` before a block says what is replaced where it is run, to keep that short; verbs
get the flags of `SHORT` besides. In sh a line that may end otherwise says so: `# exit 0, 3 or 4`.

Knows: Markdown, a line of shell with one command of ours. Does not know: which files a block finds (the caller).
"""

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from holdfast.core.files import write_text

ROOT = Path(__file__).parents[2]
RUN = ("python", "sh", "bash")
PARSED: dict[str, Callable[[str], object]] = {
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "json": yaml.safe_load,
}
SHORT = {
    "audit": {"--prompts": "4", "--limit": "8", "--minutes": "0"},
    "evaluate": {"--max-new-tokens": "8", "--limit": "8"},
    "restore": {"--steps": "2", "--minutes": "0", "--max-new-tokens": "8"},
    "train": {"--steps": "2", "--max-new-tokens": "8"},
}
MODELS = ("Qwen/Qwen2.5-1.5B-Instruct",)  # names on pages that stand for the reader's own


@dataclass(frozen=True)
class Block:
    """One block of code, and what the comment before it says."""

    page: str
    line: int
    language: str
    title: str
    mark: str
    small: tuple[tuple[str, str], ...]
    text: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"

    @property
    def included(self) -> str | None:
        """The file that the block is."""
        found = re.fullmatch(r'--8<-- "([^"]+)"\s*', self.text)
        return found[1] if found else None

    @property
    def runs(self) -> bool:
        """Whether it is run on the built-in model."""
        return self.language in RUN and not self.mark and self.included is None

    def shortened(self) -> str:
        """The text as it is run.

        Raises:
            LookupError: a replacement that is nowhere in it.
        """
        text = self.text
        for name in MODELS:
            text = text.replace(name, "my-model")
        for written, run_as in self.small:
            if written not in text:
                raise LookupError(f"{self.where}: '{written}' is not in the block")
            text = text.replace(written, run_as)
        return text


def pages() -> list[Path]:
    """README and all of docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: a block that is none of those above.
    """
    name, comment = page.relative_to(ROOT).as_posix(), ""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            comment = token.content.strip()
        elif token.type == "code_block":
            raise ValueError(f"{name}:{line}: a block without a fence; say what it is: ```text, ```sh, ...")
        elif token.type == "fence":
            yield _block(name, line, token.info, comment, token.content)
            comment = ""
        elif token.nesting != -1:
            comment = ""


def _block(page: str, line: int, info: str, comment: str, text: str) -> Block:
    language, _, rest = info.strip().partition(" ")
    title = re.search(r'title="([^"]+)"', rest)
    mark = re.fullmatch(r"<!-- (real|install) -->", comment)
    small = re.fullmatch(r"<!-- small: (.*) -->", comment, re.DOTALL)
    pairs = [pair.split(" -> ") for pair in " ".join(small[1].split()).split("; ")] if small else []
    block = Block(
        page, line, language, title[1] if title else "", mark[1] if mark else "",
        tuple((one.strip(), other.strip()) for one, other in pairs), text,
    )  # fmt: skip
    if language not in (*RUN, *PARSED, "text"):
        raise ValueError(f"{block.where}: '{language}' says nothing of how it is run; see docs/making/blocks.py")
    return block


def run(block: Block, short: bool = True) -> str:
    """Run a block in the current folder.

    Args:
        short: with the flags of ``SHORT``.

    Returns:
        What it printed.

    Raises:
        RuntimeError: an exit code that the line does not allow, or a command that is not ours.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.language == "python":
            exec(compile(block.shortened(), block.where, "exec"), {"__name__": "block"})
        else:
            for line in block.shortened().replace("\\\n", " ").splitlines():
                _shell(block, line, short)
    return printed.getvalue()


def _shell(block: Block, line: str, short: bool) -> None:
    allowed = re.search(r"# exit ([\d, or]+)", line)
    codes = [int(code) for code in re.findall(r"\d+", allowed[1])] if allowed else [0]
    for command in re.split(r" && ", line):
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if not words:
            continue
        code = _command(words, SHORT if short else {})
        if code not in codes:
            raise RuntimeError(f"{block.where}: `{command.strip()}` ended with {code}, not with {codes}")


def _command(words: list[str], flags: dict[str, dict[str, str]]) -> int:
    from holdfast.cli import run as run_verb

    if words[0] != "holdfast":
        raise RuntimeError(f"`{' '.join(words)}`: no command of ours; mark the block, or write it otherwise")
    if ">" in words:
        target = Path(words[words.index(">") + 1])
        words = words[: words.index(">")]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = run_verb(words[1:])
        target.write_text(said.getvalue(), encoding="utf-8")
        return code
    extra = [
        part for flag, value in flags.get(words[1], {}).items() if flag not in words for part in (flag, value)
    ]
    return run_verb([*words[1:], *extra])


def play(page: Path, only: Callable[[Block], bool] = lambda block: block.runs) -> dict[str, str]:
    """Write the page's titled files and run its blocks, in order, in the current folder.

    Returns:
        What each block printed, by its place.
    """
    said = {}
    for block in blocks(page):
        if block.language in PARSED and block.included is None:
            PARSED[block.language](block.text)
            if block.title:
                write_text(Path(block.title), block.text)
        elif only(block):
            said[block.where] = run(block)
    return said
