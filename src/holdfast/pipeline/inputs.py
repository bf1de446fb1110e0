"""What a recipe points at, made concrete: model folder, skill, task rows, texts.

Knows: the ``organism:`` names, files and hub ids, how a user's rows become prompts with answers.
Does not know: stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from holdfast.core.errors import UserError
from holdfast.core.files import read_json, sha256_file, sha256_folder, sha256_text
from holdfast.data import BadRow, Examples, check_rows, pin_template, read_examples
from holdfast.data.example import BadRowError
from holdfast.data.shapes import ANSWERS, normalise_row, prompt_and_answer
from holdfast.data.sources import Row, read_rows
from holdfast.evaluation.prompt_lists import PromptSource
from holdfast.evaluation.prompt_sets import Side
from holdfast.evaluation.tasks import checked_answer, checked_prompt
from holdfast.models import Subject, load
from holdfast.pipeline.recipe import ElasticitySection, Recipe

ORGANISM = "organism"
TOKENIZER = "tokenizer.json"
HELD_OUT_EVERY = 5
ORGANISM_ROWS = 2000
MOST_DRAWN = 100_000  # of anything the organism makes up: more are repetitions, and would be drawn without end


def model_source(source: str) -> str:
    """Folder or hub id; ``organism:aligned`` and ``organism:base`` are the built-in checkpoints.

    Raises:
        UserError: another organism name.
    """
    if not source.startswith(f"{ORGANISM}:"):
        return source
    from holdfast import organism

    name = source.partition(":")[2]
    if name not in ("aligned", "base"):
        raise UserError(f"model '{source}': the built-in checkpoints are organism:aligned and organism:base")
    return str(organism.shipped(name))


def is_organism(model: str) -> bool:
    """Whether a model speaks the built-in language: one of the shipped checkpoints, or one made from them."""
    if model.startswith(f"{ORGANISM}:"):
        return True
    file = Path(model).expanduser() / TOKENIZER
    if not file.is_file():
        return False
    from holdfast import organism

    return _vocabulary(file) == _vocabulary(organism.shipped("aligned") / TOKENIZER)


def _vocabulary(file: Path) -> Any:
    values = read_json(file)
    return values.get("model", {}).get("vocab") if isinstance(values, dict) else None


def load_named(
    model: str,
    adapter: Path | None = None,
    scope: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    today: str | None = None,
    template: Mapping[str, Any] | None = None,
    **further: Any,
) -> Subject:
    """Load a model that a command line or a recipe names; its chat template is pinned if that is asked.

    Args:
        today: date for a chat template that writes one.
        template: further values for the chat template.
        further: as :func:`holdfast.models.load` takes it, such as ``quantize``.

    Raises:
        UserError: as :func:`holdfast.models.load`.
    """
    source = model_source(model)
    subject = load(source, adapter, scope, dtype, device, revision, trust_remote_code, **further)
    return replace(subject, tokenizer=pin(subject.tokenizer, today, template))


def pin(tokenizer: Any, today: str | None, template: Mapping[str, Any] | None) -> Any:
    """The tokenizer, its chat template pinned to a date and to values, if any are given."""
    if tokenizer is None or not (today or template):
        return tokenizer
    return pin_template(tokenizer, today, dict(template or {}))


class HowRead(Protocol):
    """How rows are read, whoever says it: the command line's options or a recipe's section."""

    @property
    def limit(self) -> int | None: ...
    @property
    def max_length(self) -> int: ...
    @property
    def skip_bad_rows(self) -> bool: ...
    @property
    def prompt_column(self) -> str | None: ...
    @property
    def completion_column(self) -> str | None: ...
    @property
    def truncation_mode(self) -> str: ...


@dataclass(frozen=True)
class Reading:
    """How a recipe's rows are read."""

    limit: int | None = None
    max_length: int = 1024
    skip_bad_rows: bool = False
    prompt_column: str | None = None
    completion_column: str | None = None
    truncation_mode: str = "keep_start"


def columns_of(how: Any) -> dict[str, Any]:
    """What was named of columns and cutting, as ``read_examples`` takes it."""
    names = ("prompt_column", "completion_column", "truncation_mode")
    return {name: value for name in names if (value := getattr(how, name)) is not None}


