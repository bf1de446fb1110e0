"""What a recipe points at, made concrete: model folder, skill, task rows, texts.

Knows: the ``organism:`` names, files and hub ids, how a user's rows become prompts with answers.
Does not know: stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from holdfast.core.errors import UserError
from holdfast.core.files import read_json, sha256_file, sha256_folder, sha256_text
from holdfast.data import BadRow, Examples, read_examples
from holdfast.data.sources import Row, read_rows
from holdfast.evaluation import Task
from holdfast.models import Subject, load
from holdfast.pipeline.recipe import ElasticitySection, Recipe, TaskSection

ORGANISM = "organism"
TOKENIZER = "tokenizer.json"
HELD_OUT_EVERY = 5
ORGANISM_ROWS = 2000


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
) -> Subject:
    """Load a model that a command line or a recipe names; its chat template is pinned if that is asked.

    Args:
        today: date for a chat template that writes one.
        template: further values for the chat template.

    Raises:
        UserError: as :func:`holdfast.models.load`.
    """
    source = model_source(model)
    subject = load(source, adapter, scope, dtype, device, revision, trust_remote_code)
    if (today or template) and subject.tokenizer is not None:
        from holdfast.data import pin_template

        pin_template(subject.tokenizer, today=today, kwargs=dict(template or {}))
    return subject


class Reading(Protocol):
    """How rows are read; the command line's options and a recipe's section both say it."""

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


@dataclass(frozen=True)
class TaskRows:
    """Rows that were read once and can be encoded for any tokenizer; errors name the user's file and line."""

    source: str
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    how: Reading

    def encode(self, tokenizer: Any) -> Examples:
        """As examples.

        Raises:
            UserError: a row that is none, no tokenizer.
        """
        if tokenizer is None:
            raise UserError(f"{self.source}: this model has no tokenizer, so text cannot be read")
        columns = {
            name: value
            for name in ("prompt_column", "completion_column")
            if (value := getattr(self.how, name)) is not None
        }
        skip = self.how.skip_bad_rows
        found = read_examples(list(self.rows), tokenizer, self.how.max_length, None, skip, **columns)
        found.bad_rows, found.source = (*self.bad, *found.bad_rows), self.source
        return found


def read_named(source: str, how: Reading, split: str = "train", seed: int = 0) -> TaskRows:
    """Read the rows of a file, a hub id or ``organism:NAME``.

    Raises:
        UserError: as :func:`named_rows`.
    """
    if source.startswith(f"{ORGANISM}:"):
        drawn = named_rows(source, how.limit, split, seed)
        rows = [Row(f"{source} row {number}", values, number) for number, values in enumerate(drawn)]
        return TaskRows(source, tuple(rows), (), how)
    bad: list[BadRow] = []
    rows = read_rows(source, how.limit, bad if how.skip_bad_rows else None)
    return TaskRows(source, tuple(rows), tuple(bad), how)


def data_notes(source: str | None, model: str) -> list[str]:
    """What must be said of rows that do not suit a model: the built-in ones are an invented language."""
    if source is None or not source.startswith(f"{ORGANISM}:") or is_organism(model):
        return []
    return [f"{source} holds sentences of an invented language: {model} learns nothing useful from them"]


def task_rows(section: TaskSection, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and held-out rows.

    A user's rows without a test file lose every fifth row to the held-out set. Of the organism's mixtures only
    the graded sources are tested: the rest is what comes along in such data.

    Raises:
        UserError: unreadable rows, unknown organism task, nothing left to train on.
    """
    if section.train.startswith(f"{ORGANISM}:"):
        train = named_rows(section.train, section.train_rows, "train", seed)
        return train, named_rows(section.train, section.test_rows, "test", seed)
    bad: list[Any] | None = [] if section.skip_bad_rows else None
    rows = [dict(row.values) for row in read_rows(section.train, section.train_rows, bad)]
    if section.test is not None:
        return rows, [dict(row.values) for row in read_rows(section.test, section.test_rows, bad)]
    held_out = rows[::HELD_OUT_EVERY][: section.test_rows]
    train = [row for k, row in enumerate(rows) if k % HELD_OUT_EVERY]
    if not train:
        raise UserError(f"task '{section.train}': {len(rows)} rows are too few to hold some out; give task.test")
    return train, held_out


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
    if split == "train":
        return organism.task_rows(name, "train", limit or ORGANISM_ROWS, seed)
    wanted = limit or ORGANISM_ROWS // 10
    drawn = organism.task_rows(name, split, 8 * wanted, seed)  # type: ignore[arg-type]  # str to Literal
    return [row for row in drawn if row["source"] in tasks[name].graded][:wanted]


def build_task(section: TaskSection, rows: Sequence[Mapping[str, Any]], examples: Sequence[Any]) -> Task:
    """The held-out task: prompts with answers where rows have them, and the loss on all examples."""
    pairs = (
        []
        if section.metric == "none"
        else [pair for row in rows if (pair := question_and_answer(row)) is not None]
    )
    return Task(
        "task",
        tuple(prompt for prompt, _ in pairs),
        tuple(answer for _, answer in pairs),
        metric="exact_match" if section.metric == "none" else section.metric,
        examples=tuple(examples),
        max_new_tokens=section.max_new_tokens,
    )


def question_and_answer(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Prompt and answer of a single-turn row; None for rows that only have a loss."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    turns = row.get("messages") or []
    if [turn.get("role") for turn in turns] == ["user", "assistant"]:
        return turns[0]["content"], turns[1]["content"]
    return None


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """What binds a run to its inputs: hashes of local files and folders, names of hub repositories."""
    sources = {
        "model": model_source(recipe.model.source),
        "base": model_source(recipe.model.base) if recipe.model.base else "",
        "harmful": recipe.skill.harmful,
        "benign": recipe.skill.benign,
        "train": recipe.task.train,
        "test": recipe.task.test or "",
    }
    return {name: _hash(source) for name, source in sources.items() if source}


def _hash(source: str | Sequence[str]) -> str:
    if not isinstance(source, str):
        return sha256_text("\n".join(source))
    path = Path(source)
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        return sha256_folder(path)
    return source


def pretraining_rows(section: ElasticitySection, seed: int) -> list[dict[str, Any]]:
    """Rows that stand for pre-training in the elasticity probe."""
    if section.pretrain is not None:
        return [dict(row.values) for row in read_rows(section.pretrain, section.texts)]
    from holdfast import organism
    from holdfast.organism.documents import pretraining_documents

    return pretraining_documents(organism.world(), section.texts, seed=seed + 1_000_003)
