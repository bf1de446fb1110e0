"""Prompts out of files, hub data sets and published lists: the right column, and only the rows that are meant.

Knows: how a list is named (``FILE``, ``FILE:column=value``, ``xstest``, ``advbench@FOLDER``), what labels rows.
Does not know: duplicates, groups, splits (skill.py), models.

A list whose rows are labelled, some safe and some not, is never read whole: which rows are meant has to be said.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data.encodings import open_text
from holdfast.data.messages import from_json
from holdfast.data.sources import Row, read_rows
from holdfast.evaluation.prompt_sets import PROMPT_SETS, PromptSet, Side

PROMPT_FIELDS = (
    "prompt",
    "goal",
    "forbidden_prompt",
    "instruction",
    "question",
    "query",
    "request",
    "text",
    "behavior",
)
_SELECTION = re.compile(r"(?<=.):(?P<column>[^:=!/\\]+)(?P<different>!?)=")
_NAMED = re.compile(r"^(?P<name>[\w-]+)(?:@(?P<folder>.+))?$", re.DOTALL)
_UNSAFE = re.compile(
    r"(?:contrast|unsafe|harmful|malicious|toxic|dangerous|jailbreak|refuse[ds]?|refusal|should_refuse|reject|bad)"
    r"|(?:contrast|unsafe|harmful)_.*|.*_(?:harmful|unsafe)"
)
_SAFE = re.compile(
    r"(?:safe|harmless|benign|compl(?:y|ied|iance)|should_comply|allow|control|good|ok|(?:non|not)_?(?:toxic|harmful))"
    r"|(?:safe|benign|harmless)_.*|.*_(?:benign|safe|harmless)"
)
# Columns whose every value is about the side, whatever it is: words of somebody's own, degrees, numbers.
_LABELLING = re.compile(
    r"labels?|side|(?:un)?safe(?:ty)?|harm(?:ful(?:ness)?|less(?:ness)?)?|benign|toxic(?:ity)?|malicious|jailbreak|"
    r"refus(?:e[sd]?|al)|adversarial|flagged|risk|severity|violat(?:es?|ion)|allowed|danger(?:ous)?"
)
# Columns that answer yes or no, whatever they are called: such a one is a label until it is said that it is none.
_YES_OR_NO = frozenset({"", "0", "1", "-1", "true", "false", "yes", "no", "y", "n", "t", "f"})
_NUMBER = re.compile(r"-?[\d.]+(?:e-?\d+)?|")
MOST_VALUES = 50  # a column with more is no label
_SHOWN = 12


@dataclass(frozen=True)
class PromptSource:
    """A list by name, taken apart.

    Attributes:
        source: a file, a folder or a hub id; "" for a published list.
        known: the published list.
        folder: where a copy of the published list is.
        column, values: of the rows that are meant; "" for all of them.
        different: whether the rows with other values are meant.
    """

    source: str
    known: PromptSet | None = None
    folder: str | None = None
    column: str = ""
    values: tuple[str, ...] = ()
    different: bool = False

    @classmethod
    def parse(cls, text: str | Path) -> "PromptSource":
        """Take a name apart. An existing file is a file, whatever its name looks like.

        Raises:
            UserError: a selection without a value.
        """
        whole = str(text)
        places = [] if Path(whole).expanduser().exists() else list(_SELECTION.finditer(whole))
        there = (found for found in places if Path(whole[: found.start()]).expanduser().exists())
        found = next(there, places[0] if places else None)
        source = whole if found is None else whole[: found.start()]
        named = None if Path(source).expanduser().is_file() else _NAMED.match(source)
        known = PROMPT_SETS.get(named["name"].lower()) if named is not None else None
        place = {"known": known, "folder": named["folder"]} if known is not None and named is not None else {}
        source = "" if known is not None else source
        if found is None:
            return cls(source, **place)
        values = tuple(value.strip() for value in whole[found.end() :].split(",") if value.strip())
        if not values:
            raise UserError(f"{whole}: no value after '{found['column']}='; write {whole}VALUE")
        return cls(
            source, **place, column=found["column"].strip(), values=values, different=bool(found["different"])
        )

    def file(self, side: Side) -> Path | None:
        """The local file or folder that is read, if it is one: what a run is bound to by its hash.

        Raises:
            UserError: a folder of published lists without this one.
        """
        if self.known is not None:
            return self.known.local(side, self.folder)
        path = Path(self.source).expanduser()
        return path if path.exists() else None

    @property
    def selection(self) -> str:
        """The choice of rows as it is written; "" for all of them."""
        return f"{self.column}{'!' * self.different}={','.join(self.values)}" if self.column else ""


@dataclass(frozen=True)
class PromptList:
    """What was read.

    Attributes:
        prompts: in order.
        groups: prompt -> group, where the file has a column ``group``.
        note: one line on what was read: source, licence, rows that were meant.
    """

    prompts: tuple[str, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def read_prompts(source: str | Path | Sequence[str], side: Side) -> PromptList:
    """Read prompts.

    Args:
        source: a list of texts; ``.txt`` with one a line; any file of rows, a saved data set or a hub id with a
            column of :data:`PROMPT_FIELDS`; with ``:column=value[,value]`` behind it only those rows
            (``:column!=value`` the others, ``:column=*`` all of them); or the name of a published list.
        side: which prompts are meant, where a list has both.

    Raises:
        UserError: unreadable; no prompt in a row; rows with different labels and none chosen; none left.
    """
    if not isinstance(source, (str, Path)):
        prompts = tuple(source)
        for position, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise UserError(f"prompt {position}: {prompt!r} is not a text; give a list of non-empty strings")
        return PromptList(prompts, note=f"{len(prompts)} {side} prompts")
    wanted = PromptSource.parse(source)
    where, rows_of = str(source), wanted.source
    if wanted.known is not None:
        where, rows_of = wanted.known.rows(side, wanted.folder)
        label = wanted.known.label(side) if not wanted.column else ""
        wanted = PromptSource.parse(f"{wanted.known.name}:{label}") if label else wanted
    if isinstance(rows_of, (str, Path)) and Path(rows_of).suffix.lower() == ".txt":
        lines = _lines(Path(rows_of).expanduser(), wanted.column)
        return PromptList(lines, note=f"{len(lines)} {side} prompts of {where}")
    rows = [replace(row, values=_flat(row.values)) for row in read_rows(rows_of)]
    name = str(source) if wanted.known is None or not wanted.column else wanted.known.name
    kept = _chosen(rows, wanted, name) if wanted.column else _unlabelled(rows, str(source), side)
    prompts, groups = _prompts(kept)
    chosen = f" of {len(rows)} ({wanted.selection})" if wanted.column else _not_read(rows)
    return PromptList(prompts, groups, f"{len(prompts)} {side} prompts{chosen} of {where}")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A row without objects in it (``meta.label``) and without lists of one: a label shows wherever it is."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        value = from_json(value) if name.lower() not in PROMPT_FIELDS else value
        while isinstance(value, (list, tuple)) and len(value) == 1 and not isinstance(value[0], Mapping):
            value = value[0]
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat


def _lines(path: Path, column: str) -> tuple[str, ...]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if column:
        raise UserError(
            f"{path}: a text file has no column '{column}'; give a file of rows, or leave the choice out"
        )
    with open_text(path) as stream:
        lines = tuple(line.strip() for line in stream if line.strip())
    kind = _disguised(lines)
    if kind:
        raise UserError(f"{path}: not one prompt a line but {kind[0]}; name it {path.stem}{kind[1]}")
    return lines


def _disguised(lines: Sequence[str]) -> tuple[str, str] | None:
    """What a text file holds that is a table, and the ending that would say so: its labels must not be missed."""
    if lines and all(line.startswith("{") and line.endswith("}") for line in lines):
        return "JSON lines", ".jsonl"
    if len(lines) > 1 and lines[0].count("\t") and len({line.count("\t") for line in lines}) == 1:
        return "columns with tabs between them", ".tsv"
    cells = [re.split(r"[,;|]", line) for line in lines]
    if len(lines) > 1 and all(len(row) > 1 and _side(row[-1].strip(" \"'")) for row in cells):
        return "texts with a label behind each", ".csv, with a line of column names at its top"
    head = [name.strip(" \"'").lower() for name in cells[0]] if lines else []
    if (
        len(head) > 1
        and not set(head).isdisjoint(PROMPT_FIELDS)
        and all(re.fullmatch(r"[\w -]+", name) for name in head)
    ):
        return "columns with a header", ".csv"
    return None


def _chosen(rows: Sequence[Row], wanted: PromptSource, name: str) -> list[Row]:
    """The rows with these values, compared without regard to case."""
    columns = {key.lower(): key for row in rows for key in row.values}
    column = columns.get(wanted.column.lower())
    if column is None:
        raise UserError(f"{name}: no column '{wanted.column}'; it has {', '.join(sorted(columns.values()))}")
    asked = {_value(value).lower() for value in wanted.values}
    if asked == {"*"} and not wanted.different:
        return list(rows)
    kept = [row for row in rows if (_value(row.values.get(column)).lower() in asked) != wanted.different]
    found = Counter(_value(row.values.get(column)) for row in rows)
    missing = asked - {value.lower() for value in found}
    if missing or not kept:
        which = f"'{sorted(missing)[0]}' is no value of" if missing else "no row is left by"
        raise UserError(f"{name}: {which} column '{column}'; it has {_listed(found)}")
    return kept


def _unlabelled(rows: Sequence[Row], source: str, side: Side) -> list[Row]:
    """All rows, if nothing says that they are of two kinds, or of the other one."""
    found = _columns(rows)
    doubts = {column: doubt for column, values in found.items() if (doubt := _doubt(column, values, side))}
    if not doubts:
        return list(rows)
    column = max(doubts, key=lambda name: doubts[name])
    values = found[column]
    example = next((value for value in values if _side(value) == side), "VALUE")
    if len(values) == 1:
        example = next(iter(values))
        said = (
            f"every row has {column}={example}, but {side} prompts are asked for; if they are meant all the same"
        )
    else:
        said = f"rows are labelled by '{column}' ({_listed(values)}); to say which are the {side} prompts"
    raise UserError(f"{source}: {said}, write {source}:{column}={example} ({column}=* takes all)")


def _columns(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """What every column but the prompts and their names holds, and how often."""
    names = dict.fromkeys(key for row in rows for key in row.values)
    found = {name: Counter(_value(row.values.get(name)) for row in rows) for name in names}
    texts = (*PROMPT_FIELDS, "group", "id")  # a column of such a name labels where it says nothing but the side
    return {name: values for name, values in found.items() if name.lower() not in texts or all(map(_side, values))}


def _not_read(rows: Sequence[Row]) -> str:
    """Columns that sort the rows into two or three heaps, in words that nobody here understands."""
    few = [name for name, values in _columns(rows).items() if 2 <= len(values) <= 3 and max(values.values()) > 1]
    return f", whatever their {', '.join(few[:_SHOWN])}" if few else ""


def _doubt(column: str, values: Counter[str], side: Side) -> int:
    """How clearly a column says that not every row is of ``side``; 0 if it does not."""
    sides = {_side(value) for value in values}
    other = ({"harmful", "benign"} - {side}).pop()
    if len(values) == 1:
        return 3 * (other in sides)
    if sides == {"harmful", "benign"}:
        return 3
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", " ", column).lower().split()
    if any(map(_LABELLING.fullmatch, words)) and (
        len(values) <= MOST_VALUES or all(map(_NUMBER.fullmatch, values))
    ):
        return 2
    if values.keys() <= {*_YES_OR_NO, *map(str.upper, _YES_OR_NO), *map(str.title, _YES_OR_NO)}:
        return 2 if max(values.values()) > 1 else 0
    few = len(values) <= 3 and side in sides  # "harmful" and "regular": a label; "harmful" among ten topics: none
    return int(other in sides or few)


def _side(value: str) -> Side | None:
    """What a label says by itself."""
    word = re.sub(r"[\s-]+", "_", value.strip().lower())
    if _SAFE.fullmatch(word):
        return "benign"
    return "harmful" if _UNSAFE.fullmatch(word) else None


def _value(value: Any) -> str:
    """A cell as text: what JSON, Parquet and CSV write differently is the same."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


def _listed(found: Counter[str]) -> str:
    shown = [f"{value or '(empty)'} {count}" for value, count in found.most_common(_SHOWN)]
    return ", ".join(shown) + (", ..." if len(found) > _SHOWN else "")


def _prompts(rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, str]]:
    prompts, groups = [], {}
    for row in rows:
        columns = {key.lower(): key for key in row.values}
        names = (columns[field] for field in PROMPT_FIELDS if field in columns)
        name = next((column for column in names if isinstance(row.values[column], str)), None)
        if name is None:
            raise UserError(
                f"{row.where}: no prompt; name the column one of {', '.join(PROMPT_FIELDS)} "
                f"(found {', '.join(sorted(map(str, row.values)))})"
            )
        prompt = row.values[name].strip()
        if not prompt:
            raise UserError(f"{row.where}: field '{name}' is empty; remove the row")
        if row.values.get("group"):
            groups.setdefault(prompt, str(row.values["group"]))
        prompts.append(prompt)
    return tuple(prompts), groups