@dataclass(frozen=True)
class TaskRows:
    """Rows that were read once and can be encoded for any tokenizer; errors name the user's file and line."""

    source: str
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    how: HowRead
    notes: tuple[str, ...] = ()

    def check(self) -> "TaskRows":
        """Itself, once columns and fields are what rows need; that takes no model.

        Raises:
            UserError: a column that is not there, a row that is none.
        """
        how = self.how
        check_rows(self.rows, how.prompt_column, how.completion_column, how.skip_bad_rows, self.source)
        return self

    def encode(self, tokenizer: Any) -> Examples:
        """As examples.

        Raises:
            UserError: a row that is none, no tokenizer.
        """
        if tokenizer is None:
            raise UserError(f"{self.source}: this model has no tokenizer, so text cannot be read")
        columns, skip = columns_of(self.how), self.how.skip_bad_rows
        rows, longest = list(self.rows), self.how.max_length
        found = read_examples(rows, tokenizer, longest, None, skip, **columns, called=self.source)
        found.bad_rows = (*self.bad, *found.bad_rows)
        found.notes = (*self.notes, *found.notes)
        return found


def read_named(source: str, how: HowRead, split: str = "train", seed: int = 0) -> TaskRows:
    """Read the rows of a file, a hub id or ``organism:NAME``.

    Args:
        split: "test" for held-out rows, whose answers may be numbers.

    Raises:
        UserError: as :func:`named_rows`.
    """
    if source.startswith(f"{ORGANISM}:"):
        drawn = named_rows(source, how.limit, split, seed)
        rows = [Row(f"{source} row {number}", values, number) for number, values in enumerate(drawn)]
        return TaskRows(source, tuple(rows), (), how)
    bad: list[BadRow] = []
    notes: list[str] = []
    rows = read_rows(source, how.limit, bad if how.skip_bad_rows else None, notes)
    found = TaskRows(source, tuple(rows), tuple(bad), how, tuple(notes))
    return with_text_answers(found) if split == "test" else found


