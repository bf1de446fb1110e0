"""Suites from a YAML file: a suite is a data file and one line.

    suites:
      - {name: advbench, kind: refusal, harmful: advbench.csv, benign: xstest.csv}
      - {name: truth, kind: truthfulness, data: TruthfulQA.csv}
      - {name: facts, kind: multiple_choice, data: facts.jsonl}
      - {name: sums, kind: task, data: gsm8k.jsonl, metric: numeric, max_new_tokens: 256}
      - {name: wiki, kind: perplexity, data: wiki.txt}
      - {name: arc, kind: harness, tasks: [arc_local], folder: tasks}

Knows: the schema, where paths start (the YAML file's folder). Does not know: what a suite does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from holdfast.core.errors import UserError
from holdfast.evaluation.skill import Skill
from holdfast.evaluation.suites.base import Style, Suite
from holdfast.evaluation.suites.common_sense import common_sense
from holdfast.evaluation.suites.harness import HarnessSuite
from holdfast.evaluation.suites.perplexity import perplexity
from holdfast.evaluation.suites.refusal import refusal_suite
from holdfast.evaluation.suites.task_skill import read_task
from holdfast.evaluation.suites.truthfulness import truthfulness
from holdfast.evaluation.tasks import Task


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)  # in tables and folders


class RefusalLine(_Line):
    """Prompts that must be refused, and controls that must not."""

    kind: Literal["refusal"]  # what the suite is
    harmful: str  # prompts, as `--harmful` takes them
    benign: str | None = None  # prompts, as `--benign` takes them
    use: Literal["all", "evaluate"] = "all"  # all of the lists, or the half kept for evaluation
    salt: str = "holdfast"  # names the split into halves

    def build(self, folder: Path) -> Skill:
        """Read the lists."""
        benign = _place(self.benign, folder) if self.benign else ()
        return refusal_suite(_place(self.harmful, folder), benign, self.name, self.use, self.salt)


class TruthLine(_Line):
    """TruthfulQA."""

    kind: Literal["truthfulness"]  # what the suite is
    data: str  # TruthfulQA's table, from the suites file's folder
    style: Style = "text"  # how an item is put to the model
    limit: int | None = Field(None, ge=1)  # items at most

    def build(self, folder: Path) -> Suite:
        """Read or derive the choices."""
        return truthfulness(_place(self.data, folder), self.name, self.style, self.limit)


class ChoiceLine(_Line):
    """Multiple choice by likelihood."""

    kind: Literal["multiple_choice"]  # what the suite is
    data: str  # items: a question, its choices, which one is right
    style: Style = "text"  # how an item is put to the model
    half: Literal["estimate", "evaluate"] | None = None  # one half of the items; all without it
    salt: str = "holdfast"  # names the split into halves
    limit: int | None = Field(None, ge=1)  # items at most

    def build(self, folder: Path) -> Suite:
        """Read the items."""
        source = _place(self.data, folder)
        return common_sense(source, self.name, self.half, self.salt, "file", self.style, self.limit)


class TaskLine(_Line):
    """Prompts answered greedily and scored by a metric."""

    kind: Literal["task"]  # what the suite is
    data: str  # rows, as `--task` takes them
    metric: str = "exact_match"  # `exact_match`, `numeric`, `token_f1` or `rouge_l`
    prompt: str | None = None  # column of the prompt
    answer: str | None = None  # column of the answer
    labels: tuple[str, ...] = ()  # words for the answers 0, 1, ...
    max_new_tokens: int = Field(64, ge=1)  # of an answer
    limit: int | None = Field(None, ge=1)  # rows at most

    def build(self, folder: Path) -> Task:
        """Read the rows."""
        return read_task(
            _place(self.data, folder),
            self.name,
            self.metric,
            self.prompt,
            self.answer,
            self.labels,
            self.max_new_tokens,
            self.limit,
        )


class PerplexityLine(_Line):
    """Texts whose perplexity is measured."""

    kind: Literal["perplexity"]  # what the suite is
    data: str  # texts, a line each, or a `text` column
    max_length: int | None = Field(None, ge=1)  # tokens of a window; the model's own
    limit: int | None = Field(None, ge=1)  # texts at most

    def build(self, folder: Path) -> Suite:
        """Read the texts."""
        return perplexity(_place(self.data, folder), self.name, self.limit, self.max_length)


class HarnessLine(_Line):
    """Tasks of lm-evaluation-harness."""

    kind: Literal["harness"]  # what the suite is
    tasks: tuple[str, ...] = Field(min_length=1)  # names of tasks
    folder: str | None = None  # of own task files
    style: Style = "text"  # how an item is put to the model
    num_fewshot: int | None = Field(None, ge=0)  # examples before an item; the task's own
    max_length: int | None = Field(None, ge=1)  # tokens of a window; the model's own
    limit: int | None = Field(None, ge=1)  # items at most

    def build(self, folder: Path) -> Suite:
        """Nothing is read before it runs."""
        place = None if self.folder is None else str(folder / self.folder)
        return HarnessSuite(
            self.name, self.tasks, place, self.limit, self.num_fewshot, self.style, self.max_length
        )


Line = Annotated[
    RefusalLine | TruthLine | ChoiceLine | TaskLine | PerplexityLine | HarnessLine, Field(discriminator="kind")
]
_LINES: TypeAdapter[Line] = TypeAdapter(Line)
_KEYS = ("suites",)


@dataclass(frozen=True)
class SuiteSet:
    """What a file asks for, sorted by who runs it: `evaluate` takes skills and tasks; suites run themselves."""

    skills: tuple[Skill, ...] = ()
    tasks: tuple[Task, ...] = ()
    suites: tuple[Suite, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(item.name for item in (*self.skills, *self.tasks, *self.suites))


def load_suites(path: str | Path) -> SuiteSet:
    """Read a YAML file of suites. Paths in it start at its own folder.

    Raises:
        UserError: missing file, not YAML, a line that does not fit the schema, two suites of one name, or data
            that cannot be read; each names the line.
    """
    import yaml

    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    lines = value.get("suites") if isinstance(value, dict) else value
    if not isinstance(lines, list) or not lines or (isinstance(value, dict) and set(value) != set(_KEYS)):
        raise UserError(f"{path}: needs one key 'suites' with a list, one line a suite")
    return build_suites(lines, path.parent, path.name)


def build_suites(lines: Sequence[Any], folder: str | Path = ".", where: str = "suites") -> SuiteSet:
    """Suites from lines already read, such as those of a recipe.

    Raises:
        UserError: as :func:`load_suites`.
    """
    skills: list[Skill] = []
    tasks: list[Task] = []
    suites: list[Suite] = []
    for number, line in enumerate(lines, start=1):
        try:
            built = _LINES.validate_python(line).build(Path(folder))
        except ValidationError as error:
            raise UserError(f"{where}, suite {number}: {_problem(error)}") from None
        except UserError as error:
            raise UserError(f"{where}, suite {number}: {error}") from None
        if isinstance(built, Skill):
            skills.append(built)
        elif isinstance(built, Task):
            tasks.append(built)
        else:
            suites.append(built)
    found = SuiteSet(tuple(skills), tuple(tasks), tuple(suites))
    twice = {name for name in found.names if found.names.count(name) > 1}
    if twice:
        raise UserError(f"{where}: two suites share a name ({', '.join(sorted(twice))}); rename one")
    return found


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    # The place starts with the kind, which pydantic uses as the name of the branch.
    place = ".".join(str(part) for part in first["loc"][1:])
    return f"{f'{place}: ' if place else ''}{first['msg']}"


def _place(source: str, folder: Path) -> str:
    """A path as seen from the file's folder; what is none there may be absolute, a hub id or a published list.

    What follows a path (``xstest.csv:label=safe``) and what stands before one (``xstest@FOLDER``) is kept.
    """
    name, mark, place = source.rpartition("@")
    if mark and (folder / place.split(":")[0]).exists():
        return f"{name}@{folder / place}"
    beside = folder / source
    return str(beside) if beside.exists() or Path(source).suffix else source
