"""Numbers in prose: every one with a unit comes from an evidence file, or says why it need not.

    python -m studies.prose            # lists what does not agree
    python -m studies.prose --write    # puts the files' numbers into the texts, and the tables (generated.py)

`prose.yaml` has, for every document, sentences with a reference in place of each number:

    - "refusals fall from {evaluation: models>organism>plain>measure=refusal>aligned>value %} to ..."

The reference is a file under `studies/` without its ending (`demo` is `demo/results.json`) and a path in it: keys,
positions, or `key=value` to find one of a list; a bare word finds an entry by its `name`, `id`, `task` or `arm`.
`%` multiplies by 100, a minus before it turns the sign. A number agrees if the file's, rounded to the digits
printed, is the printed one. Numbers that no file holds (settings, limits, what others found) stand under `given`,
with a reason.

Knows: texts, numbers, paths in JSON. Does not know: what any number means.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import yaml
from studies.generated import TABLES, regenerate

from holdfast.core.files import read_json, write_text

ROOT = Path(__file__).parents[1]
BOOK = Path(__file__).with_suffix(".yaml")
NUMBER = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?"
UNIT = r"\s*(?:%|per cent\b|points?\b|nats?\b|times\b|seconds?\b|minutes?\b|hours?\b|[MG]i?B\b|bits?\b)"
REFERENCE = re.compile(r"\{([\w/]+): ([^{}]+?)\s*(-?%|-)?\}")
SKIPPED = re.compile(
    r"```.*?```|(?m:^    [^\n]*$)|<!-- (?P<name>[\w -]+) -->\n\|.*?<!-- end of (?P=name) -->|<!--.*?-->"
    r"|`[^`\n]*`|\]\([^)\s]*\)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Problem:
    """One number of a document that nothing vouches for, or that its file contradicts."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def documents() -> list[Path]:
    """README and the page of every study."""
    return [ROOT / "README.md", *sorted(ROOT.glob("studies/*/README.md"))]


def prose_of(text: str) -> str:
    """The text with code, comments and generated tables blanked, so that places stay."""
    return SKIPPED.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def numbers_in(prose: str) -> Iterator[re.Match[str]]:
    """Numbers that claim something: with a unit, decimals, in an interval, "8 of 9", or listed before those."""
    found = list(re.finditer(rf"(?<![\w.-]){NUMBER}(?![\w])", prose))
    claims: list[bool] = []
    for number in reversed(found):
        after, before = prose[number.end() :], prose[: number.start()]
        joined = re.match(rf"(?:\s*%)?,?\s+(?:(?:to|and|or|against)\s+)?(?={NUMBER})", after)
        claims.append(
            bool(
                re.match(UNIT, after)
                or "." in number.group()
                or re.search(r"\[\s*$", before)
                or re.search(r"\[[^\[\]]*,\s*$", before[-20:])
                or re.match(r"\s+of\s+\d", after)
                or re.search(r"\d\s+of\s+$", before[-12:])
                or (joined and claims and claims[-1])
            )
        )
    yield from (number for number, claim in zip(found, reversed(claims), strict=True) if claim)


def value_at(reference: re.Match[str]) -> float:
    """What the file says.

    Raises:
        KeyError, LookupError: the path leads nowhere.
    """
    name, path, scale = reference.groups()
    file = ROOT / "studies" / (f"{name}.json" if "/" in name else f"{name}/results.json")
    value: Any = read_json(file)
    for step in path.split(">"):
        value = _step(value, step.strip())
    factor = (100 if "%" in (scale or "") else 1) * (-1 if (scale or "").startswith("-") else 1)
    return factor * float(value)