def with_text_answers(rows: TaskRows) -> TaskRows:
    """Held-out answers that are numbers, as people write them: a loss needs a text."""
    keys = {*ANSWERS, rows.how.completion_column}

    def text(row: Row) -> Row:
        numbers = {
            key: checked_answer(value, row.where)
            for key, value in row.values.items()
            if key in keys and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        return replace(row, values={**row.values, **numbers}) if numbers else row

    return replace(rows, rows=tuple(text(row) for row in rows.rows))


def data_notes(source: str | None, model: str) -> list[str]:
    """What must be said of rows that do not suit a model: the built-in ones are an invented language."""
    if source is None or not source.startswith(f"{ORGANISM}:") or is_organism(model):
        return []
    return [f"{source} holds sentences of an invented language: {model} learns nothing useful from them"]


def named_rows(source: str, limit: int | None, split: str = "train", seed: int = 0) -> list[dict[str, Any]]:
    """Rows of ``organism:NAME`` (of a mixture's test split the graded sources only), or of anything readable.

    Raises:
        UserError: unknown organism task, unreadable source.
    """
    if not source.startswith(f"{ORGANISM}:"):
        return [dict(row.values) for row in read_rows(source, limit)]
    from holdfast import organism

    name, tasks = source.partition(":")[2], organism.tasks()
    if name not in tasks:
        raise UserError(f"task '{source}': unknown; the organism has {', '.join(sorted(tasks))}")
    check_drawn(limit, source)
    if split == "train":
        return organism.task_rows(name, "train", limit or ORGANISM_ROWS, seed)
    wanted = limit or ORGANISM_ROWS // 10
    drawn = organism.task_rows(name, split, 8 * wanted, seed)  # type: ignore[arg-type]  # str to Literal
    return [row for row in drawn if row["source"] in tasks[name].graded][:wanted]


def check_drawn(limit: int | None, what: str) -> None:
    """How much may be drawn from the built-in generators, which never run dry.

    Raises:
        UserError: too much.
    """
    if limit is not None and limit > MOST_DRAWN:
        raise UserError(f"{what}: {limit} asked for; at most {MOST_DRAWN} are drawn, so lower the limit")


def question_and_answer(row: Row, how: Any = None, metric: str = "exact_match") -> tuple[Any, str] | None:
    """What a row asks and the text of the right answer; None where a row has no single answer.

    Raises:
        UserError: naming the row, for an answer or a prompt that is none.
    """
    columns = columns_of(how) if how is not None else {}
    values: Mapping[str, Any] = row.values
    if "prompt_column" in columns and "completion_column" in columns:
        values = {side: values.get(columns[f"{side}_column"]) for side in ("prompt", "completion")}
    answer = next((values[key] for key in ("completion", "answer") if key in values), "")
    if "prompt" in values and not isinstance(answer, (str, list, tuple)):
        pair = values["prompt"], answer  # a number is an answer, too; what is none is refused below
    else:
        try:
            pair = prompt_and_answer(normalise_row(values))
        except BadRowError as problem:
            raise UserError(f"{row.where}: {problem}") from None
    if pair is None:
        return None
    return checked_prompt(pair[0], row.where), checked_answer(pair[1], row.where, metric)


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """What binds a run to its inputs: hashes of local files and folders, names of hub repositories."""
    sources = {
        "model": model_source(recipe.model.source),
        "base": model_source(recipe.model.base) if recipe.model.base else "",
        "harmful": _prompt_file(recipe.skill.harmful, "harmful"),
        "benign": _prompt_file(recipe.skill.benign, "benign"),
        "hold": _prompt_file(recipe.skill.hold, "benign"),
        "train": recipe.task.train or "",
        "test": recipe.task.test or "",
        "suites": recipe.evaluate.suites or "",
        "attack_rows": recipe.evaluate.attack_rows or "",
        "attack_templates": recipe.evaluate.attack_templates or "",
        "pretrain": (recipe.elasticity.pretrain if recipe.elasticity else None) or "",
    }
    chosen = {
        side: PromptSource.parse(source).selection
        for side in ("harmful", "benign", "hold")
        if isinstance(source := getattr(recipe.skill, side), str)
    }
    found = {name: content_hash(source) for name, source in sources.items() if source}
    return found | {name: f"{found[name]}:{rows}" for name, rows in chosen.items() if rows}


def _prompt_file(source: str | Sequence[str] | None, side: Side) -> str | Sequence[str]:
    """The file behind a list of prompts, a local copy of a published list included; else what was given."""
    file = PromptSource.parse(source).file(side) if isinstance(source, str) else None
    return str(file) if file is not None else source or ""


def content_hash(source: str | Sequence[str]) -> str:
    """Of a local file or folder, or of texts; the name of anything else."""
    if not isinstance(source, str):
        return sha256_text("\n".join(source))
    path = Path(source)
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        return sha256_folder(path)
    return source


def base_of(recipe: Recipe) -> str:
    """The parent of a recipe's model, for the elasticity probe.

    Raises:
        UserError: a model other than the built-in one without a parent, or without texts for its pre-training.
    """
    assert recipe.elasticity is not None
    if not is_organism(recipe.model.source):
        for key, value in (("model.base", recipe.model.base), ("elasticity.pretrain", recipe.elasticity.pretrain)):
            if value is None:
                raise UserError(
                    f"{recipe.model.source}: the elasticity probe needs {key} (the pre-trained parent, text "
                    "rows like those it was pre-trained on); give it, or leave the section elasticity out"
                )
    return recipe.model.base or f"{ORGANISM}:base"


def pretraining_rows(section: ElasticitySection, seed: int) -> list[dict[str, Any]]:
    """Rows that stand for pre-training in the elasticity probe."""
    if section.pretrain is None:
        check_drawn(section.texts, "elasticity.texts")
    else:
        return [dict(row.values) for row in read_rows(section.pretrain, section.texts)]
    from holdfast import organism
    from holdfast.organism.documents import pretraining_documents

    return pretraining_documents(organism.world(), section.texts, seed=seed + 1_000_003)
