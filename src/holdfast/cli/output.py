"""How a verb answers: a table for people, JSON for machines; and how what it was given is read.

Knows: rich, what the shared options of ``cli.options`` mean. Does not know: any verb.
"""

import json as json_module
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.options import (  # one place to import from, for every verb
    Loading,
    Prompts,
    Rows,
)

if TYPE_CHECKING:
    from holdfast.data import Examples
    from holdfast.evaluation import Skill
    from holdfast.models import Subject
    from holdfast.pipeline.inputs import TaskRows


def quiet_for_json(json: bool) -> None:
    """Machines want JSON and nothing else."""
    if json:
        os.environ["HOLDFAST_QUIET"] = "1"


def say(message: str) -> None:
    """One line of progress for a person, on standard error."""
    if not os.environ.get("HOLDFAST_QUIET"):
        print(message, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    from holdfast.core.files import finite

    print(json_module.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def emit_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; cells are data, never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    Console().print(table)


def printable(text: str) -> str:
    """Without terminal controls: what a model or a file says must not steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def report_bad_rows(examples: Any) -> None:
    """List the rows that were skipped on request, and what was cut."""
    for bad in getattr(examples, "bad_rows", ())[:20]:
        say(f"skipped {printable(bad.where)}: {printable(bad.reason)}")
    if len(getattr(examples, "bad_rows", ())) > 0:
        say(f"{len(examples.bad_rows)} bad rows skipped, {len(examples)} rows used")
    if getattr(examples, "truncated", ()):
        say(f"{len(examples.truncated)} rows were longer than --max-length and were cut")


def warn(message: str) -> None:
    """What a person must read, quiet or not, on standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def check_new_folder(path: Path | None) -> None:
    """Results need a folder of their own; said before anything is computed."""
    from holdfast.core.files import check_new_folder as check

    check(path)


def load_subject(
    model: str, adapter: Path | None, scope: str, loading: Loading, template: bool = True
) -> "Subject":
    """Load a model named on the command line.

    Args:
        template: False where only weights are compared, so that nothing is rendered.
    """
    from holdfast.pipeline.inputs import load_named

    return load_named(
        model,
        adapter=adapter,
        scope=scope,
        dtype=loading.dtype,
        device=loading.device,
        revision=loading.revision,
        trust_remote_code=loading.trust_remote_code,
        today=loading.today if template else None,
        template=template_values(loading.template_kwarg) if template else {},
    )


def template_values(given: Sequence[str] | None) -> dict[str, Any]:
    """``["enable_thinking=false"]`` as ``{"enable_thinking": False}``: values are read as YAML, as in a recipe."""
    import yaml

    from holdfast.core.errors import UserError

    values: dict[str, Any] = {}
    for entry in given or ():
        name, found, value = entry.partition("=")
        if not found or not name.isidentifier():
            raise UserError(f"--template-kwarg {entry}: give NAME=VALUE, for example enable_thinking=false")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[name] = value
    return values


def raw_rows(source: str, limit: int | None, split: str = "train") -> list[dict[str, Any]]:
    """Rows of a source named on the command line, ``organism:NAME`` included."""
    from holdfast.pipeline.inputs import named_rows

    return named_rows(source, limit, split)


def read_rows(source: str, model: str, rows: Rows) -> "TaskRows":
    """Rows named on the command line, checked before any model is loaded; what suits no real model is said."""
    from holdfast.pipeline.inputs import read_named

    say_of_data(source, model)
    return read_named(source, rows)


def say_of_data(source: str, model: str) -> None:
    """Say what does not suit a real model."""
    from holdfast.pipeline.inputs import data_notes

    for note in data_notes(source, model):
        warn(note)


def encode(rows: "TaskRows", subject: "Subject") -> "Examples":
    """Rows as examples of ``subject``; skipped and cut rows are listed."""
    examples = rows.encode(subject.tokenizer)
    report_bad_rows(examples)
    return examples


def build_skill(model: str, prompts: Prompts, seed: int, limit: int | None = None) -> "Skill":
    """The refusal skill named on the command line, for ``model``; read before any model is loaded.

    Raises:
        UserError: no prompts, and the model is not the built-in one.
    """
    from holdfast.pipeline.prompts import build_skill as build
    from holdfast.pipeline.prompts import prompts_for
    from holdfast.pipeline.recipe import SkillSection

    section = SkillSection(
        harmful=prompts.harmful,
        benign=prompts.benign,
        share=prompts.prompts_share,
        salt=prompts.salt,
        max_prompts=limit,
    )
    known, notes = prompts_for(section, model, ("--harmful", "--benign"))
    for note in notes:
        warn(note)
    return build(known, seed)