def _step(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value[step]
    if re.fullmatch(r"-?\d+", step):
        return value[int(step)]
    wanted = [part.partition("=") for part in step.split("&")] if "=" in step else None
    for entry in value:
        if wanted is None:
            if step in (entry.get(key) for key in ("name", "id", "task", "arm")):
                return entry
        elif all(str(entry.get(key)) == text for key, _, text in wanted):
            return entry
    raise LookupError(f"no entry '{step}'")


def printed(value: float, like: str) -> list[str]:
    """``value`` with the digits and the sign of ``like``; a tie may go either way."""
    places = len(like.partition(".")[2])
    exact = Decimal(repr(round(value, 12)))
    form = ("+" if like.startswith("+") else "") + ("," if "," in like else "") + "f"
    ways = [exact.quantize(Decimal(1).scaleb(-places), rounding=way) for way in (ROUND_HALF_EVEN, ROUND_HALF_UP)]
    return [f"{way + 0:{form}}" for way in ways]  # + 0: no minus before a zero


def _sentence(text: str) -> re.Pattern[str]:
    """A pattern with one group a reference; any white space is any other."""
    parts, end = [], 0
    for reference in REFERENCE.finditer(text):
        parts += [_literal(text[end : reference.start()]), f"({NUMBER})"]
        end = reference.end()
    return re.compile("".join([*parts, _literal(text[end:])]))


def _literal(text: str) -> str:
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(text))


def check(document: str, text: str, book: dict[str, Any]) -> tuple[list[Problem], str]:
    """Problems of one document, and its text with every referenced number as the files have it."""
    prose, problems, vouched, changes = prose_of(text), [], [], []

    def problem(place: int, what: str) -> None:
        problems.append(Problem(document, text.count("\n", 0, place) + 1, what))

    for template in book.get("checked", ()):
        found = _sentence(template).search(prose)
        if found is None:
            problem(0, f"not in the text (any more): {template}")
            continue
        vouched.append(found.span())
        for group, reference in enumerate(REFERENCE.finditer(template), start=1):
            here = found.group(group)
            try:
                right = printed(value_at(reference), here)
            except (LookupError, TypeError, ValueError) as error:
                problem(found.start(group), f"{reference.group()}: {error}")
                continue
            if here not in right:
                problem(found.start(group), f"says {here}, {reference.group()} says {right[0]}")
                changes.append((found.span(group), right[0]))
    for given in book.get("given", ()):
        pattern = _sentence(given["text"])
        spans = [found.span() for found in pattern.finditer(prose)]
        if not spans or not given.get("why"):
            problem(0, f"given without a reason, or not in the text (any more): {given['text']}")
        vouched += spans
    for number in numbers_in(prose):
        if not any(start <= number.start() < end for start, end in vouched):
            around = " ".join(prose[max(0, number.start() - 40) : number.end() + 20].split())
            problem(number.start(), f"nothing vouches for {number.group()} in '...{around}...'")
    for (start, end), right in sorted(changes, reverse=True):
        text = text[:start] + right + text[end:]
    return problems, text


def read_book() -> dict[str, dict[str, Any]]:
    """`prose.yaml`."""
    return yaml.safe_load(BOOK.read_text(encoding="utf-8"))


def check_all(write: bool = False) -> list[Problem]:
    """Problems of all documents; with ``write`` the numbers that files contradict are put right first."""
    book, problems, read = read_book(), [], documents()
    for path in [*read, *(ROOT / name for name in TABLES if ROOT / name not in read)]:
        name = str(path.relative_to(ROOT))
        text = path.read_text(encoding="utf-8")
        right, found = regenerate(name, text), []
        if path in read:  # of other documents only the tables are made from files
            found, right = check(name, right, book.get(name, {}))
        if write and right != text:
            write_text(path, right)
            found = check(name, right, book.get(name, {}))[0] if path in read else []
        elif regenerate(name, text) != text:
            problems.append(Problem(name, 1, "a table is not the one its results make; run with --write"))
        problems += found
    return problems


def main(arguments: list[str]) -> int:
    """List problems; 1 if there are any."""
    problems = check_all(write="--write" in arguments)
    print("\n".join(map(str, problems)) or "every number in prose has its source")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
